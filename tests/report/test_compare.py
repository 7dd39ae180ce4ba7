"""Runs beside each other: what differs, what came out, and a line for each in the plot."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from talktune.errors import UserError
from talktune.report.compare import compare
from talktune.store import schema
from talktune.store.store import Store

MakeRun = Callable[..., Path]


@pytest.fixture
def runs(make_run: MakeRun, tmp_path: Path) -> list[Path]:
    """Two runs of the same kind, of which the second is longer, has another learning rate and an exam."""
    made: list[Path] = []
    for name, updates in (("short", 4), ("long", 9)):
        run = make_run(updates=updates, live=True)
        made.append(run.rename(tmp_path / name))
        text = (made[-1] / "config.toml").read_text() + f"[train]\nlearning_rate = {updates / 1000}\nbatch_turns = 16\n"
        (made[-1] / "config.toml").write_text(text)
        summary: dict[str, Any] = {"turns": {"trained": updates * 16}}
        if name == "long":
            summary |= {"before": {"satisfaction": 0.0}, "after": {"satisfaction": 0.75}, "seconds": 60.0}
        (made[-1] / "summary.json").write_text(json.dumps(summary))
    return made


def test_the_table_says_what_differs_and_what_came_out(runs: list[Path]) -> None:
    found = compare(*map(str, runs))
    assert found.names == ("short", "long")
    rows = {row[0]: row[1:] for row in found.rows}
    assert rows["--learning-rate"] == ("0.004", "0.009")
    assert not {"--batch-turns", "--model"} & rows.keys(), "alike in both"
    assert rows["updates"] == ("4", "9")
    assert rows["turns to learn from"] == ("64", "144")
    assert rows["seconds in all"] == ("", "60")
    assert rows["satisfied, before → after"] == ("", "0 → 0.75")
    last = [row["reward_mean"] for row in found.runs[1].metrics[-3:]]
    assert float(rows["reward"][1]) == pytest.approx(sum(last) / 3, abs=0.01)
    assert str(found).splitlines()[0].split() == ["short", "long"]


def test_the_plot_has_a_line_for_each_run(runs: list[Path]) -> None:
    figure = compare(*runs, runs[0]).plot()
    figure.canvas.draw()
    for axes in figure.axes:
        assert len(axes.get_lines()) == 6, "a line and its points for each"
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [str(run) for run in (*runs, runs[0])]
    assert len({line.get_color() for line in legend.get_lines()}) == 3


def test_a_servers_store_is_a_run_too(runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    store = Store(file)
    with pytest.raises(UserError, match="no update yet"):
        compare(file, runs[0])
    with store.engine.begin() as c:
        for n in (1, 2):
            metrics = json.dumps({"reward_mean": n / 10, "kl_ref": 0.1, "seconds": 2.0})
            c.execute(insert(schema.updates).values(number=n, version=None, created=time.time(), metrics=metrics))
    store.close()
    found = compare(file, runs[0])
    rows = {row[0]: row[1:] for row in found.rows}
    assert rows["updates"] == ("2", "4")
    assert rows["reward"][0] == "0.15"
    assert rows["seconds of updates"][0] == "4"
    assert not any(name.startswith("--") for name in rows), "its settings are not known"
    assert "settings are not known" in found.notes[0]


def test_what_cannot_be_compared_is_named(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two or more"):
        compare(runs[0])
    with pytest.raises(UserError, match="nowhere does not exist"):
        compare(runs[0], tmp_path / "nowhere")


def test_the_command_prints_the_table_and_writes_the_plot(talktune: Any, runs: list[Path], tmp_path: Path) -> None:
    said = talktune("compare", *runs, "--output", tmp_path / "both.png")
    assert said.code == 0, said.err
    assert "--learning-rate" in said.out
    assert (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG"
    assert "two or more" in talktune("compare", runs[0]).sentence
