"""Checkpoints that survive being killed: each is there as a whole or not at all.

Open it to see what a resumed run reads.

`state.json` and safetensors: the weights and the optimizer's state by their names. One process writes one file, ranks
write one each of what they hold (torch.distributed.checkpoint), and any number of ranks reads what any other wrote.
"""

import json
import shutil
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from talktune.errors import UserError
from talktune.files import whole_folder
from talktune.learner.ranks import Ranks
from talktune.learner.update import Learner
from talktune.rl.advantage import RunningBaseline

FILE = "tensors.safetensors"
WEIGHTS, OPTIMIZER = "weights/", "optimizer/"
"""How the names of tensors begin: `weights/NAME`, `optimizer/KEY/NAME`."""
KEYS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter; the first is one number."""


def save_checkpoint(learner: Learner, folder: Path, metrics: dict[str, Any], keep: int) -> Path:
    """Write `folder/update-000017` with everything a resumed run needs; the oldest beyond `keep` go."""
    target = write_checkpoint(learner, folder / f"update-{learner.update:06d}", metrics)
    if learner.ranks.first:
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return target


def write_checkpoint(learner: Learner, target: Path, metrics: dict[str, Any]) -> Path:
    """Write one checkpoint as `target`, all of it or nothing, on the disk when this returns."""
    tensors: dict[str, Tensor] = {WEIGHTS + name: p.detach() for name, p in learner.trained.items()}
    for name, p in learner.trained.items():
        tensors |= {f"{OPTIMIZER}{key}/{name}": kept for key, kept in learner.optimizer.state.get(p, {}).items()}
    state = {"update": learner.update, "running": asdict(learner.running), "metrics": metrics}
    with _shared_folder(target, learner.ranks) as partial:
        if learner.ranks.count > 1:
            _save_share(tensors, partial)
        else:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial / FILE)
        if learner.ranks.first:
            (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(folder.glob("update-*"))


def is_ours(path: Path) -> bool:
    """Whether there is a checkpoint in today's form; an older talktune pickled the optimizer."""
    return (path / "state.json").exists() and not (path / "optimizer.pt").exists()


def load_checkpoint(learner: Learner, path: Path) -> dict[str, Any]:
    """Put a checkpoint's weights and state into `learner`; returns the metrics of its last update."""
    if path.exists() and not is_ours(path):
        raise UserError(f"{path}: the checkpoint was written by an older talktune; start a new run.")
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        reader = HuggingFaceStorageReader(str(path))
        there = reader.read_metadata().state_dict_metadata.keys()
        if {name for name in there if name.startswith(WEIGHTS)} != {WEIGHTS + name for name in learner.trained}:
            raise UserError(f"{path}: the checkpoint is of another model or adapter; start a new run.")
        kept = {p: _kept(name, p, there) for name, p in learner.trained.items()}
        tensors = {WEIGHTS + name: p.detach() for name, p in learner.trained.items()}
        for name, p in learner.trained.items():
            tensors |= {f"{OPTIMIZER}{key}/{name}": tensor for key, tensor in kept[p].items()}
        with warnings.catch_warnings():  # that it is one process
            warnings.simplefilter("ignore", UserWarning)
            load(tensors, storage_reader=reader, no_dist=learner.ranks.count == 1)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, CheckpointException) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: the checkpoint cannot be read ({reason}); delete it to resume earlier.") from error
    learner.optimizer.state.clear()
    learner.optimizer.state.update({p: found for p, found in kept.items() if found})
    learner.update = state["update"]
    learner.running = RunningBaseline(**state["running"])
    return state["metrics"]


def _kept(name: str, parameter: Tensor, there: Any) -> dict[str, Tensor]:
    """Room for what the optimizer keeps of a parameter, as far as the checkpoint has it."""
    keys = [key for key in KEYS if f"{OPTIMIZER}{key}/{name}" in there]
    return {key: torch.zeros(()) if key == "step" else torch.zeros_like(parameter.detach()) for key in keys}


def _save_share(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write what this rank holds of some tensors; all ranks have to."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(tensors, storage_writer=writer)
    except CheckpointException as error:  # which is no Exception
        raise RuntimeError(str(error)) from error


@contextmanager
def _shared_folder(target: Path, ranks: Ranks) -> Generator[Path]:
    """As `whole_folder`: the first rank makes it, all of them write into it, and it is there for all of them then."""
    with ExitStack() as stack:
        partial = ranks.of_first(lambda: stack.enter_context(whole_folder(target)))
        yield partial
        ranks.gather(())  # all have written
        ranks.of_first(stack.close)
