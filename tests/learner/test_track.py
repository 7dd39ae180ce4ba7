"""Trackers: what TensorBoard is told of a run, really written and read; what is missing is one sentence."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from talktune.config import Config, LiveConfig, ServeConfig, TrainConfig, check_config
from talktune.errors import UserError
from talktune.learner.track import Track

SECRET = "hunter2"
CONFIG = Config(
    train=TrainConfig(batch_turns=7),
    serve=ServeConfig(store=f"postgresql://ann:{SECRET}@db/talks"),
    live=LiveConfig(notify=f"https://hooks.example.org/{SECRET}"),
)


def written(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 4)) for event in written(folder).Scalars(name)]


@pytest.mark.filterwarnings("ignore")  # of tensorboard's own libraries
def test_tensorboard_is_told_the_config_and_every_update(tmp_path: Path) -> None:
    track = Track("tensorboard", tmp_path, CONFIG)
    track.log(1, {"update": 1, "loss": 0.5, "grad_norm": float("nan"), "note": "text"})
    assert scalars(tmp_path, "loss") == [(1, 0.5)], "at once, not at the end"
    track.log(2, {"update": 2, "loss": 0.25})
    track.log(3, {"update": 3, "loss": 9.0})
    track.close()
    again = Track("tensorboard", tmp_path, CONFIG, first=3)  # update 3 was lost in a crash, and is done again
    again.log(3, {"update": 3, "loss": 0.125})
    again.close()
    found = written(tmp_path)
    assert scalars(tmp_path, "loss") == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert found.Tags()["scalars"] == ["loss"]
    [text] = found.Tensors("config/text_summary")[-1].tensor_proto.string_val
    assert "train.batch_turns = 7" in text.decode()
    assert SECRET not in text.decode()


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    track = Track(None, tmp_path, CONFIG)
    track.log(1, {"loss": 0.5})
    track.close()
    assert not list(tmp_path.iterdir())


def test_what_is_missing_or_cannot_begin_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talktune.config.check.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--track wandb: its package is missing; install it with `pip install wandb`"):
        check_config(Config(train=TrainConfig(track="wandb")))
    monkeypatch.setitem(sys.modules, "trackio", None)  # as if it were not installed
    with pytest.raises(UserError, match="--track trackio: it cannot begin"):
        Track("trackio", tmp_path, CONFIG)


def test_a_folder_that_a_tracker_left_is_not_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="--track wandb: its package is missing"):
        check_config(Config(train=TrainConfig(track="wandb")).train)


@pytest.mark.filterwarnings("ignore")
def test_a_tracker_that_fails_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    track = Track("tensorboard", tmp_path, CONFIG)
    track.close()
    (tmp_path / "tensorboard").rename(tmp_path / "gone")
    (tmp_path / "tensorboard").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        track.log(1, {"loss": 0.5})
    assert "--track tensorboard: update 1 is not in it" in caplog.text
