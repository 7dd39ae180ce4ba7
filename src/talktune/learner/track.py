"""The metrics of each update in TensorBoard, Weights & Biases or trackio, where `--track` asks for it.

Open it to add a tracker.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

from talktune.config import Config, Tracker
from talktune.errors import UserError

log = logging.getLogger(__name__)
PROJECT = "talktune"


class Track:
    """One run of a tracker; without one (None) it does nothing. A tracker that fails later on stops no training."""

    def __init__(self, tracker: Tracker | None, folder: Path, config: Config, first: int = 1) -> None:
        """Begin a run, or go on with that of the same folder, behind update `first` − 1; the config is told.

        TensorBoard's files are in `folder`, those of the others where these put them. UserError where it cannot begin.
        """
        self._name = tracker
        self._run: Any = None
        name = f"{folder.resolve().name}-{blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()}"
        try:
            if tracker == "tensorboard":
                from torch.utils.tensorboard import SummaryWriter

                self._run = SummaryWriter(str(folder / "tensorboard"), purge_step=first)
                rows = [f"    {key} = {value}" for key, value in _flat(config).items()]
                self._run.add_text("config", "\n".join(rows))  # four spaces are Markdown's code block
            elif tracker is not None:  # the two have one interface
                own = {"dir": str(folder), "id": name} if tracker == "wandb" else {}
                init = import_module(tracker).init
                self._run = init(project=PROJECT, name=name, config=_flat(config), resume="allow", **own)
        except Exception as error:  # no login, no network, a folder that cannot be written
            raise UserError(f"--track {tracker}: it cannot begin ({_first_line(error)}).") from error

    def log(self, update: int, metrics: Mapping[str, Any]) -> None:
        """Send the numbers of one update to the tracker."""
        if self._run is None:
            return
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if name != "update" and isinstance(value, int | float) and math.isfinite(value)
        }
        try:
            if self._name == "tensorboard":
                for name, value in numbers.items():
                    self._run.add_scalar(name, value, update)
                self._run.flush()
            else:
                self._run.log(numbers, step=update)
        except Exception as error:
            log.warning("--track %s: update %d is not in it (%s)", self._name, update, _first_line(error))

    def close(self) -> None:
        """End the tracker's run; what was sent is kept."""
        if self._run is None:
            return
        try:
            self._run.close() if self._name == "tensorboard" else self._run.finish()
        except Exception as error:
            log.warning("--track %s: it did not end as it should (%s)", self._name, _first_line(error))


def _flat(config: Config) -> dict[str, Any]:
    """`section.option`: all but addresses, which may hold passwords, and the server's own options."""
    tree = {name: part for name, part in asdict(config).items() if part is not None and name != "serve"}
    return {
        f"{section}.{name}": value if isinstance(value, int | float | str) else str(value)
        for section, options in tree.items()
        for name, value in options.items()
        if value is not None and name not in ("judge_url", "notify", "track")
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".") or type(error).__name__
