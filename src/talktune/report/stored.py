"""What a server learned, read from its store as if it were a run directory."""

import math
from pathlib import Path
from typing import Any

from talktune.errors import UserError
from talktune.report.read_run import Run
from talktune.store.opening import open_store
from talktune.store.overview import overview
from talktune.store.reactions import reactions

ALL = 1_000_000
"""More updates than a store holds."""


def read_store(where: Path | str) -> Run:
    """Read the updates of all users from a store.

    Before and after are the shares of the first and of the last answers that were liked, no exam on held-out
    questions; settings are not kept there. Raises UserError where there is no store, or nothing was learned yet.
    """
    store = open_store(where)
    try:
        found, heard = overview(store, ALL), reactions(store, None)
    finally:
        store.close()
    metrics = tuple(
        {name: float(value) for name, value in row.items() if isinstance(value, int | float) and math.isfinite(value)}
        for row in found["last_updates"]
    )
    if not metrics:
        raise UserError(f"{where}: holds no update yet; `talktune status` says what the next one waits for.")
    summary: dict[str, Any] = {"turns": {"trained": found["learned"]}}
    if len(heard.points) > 1:
        summary |= {"before": {"liked": heard.points[0].share}, "after": {"liked": heard.points[-1].share}}
    return Run(
        path=Path(where),
        metrics=metrics,
        config={},
        summary=summary,
        samples=(),
        notes=(f"{where} is a server's store: its settings are not known.",),
    )
