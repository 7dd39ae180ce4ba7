"""The course: its experiments in order, and how one is run and kept on disk."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from talktune.config import LabConfig
from talktune.errors import UserError
from talktune.files import whole_file
from talktune.lab.experiment import Experiment, Finding
from talktune.report.plots import png

NAMES = (
    "voting",
    "advantages",
    "overlong",
    "clip",
    "training",
    "summary",
    "dynamic-clip",
    "weighted-voting",
    "judge-quality",
    "group-size",
    "biased-judge",
    "fresh-answers",
    "ablation",
    "memory",
)
"""Every experiment, in the order in which the course tells them; each is a module of this package."""


def find_experiment(name: str) -> Experiment:
    """The experiment of that name; UserError when there is none."""
    if name not in NAMES:
        raise UserError(f"There is no experiment {name!r}: choose one of {', '.join(NAMES)}, or all.")
    return import_module(f"talktune.lab.{name.replace('-', '_')}").EXPERIMENT


def run_experiment(name: str, config: LabConfig, output: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure one experiment, write `NAME.png` and `NAME.json` into `output`, and return what the JSON holds."""
    found = find_experiment(name).run(config, say)
    result = _result(name, config, found)
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    # The JSON last: an interrupted run is never taken for a finished one.
    for kind, data in (("png", png(found.figure)), ("json", text.encode())):
        with whole_file(output / f"{name}.{kind}") as file:
            file.write(data)
    return result


def kept_result(name: str, config: LabConfig, output: Path) -> dict[str, Any] | None:
    """What an earlier run with the same options left in `output`; `None` when it has to be measured."""
    try:
        result = json.loads((output / f"{name}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(result, dict) and result.get("experiment") == name and result.get("options") == asdict(config)
    return result if same and (output / f"{name}.png").is_file() else None


def make_output(output: Path) -> None:
    """Make the directory of the results; UserError when that cannot be."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be made ({error.strerror}); give a directory to write to."
        ) from error


def _result(name: str, config: LabConfig, found: Finding) -> dict[str, Any]:
    result: Mapping[str, Any] = {
        "experiment": name,
        "options": asdict(config),
        "conclusion": found.conclusion,
        "columns": list(found.columns),
        "rows": [[str(cell) for cell in row] for row in found.rows],
        "numbers": found.numbers,
    }
    return json.loads(json.dumps(result))  # as it will be read: tuples are lists, keys are strings
