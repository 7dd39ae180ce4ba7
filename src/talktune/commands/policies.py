"""`talktune policies`: versions in a store, from the command line."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from talktune.commands.console import out, table, warn
from talktune.commands.options import AsJson, Store
from talktune.config import Natural
from talktune.errors import UserError
from talktune.serve.keys import LOCAL_USER
from talktune.store.opening import open_store
from talktune.terminal import say

if TYPE_CHECKING:
    from talktune.store.notes import Note
    from talktune.store.policies import Policies, Version

Remark = Annotated[str, Parameter(name="note", help="Why, for those who look later.")]
Number = Annotated[Natural, Parameter(help="The version's number.")]


@contextmanager
def _policies(store: str) -> "Generator[Policies]":
    from talktune.store.policies import Policies

    opened = open_store(store)
    try:
        yield Policies(opened)
    finally:
        opened.close()


def list_versions(*, store: Store = "talktune.db", as_json: AsJson = False) -> int:
    """All versions: which is live, which was rejected, and why."""
    from talktune.store.policies import version_name

    with _policies(store) as policies:
        lineages, versions = policies.lineages(), policies.versions()
        notes = [note for name in lineages for note in policies.notes(name)]
    live = {number for number, _ in lineages.values()}
    if as_json:
        say(json.dumps([_row(version, version.number in live) for version in versions]))
        return 0
    rows = [
        (
            version.name,
            "live" if version.number in live else version.state + (", files gone" if version.pruned else ""),
            "" if version.parent is None else version.parent,
            version.lineage or "everybody",
            _reward(version),
            _when(version.created),
            version.reason,
        )
        for version in versions
    ]
    table("Versions", ("version", "state", "parent", "of", "reward", "made", "reason"), rows)
    for note in sorted(notes, key=lambda one: one.created):
        to = "the model as it was" if note.version is None else version_name(note.version)
        warn(f"{_when(note.created)} to {to}: {note.text}")
    for name, (number, stopped) in lineages.items():
        if number is None:
            warn(f"{name or 'Everybody'}: the model serves as it was.")
        if stopped:
            warn(f"{name or 'Everybody'}: learning is stopped ({stopped}); promote a version or roll back to go on.")
    return 0


def show(number: Number, /, *, store: Store = "talktune.db") -> int:
    """One version: where it is, what the gate saw, the metrics of its update."""
    with _policies(store) as policies:
        live = {found for found, _ in policies.lineages().values()}
        out.print_json(json.dumps(_row(policies.version(number), number in live)), ensure_ascii=True)
    return 0


def promote(number: Number, /, *, store: Store = "talktune.db", note: Remark = "") -> int:
    """Make a version live from the next request on, whatever the gate said; learning goes on from it."""
    with _policies(store) as policies:
        version = policies.promote(number, _note(note))
    say(f"{version.name} serves {version.lineage or 'everybody'} from the next request on.")
    return 0


def rollback(*, store: Store = "talktune.db", user: str | None = None, note: Remark = "") -> int:
    """Go back to the version before the live one from the next request on; learning goes on from it.

    Parameters
    ----------
    user
        With --per-user: whose version.
    """
    with _policies(store) as policies:
        version = policies.rollback(user or "", _note(note))
    name = "the model as it was" if version is None else version.name
    say(f"{name} serves {user or 'everybody'} from the next request on.")
    return 0


def _note(text: str) -> "Note":
    from talktune.store.notes import MOST_LETTERS, Note

    if len(text) > MOST_LETTERS:
        raise UserError(f"--note has {len(text)} letters: it may have {MOST_LETTERS}.")
    return Note(text, LOCAL_USER, time.time())


def _row(version: "Version", live: bool) -> dict[str, Any]:
    return {
        "number": version.number,
        "name": version.name,
        "state": version.state,
        "live": live,
        "parent": version.parent,
        "user": version.lineage or None,
        "reason": version.reason,
        "path": str(version.path),
        "pruned": version.pruned,
        "created": version.created,
        "gate": dict(version.measures),
        "metrics": dict(version.metrics),
    }


def _reward(version: "Version") -> str:
    reward = version.metrics.get("reward_mean")
    return "" if reward is None else f"{reward:+.2f}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%m-%d %H:%M:%S")
