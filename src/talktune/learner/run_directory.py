"""A training run in its directory: update after update, each with a checkpoint and a line of metrics.

Open it to see what a run writes, and how one is resumed.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tomli_w
from torch import Tensor

from talktune.config import Config
from talktune.errors import UserError
from talktune.files import unwritable, whole_file, whole_folder
from talktune.learner.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from talktune.learner.ranks import whole_tensor
from talktune.learner.track import Track
from talktune.learner.update import Learner
from talktune.policy.adapter import save_adapter
from talktune.types import Sample

Source = Callable[[int], tuple[Sequence[Sample], dict[str, float]]]
"""The samples of update n (from 1), and metrics that only their maker knows. Must depend on n and the
policy's weights alone, so that a resumed run sees what the killed one would have seen."""


def open_run(path: Path, config: Config, *, resume: bool) -> None:
    """Make the run directory and write `config.toml`, or check that the one there is of the same config.

    A directory whose run ended before it made anything (a model that was not found, say) may be used again.
    Raises UserError when the directory holds a run and `resume` is off, when it cannot be written, or when
    the configs differ.
    """
    wanted = config_to_toml(replace(config, train=replace(config.train, track=None)))  # it decides no result
    there = path / "config.toml"
    try:
        begun = path.exists() and (not path.is_dir() or any(p.is_dir() or p.stat().st_size for p in _others(path)))
        if begun and resume and there.exists():
            if (was := there.read_text(encoding="utf-8")) != wanted:
                raise UserError(f"{there}: the run was started with other options ({_difference(was, wanted)}).")
            return
        if begun:
            way = "it holds no run; give" if resume else "add --resume to go on with it, or give"
            raise UserError(f"{path}: already exists; {way} another --output.")
        path.mkdir(parents=True, exist_ok=True)
        with whole_file(there) as file:
            file.write(wanted.encode())
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written ({error.strerror}).") from error


def _others(path: Path) -> list[Path]:
    """What is in a run directory besides its options."""
    return [p for p in path.iterdir() if not p.name.removeprefix(".").startswith("config.toml")]


def run_updates(
    learner: Learner,
    source: Source,
    run: Path,
    *,
    fresh: Source | None = None,
    on_update: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Run the updates that are left of `learner.total_updates`, then write `adapter/`.

    The loop is the pipeline: samples of this update, `fresh` ones beside them, one step, checkpoint, metrics. A run
    that was killed goes on behind its newest checkpoint and ends with the weights of one that was not.
    """
    resume_from(learner, run)
    log = run / "metrics.jsonl"
    track = learner.config.train.track if learner.ranks.first else None
    with closing(Track(track, run, learner.config, learner.update + 1)) as told:
        while learner.update < learner.total_updates:
            samples, extra = source(learner.update + 1)
            beside, more = ((), {}) if fresh is None else fresh(learner.update + 1)
            learner.hear_probe(more)
            metrics = {"update": learner.update + 1} | learner.step(samples, beside) | extra | more
            save_checkpoint(learner, run / "checkpoints", metrics, learner.config.train.keep_checkpoints)
            if learner.ranks.first:
                _add_line(log, metrics)
            told.log(learner.update, metrics)
            if on_update is not None:
                on_update(metrics)
    write_adapter(learner, run / "adapter")


def resume_from(learner: Learner, run: Path) -> None:
    """Load the newest checkpoint, if there is one, and make `metrics.jsonl` end exactly there."""
    newest = learner.ranks.of_first(lambda: checkpoints(run / "checkpoints")[-1:])
    last = load_checkpoint(learner, newest[0]) if newest else None
    learner.ranks.of_first(lambda: _end_log(run / "metrics.jsonl", learner.update, last))


def _end_log(log: Path, update: int, last: dict[str, Any] | None) -> None:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    kept = [line for line in lines if _update_of(line) < update]
    if last is not None:
        kept.append(json.dumps(last))
    with whole_file(log) as file:
        file.writelines(f"{line}\n".encode() for line in kept)


def _add_line(log: Path, metrics: dict[str, Any]) -> None:
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
    except OSError as error:
        raise unwritable(log, error) from error


def write_adapter(learner: Learner, path: Path) -> None:
    """Write the trained adapter (or, at rank 0, the whole model) as `path`, all of it or nothing."""
    weights: dict[str, Tensor] = {}
    if learner.ranks.count > 1:
        for name, parameter in learner.trained.items():
            tensor = whole_tensor(parameter.detach())  # one at a time: a GPU may not hold them all
            if learner.ranks.first:
                weights[name] = tensor.cpu()
    learner.ranks.of_first(lambda: _write_weights(learner, weights or None, path))


def _write_weights(learner: Learner, weights: dict[str, Tensor] | None, path: Path) -> None:
    with whole_folder(path) as partial:
        if learner.config.model.lora_rank:
            save_adapter(learner.model, partial, weights)
        else:
            learner.model.save_pretrained(str(partial), state_dict=weights)


def config_to_toml(config: Config) -> str:
    """The config tree as TOML; options without a value are left out."""
    tree = {
        section: {name: _plain(value) for name, value in options.items() if value is not None}
        for section, options in asdict(config).items()
        if options is not None
    }
    return tomli_w.dumps(tree)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _update_of(line: str) -> float:
    try:
        return json.loads(line)["update"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # torn by a crash: not kept


def _difference(was: str, wanted: str) -> str:
    changed = set(was.splitlines()) ^ set(wanted.splitlines())
    return "; ".join(sorted(line for line in changed if line and not line.startswith("[")))
