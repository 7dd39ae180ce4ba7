"""Checkpoints that survive being killed: each is there as a whole or not at all."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from talktune.errors import UserError
from talktune.files import whole_folder
from talktune.learner.update import Learner
from talktune.rl.advantage import RunningBaseline


def save_checkpoint(learner: Learner, folder: Path, metrics: dict[str, Any], keep: int) -> Path:
    """Write `folder/update-000017` with everything a resumed run needs; the oldest beyond `keep` go."""
    target = write_checkpoint(learner, folder / f"update-{learner.update:06d}", metrics)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def write_checkpoint(learner: Learner, target: Path, metrics: dict[str, Any]) -> Path:
    """Write one checkpoint as `target`, all of it or nothing, on the disk when this returns."""
    with whole_folder(target) as partial:
        weights = {n: p.detach().cpu().contiguous() for n, p in learner.trained.items()}
        save_file(weights, partial / "weights.safetensors")
        torch.save(learner.optimizer.state_dict(), partial / "optimizer.pt")
        state = {"update": learner.update, "running": asdict(learner.running), "metrics": metrics}
        (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(folder.glob("update-*"))


def load_checkpoint(learner: Learner, path: Path) -> dict[str, Any]:
    """Put a checkpoint's weights and state into `learner`; returns the metrics of its last update."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        weights = load_file(path / "weights.safetensors")
        optimizer = torch.load(path / "optimizer.pt", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, UnpicklingError) as error:
        raise UserError(f"{path}: the checkpoint cannot be read ({error}); delete it to resume earlier.") from error
    if weights.keys() != learner.trained.keys():
        raise UserError(f"{path}: the checkpoint is of another model or adapter; start a new run.")
    with torch.no_grad():
        for name, parameter in learner.trained.items():
            parameter.copy_(weights[name])
    learner.optimizer.load_state_dict(optimizer)
    learner.update = state["update"]
    learner.running = RunningBaseline(**state["running"])
    return state["metrics"]
