"""What a run directory says, and which sentence a broken one gets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from talktune.errors import UserError
from talktune.report.read_run import read_run

MakeRun = Callable[..., Path]


def test_a_whole_run_is_read(make_run: MakeRun) -> None:
    run = read_run(make_run(updates=5))
    assert [row["update"] for row in run.metrics] == [1, 2, 3, 4, 5]
    assert run.config["algorithm"]["eps_high"] == 0.28
    assert run.figures("before")["satisfaction"] == 0.1
    assert run.figures("after")["answer_tokens"] == 18.4
    assert run.samples[0].satisfied_before is False
    assert run.samples[-1].split == "fact"
    assert run.samples[-1].satisfied_after is None
    assert run.notes == ()


def test_missing_and_null_metrics_leave_gaps(tmp_path: Path) -> None:
    lines = [
        '{"update": 1, "kl_ref": 0.5}',
        "",
        '{"update": 2, "kl_ref": null}',
        '{"update": 3, "kl_ref": 2}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    run = read_run(tmp_path)
    assert run.series("kl_ref") == ([1, 3], [0.5, 2.0])
    assert run.series("entropy") == ([], [])


def test_a_run_that_still_goes_on_is_noted(make_run: MakeRun) -> None:
    run = read_run(make_run(updates=2, live=True))
    assert run.summary == {}
    assert run.samples == ()
    assert run.figures("before") == {}
    assert [note.split(" ")[0] for note in run.notes] == ["summary.json"]


@pytest.mark.parametrize("torn", [b'{"update": 3, "lo', b'{"update": 3, "lo\n', b"\x00\x00\x00", b'{"a": "\xc3'])
def test_only_a_torn_last_line_is_left_out(make_run: MakeRun, torn: bytes) -> None:
    run_dir = make_run(updates=2)
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    run = read_run(run_dir)
    assert len(run.metrics) == 2
    assert len(run.notes) == 1
    assert "last line of metrics.jsonl" in run.notes[0]


def test_a_broken_line_inside_names_file_and_line(make_run: MakeRun) -> None:
    run_dir = make_run(updates=3)
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = lines[1][:20]
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2 is not valid JSON"):
        read_run(run_dir)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[1, 2]", "line 1 is not a JSON object"),
        ("{}", '"update" must be a number from 1 up, not None'),
        ('{"update": 0}', '"update" must be a number from 1 up, not 0'),
        ('{"update": true}', '"update" must be a number from 1 up, not True'),
        ('{"update": 1, "loss": "low"}', "\"loss\" must be a number or null, not 'low'"),
    ],
)
def test_a_line_that_is_no_update_is_refused(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"update": 9}}\n')
    with pytest.raises(UserError) as caught:
        read_run(tmp_path)
    assert sentence in str(caught.value)


def test_text_that_is_no_metric_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"update": 1, "time": "noon", "loss": 1}\n')
    assert dict(read_run(tmp_path).metrics[0]) == {"update": 1.0, "loss": 1.0}


def test_numbers_that_are_not_finite_are_gaps_with_a_note(tmp_path: Path) -> None:
    rows = [{"update": i, "loss": float("nan") if i > 1 else 0.5} for i in range(1, 9)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(tmp_path)
    assert run.series("loss") == ([1], [0.5])
    assert "loss was not a finite number in 7 updates (2, 3, 4, 5, 6, …)." in run.notes


def test_the_later_of_two_equal_updates_counts(tmp_path: Path) -> None:
    lines = ['{"update": 1, "loss": 1}', '{"update": 2, "loss": 2}', '{"update": 2, "loss": 3}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    run = read_run(tmp_path)
    assert run.series("loss") == ([1, 2], [1.0, 3.0])
    assert any("1 update ran again after a resume" in note for note in run.notes)


def test_what_is_no_run_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"not a run directory \(no metrics\.jsonl\)"):
        read_run(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UserError, match="has not finished an update yet"):
        read_run(tmp_path)
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n\n")
    with pytest.raises(UserError, match="holds no update"):
        read_run(tmp_path)
    file.write_text('{"update": 1, "los')
    with pytest.raises(UserError, match="holds no update"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        read_run(file)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("summary.json", "{", "is not valid JSON"),
        ("summary.json", "[]", "must hold one JSON object"),
        ("config.toml", "a = = 1", "is not valid TOML"),
        ("samples.jsonl", '{"prompt": "p", "before": "b"}\n', 'line 1: "after" must be text'),
        (
            "samples.jsonl",
            '{"prompt": "p", "before": "b", "after": "a", "satisfied_after": "yes"}\n',
            '"satisfied_after" must be true, false or null',
        ),
    ],
)
def test_other_broken_files_get_a_sentence(make_run: MakeRun, name: str, text: str, sentence: str) -> None:
    run_dir = make_run(updates=1)
    (run_dir / name).write_text(text)
    with pytest.raises(UserError) as caught:
        read_run(run_dir)
    assert sentence in str(caught.value)
    assert name in str(caught.value)
