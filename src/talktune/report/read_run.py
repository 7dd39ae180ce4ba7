"""A run: its directory, read. Updates, settings, figures, answers, a plot, the policy. Nothing here writes."""

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from talktune.errors import UserError
from talktune.rl.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from talktune.policy.load import Policy


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """What the policy answered to one prompt before and after the run."""

    prompt: str
    before: str
    after: str
    satisfied_before: bool | None = None
    satisfied_after: bool | None = None
    split: str = ""
    """What the prompt was for, such as `held-out` or `fact`."""


@dataclass(frozen=True)
class Run:
    """Everything that one run directory says.

    >>> run = read_run("run")
    >>> [update["update"] for update in run.metrics], len(run.series("reward_mean")[1])
    ([1.0], 1)
    >>> run.plot().savefig("run.png")
    """

    path: Path
    metrics: tuple[Mapping[str, float], ...]
    """One mapping an update, by rising `update`; a metric that was missing, null or not finite is absent.
    Text that is no metric is left out too."""
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    samples: tuple[AnswerPair, ...]
    notes: tuple[str, ...]
    """What the reader had to leave out, one sentence each."""

    def series(self, metric: str) -> tuple[list[float], list[float]]:
        """Return the update numbers at which `metric` was recorded, and its values there."""
        points = [(update["update"], update[metric]) for update in self.metrics if metric in update]
        return [x for x, _ in points], [y for _, y in points]

    def figures(self, when: Literal["before", "after"]) -> Mapping[str, Any]:
        """Return the summary's figures from before or after the run; empty where it has none."""
        figures = self.summary.get(when)
        return cast(dict[str, Any], figures) if isinstance(figures, dict) else {}

    def plot(self) -> "Figure":
        """Draw reward, answers before and after (or the objective), length, KL, entropy and clipping on one sheet.

        A notebook shows it; `savefig` writes it to a file.
        """
        from talktune.report.plots import summary_sheet

        return summary_sheet(self)

    @cached_property
    def policy(self) -> "Policy":
        """The model with the adapter that the run trained, loaded when it is first asked for.

        Raises UserError where the run has not ended yet, or trained all weights instead of an adapter.
        """
        from talktune.policy.load import Policy

        model = self.config.get("model", {})
        if not model.get("lora_rank", 1):
            raise UserError(f"{self.path / 'adapter'}: is a whole model and no adapter; load it with transformers.")
        return Policy.load(model.get("model", "smollm2"), self.path, device=model.get("device", "auto"))


def read_run(run_dir: Path | str) -> Run:
    """Read a run directory, as `train` and the demo write it.

    `metrics.jsonl` must hold at least one update; `config.toml`, `summary.json` and `samples.jsonl` may be
    missing (a run that still goes on has no summary). Only the last line of a JSONL file may be broken, as a
    crash leaves it; a note says so.

    Raises:
        UserError: the directory is not a run, holds no update yet, or one of its files is broken.

    >>> read_run("run").config["train"]["batch_turns"]
    16
    """
    run_dir = Path(run_dir)
    if not run_dir.exists():
        raise UserError(f"{run_dir} does not exist: give the directory that was --output of a run.")
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file: give the run directory that holds it.")
    metrics_file = run_dir / "metrics.jsonl"
    if not metrics_file.is_file():
        if (run_dir / "config.toml").is_file():
            raise UserError(f"{metrics_file} is missing: the run has not finished an update yet, train first.")
        raise UserError(f"{run_dir} is not a run directory (no metrics.jsonl): give --output of a run.")

    notes: list[str] = []
    updates = _read_updates(metrics_file, notes)
    if not updates:
        raise UserError(f"{metrics_file} holds no update: nothing to report until the run finishes one.")
    config_file, summary_file = run_dir / "config.toml", run_dir / "summary.json"
    if not config_file.is_file():
        notes.append("config.toml is missing, so the settings of this run are not known.")
    if not summary_file.is_file():
        notes.append("summary.json is missing: the run had not ended when this page was made.")
    return Run(
        path=run_dir,
        metrics=updates,
        config=_read_whole(config_file, "TOML", tomllib.loads),
        summary=_read_whole(summary_file, "JSON", json.loads),
        samples=_read_samples(run_dir / "samples.jsonl", notes),
        notes=tuple(notes),
    )


def _read_updates(file: Path, notes: list[str]) -> tuple[Mapping[str, float], ...]:
    by_number: dict[int, Mapping[str, float]] = {}
    not_finite: dict[str, list[int]] = {}
    repeated = 0
    for line, row in _read_jsonl(file, notes):
        number = row.get("update")
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UserError(f'{file} line {line}: "update" must be a number from 1 up, not {number!r}; mend that line.')
        values: dict[str, float] = {}
        for name, value in row.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                if name in METRICS and value is not None:
                    raise UserError(f'{file} line {line}: "{name}" must be a number or null, not {value!r}; mend it.')
            elif math.isfinite(value):
                values[name] = float(value)
            else:
                not_finite.setdefault(name, []).append(number)
        repeated += number in by_number
        by_number[number] = values  # after a resume the later line is the one whose weights were kept
    if repeated:
        notes.append(f"{_count(repeated, 'update')} ran again after a resume; the later figures are shown.")
    for name, numbers in not_finite.items():
        where = ", ".join(str(number) for number in numbers[:5]) + (", …" if len(numbers) > 5 else "")
        notes.append(f"{name} was not a finite number in {_count(len(numbers), 'update')} ({where}).")
    return tuple(by_number[number] for number in sorted(by_number))


def _read_samples(file: Path, notes: list[str]) -> tuple[AnswerPair, ...]:
    if not file.is_file():
        return ()
    pairs: list[AnswerPair] = []
    for line, row in _read_jsonl(file, notes):
        for name in ("prompt", "before", "after"):
            if not isinstance(row.get(name), str):
                raise UserError(f'{file} line {line}: "{name}" must be text; mend or remove that line.')
        for name in ("satisfied_before", "satisfied_after"):
            if row.get(name) not in (True, False, None):
                raise UserError(f'{file} line {line}: "{name}" must be true, false or null; mend that line.')
        satisfied = row.get("satisfied_before"), row.get("satisfied_after")
        pairs.append(AnswerPair(row["prompt"], row["before"], row["after"], *satisfied, str(row.get("split") or "")))
    return tuple(pairs)


def _read_jsonl(file: Path, notes: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """Return (line number from 1, object) for each line that is not blank."""
    lines = [(i, text) for i, text in enumerate(_read_bytes(file).split(b"\n"), start=1) if text.strip()]
    rows: list[tuple[int, dict[str, Any]]] = []
    for i, text in lines:
        try:
            value = json.loads(text)
        except ValueError as error:  # also what is not UTF-8
            if i == lines[-1][0]:
                notes.append(f"The last line of {file.name} is broken, as a crash leaves it, and was left out.")
                continue
            raise UserError(f"{file} line {i} is not valid JSON: mend or remove that line.") from error
        if not isinstance(value, dict):
            raise UserError(f"{file} line {i} is not a JSON object: mend or remove that line.")
        rows.append((i, cast(dict[str, Any], value)))
    return rows


def _read_whole(file: Path, kind: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Return the one JSON or TOML object of a file; nothing where there is no file."""
    if not file.is_file():
        return {}
    try:
        value = parse(_read_bytes(file).decode())
    except ValueError as error:  # also what is not UTF-8
        raise UserError(f"{file} is not valid {kind} ({error}): mend it, or remove it to report without it.") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} must hold one {kind} object: mend it, or remove it to report without it.")
    return cast(dict[str, Any], value)


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
