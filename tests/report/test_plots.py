"""The plots: real PNGs of the right size, for whole runs and for runs with holes."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from talktune.report.plots import (
    PANELS,
    comparable,
    draw_before_after,
    draw_panels,
    draw_summary,
    moving_average,
)
from talktune.report.read_run import Run, read_run
from talktune.rl.metrics import METRICS

MakeRun = Callable[..., Path]


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def has_colour(png: bytes, colour: str) -> bool:
    pixels = np.rint(imread(io.BytesIO(png), format="png")[..., :3] * 255).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((abs(pixels - wanted).max(axis=-1) <= 1).any())


@given(st.lists(st.floats(-1e6, 1e6), max_size=30), st.integers(0, 6))
def test_a_moving_average_stays_between_its_values(values: list[float], half: int) -> None:
    smooth = moving_average(values, 2 * half + 1)
    assert len(smooth) == len(values)
    for i, value in enumerate(smooth):
        window = values[max(0, i - half) : i + half + 1]
        assert min(window) - 1e-6 <= value <= max(window) + 1e-6
    if half == 0:
        assert smooth == values


def test_a_moving_average_by_hand() -> None:
    assert moving_average([0.0, 3.0, 6.0, 0.0], 3) == [1.5, 3.0, 3.0, 3.0]


def test_panels_show_only_metrics_that_exist() -> None:
    shown = [metric for panel in PANELS for metric in panel.metrics()]
    assert set(shown) <= set(METRICS)
    assert len(shown) == len(set(shown))
    assert len({panel.name for panel in PANELS}) == len(PANELS)


def test_every_panel_of_a_whole_run_is_drawn(make_run: MakeRun) -> None:
    run = read_run(make_run())
    drawn = dict(draw_panels(run))
    assert list(drawn) == list(PANELS)
    for panel, png in drawn.items():
        assert size(png)[0] >= 900
        for strip in panel.strips:
            assert has_colour(png, strip.lines[0].colour), panel.name


def test_a_panel_without_points_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"update": 1, "kl_ref": 0.1}\n{"update": 2, "kl_ref": null}\n')
    assert [panel.name for panel, _ in draw_panels(read_run(tmp_path))] == ["kl"]


def test_the_summary_needs_no_figures(make_run: MakeRun, tmp_path: Path) -> None:
    whole = draw_summary(read_run(make_run(updates=1)))
    (tmp_path / "metrics.jsonl").write_text('{"update": 1}\n')
    empty = draw_summary(read_run(tmp_path))
    assert size(whole) == size(empty)
    assert has_colour(whole, "#0072B2")
    assert not has_colour(empty, "#0072B2")


@pytest.mark.parametrize("value", [float("nan"), None, "many", True])
def test_only_finite_numbers_are_compared(make_run: MakeRun, value: object) -> None:
    run_dir = make_run(updates=1)
    before, after = (
        {"satisfaction": 0.2, "kl": value, "a_$b$": 1},
        {"satisfaction": 0.4, "kl": 1, "a_$b$": 2.5},
    )
    (run_dir / "summary.json").write_text(json.dumps({"before": before, "after": after}))
    run = read_run(run_dir)
    assert comparable(run) == ({"satisfaction": (0.2, 0.4)}, {"a_$b$": (1.0, 2.5)})
    assert size(draw_before_after(run) or b"")[0] >= 900


@pytest.mark.parametrize("draw", [draw_before_after, draw_summary])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_no_legend_lies_over_bars(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, draw: Callable[[Run], Any], share: float
) -> None:
    monkeypatch.setattr("talktune.report.plots.png", lambda figure: figure)
    run_dir = make_run()
    both = {"satisfaction": share, "facts_kept": share, "distinct_answers": share, "answer_tokens": 41.0, "kl": 0.3}
    (run_dir / "summary.json").write_text(json.dumps({"before": both, "after": both}))
    figure = draw(read_run(run_dir))
    figure.canvas.draw()
    checked = 0
    for axes in figure.axes:
        if axes.containers and (legend := axes.get_legend()):
            bars = [*axes.patches, *axes.texts]
            checked += len(bars)
            box = legend.get_window_extent()
            assert not any(box.overlaps(bar.get_window_extent()) for bar in bars)
            assert not box.overlaps(axes.title.get_window_extent()) or not axes.get_title()
    assert checked == 12  # six bars, each with its number


def test_without_figures_there_are_no_bars(make_run: MakeRun) -> None:
    assert draw_before_after(read_run(make_run(updates=1, live=True))) is None
