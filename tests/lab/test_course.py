"""What holds for every experiment, on one small run of the course."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from talktune.config import LabConfig
from talktune.errors import UserError
from talktune.lab import course as lab_course
from talktune.lab.course import NAMES, find_experiment, kept_result, make_output, run_experiment

Results = dict[str, dict[str, Any]]


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_leaves_table_numbers_and_picture(name: str, course: Path, results: Results) -> None:
    result = results[name]
    assert result["experiment"] == name
    assert result["options"] == {"seed": 0, "seeds": 1, "updates": 20, "trials": 400}
    assert result["rows"]
    assert all(len(row) == len(result["columns"]) for row in result["rows"])
    assert any(character.isdigit() for character in result["conclusion"])
    assert result["numbers"]
    data = (course / f"{name}.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 800
    assert height >= 300


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_told_whole(name: str) -> None:
    experiment = find_experiment(name)
    for text in (experiment.title, experiment.idea, experiment.formula, experiment.look_at):
        assert text
    assert "https://" in experiment.source


def test_axes_are_labelled() -> None:
    for name in ("voting", "advantages", "overlong", "clip", "weighted-voting"):
        found = find_experiment(name).run(LabConfig(trials=200), lambda what: None)
        assert found.figure.axes
        for axes in found.figure.axes:
            assert axes.get_xlabel()
            assert axes.get_ylabel()


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"'vothing': choose one of voting, advantages, .*memory, or all"):
        find_experiment("vothing")


def test_a_result_is_kept_for_the_same_options_only(tmp_path: Path) -> None:
    config = LabConfig(trials=200)
    made = run_experiment("overlong", config, tmp_path, lambda what: None)
    assert kept_result("overlong", config, tmp_path) == made
    assert kept_result("overlong", LabConfig(trials=201), tmp_path) is None
    (tmp_path / "overlong.png").unlink()
    assert kept_result("overlong", config, tmp_path) is None
    (tmp_path / "clip.json").write_text("{ broken")
    assert kept_result("clip", config, tmp_path) is None


def test_an_interrupted_run_is_not_taken_for_a_finished_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LabConfig(trials=200)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lab_course, "png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_experiment("overlong", config, tmp_path, lambda what: None)
    assert kept_result("overlong", config, tmp_path) is None


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path, results: Results) -> None:
    config = LabConfig(seeds=1, updates=20, trials=400)
    for name in ("voting", "clip", "advantages"):
        again = run_experiment(name, config, tmp_path, lambda what: None)
        assert json.dumps(again) == json.dumps(results[name])


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output .*cannot be made"):
        make_output(tmp_path / "file" / "below")
