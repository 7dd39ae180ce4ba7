"""The versions of the policy: which there are, what the gate said, which one serves whom.

Open it to see how a version goes live: `Policies.decide`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, false, func, insert, select, update

from talktune.errors import UserError
from talktune.store import schema
from talktune.store.notes import Note, add_note, notes
from talktune.store.store import Store

EVERYBODY = ""
"""The lineage of all users together."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version as the store knows it."""

    number: int
    parent: int | None
    lineage: str
    path: Path
    state: Literal["candidate", "published", "rejected"]
    reason: str
    measures: Mapping[str, Any]
    metrics: Mapping[str, float]
    created: float
    pruned: bool = False
    """Whether its files are gone."""

    @property
    def name(self) -> str:
        """What people call it; engines have another name for it (`Policies.engine_name`)."""
        return version_name(self.number)


def version_name(number: int) -> str:
    """policy-000017: the name of its directory, and what clients call it."""
    return f"policy-{number:06d}"


def ancestry(number: int | None, parents: Mapping[int, int | None]) -> list[int]:
    """A version and its ancestors, newest first."""
    chain: list[int] = []
    while number is not None:
        chain.append(number)
        number = parents[number]
    return chain


class Policies:
    """The versions of a store and the live one of each lineage."""

    def __init__(self, store: Store) -> None:
        """Of this store."""
        self._store = store

    def engine_name(self, number: int) -> str:
        """tt-3f9a-000017: what engines load a version under; the store's own name is in it."""
        return f"{self.engine_prefix}{number:06d}"

    @property
    def engine_prefix(self) -> str:
        """What the names of this store's versions begin with in engines."""
        return f"tt-{self._store.name}-"

    def live(self, lineage: str = EVERYBODY) -> Version | None:
        """The version that serves this lineage; None for the model as it was."""
        v, s = schema.versions, schema.lineages.c
        query = _select().join(schema.lineages, s.live == v.c.number).where(s.name == lineage)
        with self._store.reading() as c:
            row = c.execute(query).first()
        return None if row is None else _version(row)

    def lives(self) -> dict[str, Version]:
        """The version that serves each lineage which has one."""
        s = schema.lineages.c
        query = _select().add_columns(s.name.label("serves")).join(schema.lineages, s.live == schema.versions.c.number)
        with self._store.reading() as c:
            return {row.serves: _version(row) for row in c.execute(query)}

    def versions(self, lineage: str | None = None) -> list[Version]:
        """All of them, or a lineage's, oldest first."""
        query = _select().order_by(schema.versions.c.number)
        if lineage is not None:
            query = query.where(schema.versions.c.lineage == lineage)
        with self._store.reading() as c:
            return [_version(row) for row in c.execute(query)]

    def visible(self, lineage: str) -> list[Version]:
        """The versions that a lineage may know of: its own and everybody's, oldest first."""
        return [one for one in self.versions() if one.lineage in (lineage, EVERYBODY)]

    def version(self, number: int) -> Version:
        """The version of this number; UserError when there is none."""
        with self._store.reading() as c:
            row = c.execute(_select().where(schema.versions.c.number == number)).first()
        if row is None:
            raise UserError(f"There is no version {number}; `talktune policies list` shows those that there are.")
        return _version(row)

    def parents(self) -> dict[int, int | None]:
        """The parent of every version."""
        v = schema.versions.c
        with self._store.reading() as c:
            return {row.number: row.parent for row in c.execute(select(v.number, v.parent))}

    def last_number(self) -> int:
        """The number of the newest version; 0 when there is none."""
        with self._store.reading() as c:
            return c.execute(select(func.max(schema.versions.c.number))).scalar() or 0

    def candidates(self) -> list[Version]:
        """Versions that the gate has not seen yet."""
        with self._store.reading() as c:
            return [_version(row) for row in c.execute(_select().where(schema.versions.c.state == "candidate"))]

    def lineages(self) -> dict[str, tuple[int | None, str]]:
        """The live version of each lineage, and why its learning is stopped (empty while it goes on)."""
        s = schema.lineages.c
        with self._store.reading() as c:
            return {row.name: (row.live, row.stopped) for row in c.execute(select(s.name, s.live, s.stopped))}

    def decide(self, number: int, reasons: Sequence[str], measures: Mapping[str, Any]) -> bool:
        """Settle a candidate by the gate's reasons: published and live where there are none, else rejected.

        A candidate whose parent is not live any more (somebody rolled back meanwhile) is rejected, too. What is no
        candidate any more stays as it is: somebody else has decided. Returns whether the version is live.
        """
        v = schema.versions
        with self._store.engine.begin() as c:
            lineage = c.execute(select(v.c.lineage).where(v.c.number == number)).scalar_one()
            live = self._lock(c, lineage)
            row = c.execute(select(v).where(v.c.number == number)).one()
            if row.state != "candidate":
                return live == number
            reasons = list(reasons)
            if live != row.parent:
                reasons.append("it was made from a version that is not live any more")
            state = "rejected" if reasons else "published"
            values = {"state": state, "reason": "; ".join(reasons), "measures": json.dumps(dict(measures))}
            c.execute(update(v).where(v.c.number == number).values(**values))
            if not reasons:
                _set(c, lineage, live=number)
        return not reasons

    def adopt(self, number: int, path: Path, reason: str, now: float) -> None:
        """Publish a version that no update made, and make it live for everybody."""
        new = {"number": number, "parent": None, "lineage": EVERYBODY, "path": str(path), "state": "published"}
        with self._store.engine.begin() as c:
            self._lock(c, EVERYBODY)
            c.execute(insert(schema.versions).values(**new, reason=reason, measures="{}", created=now))
            _set(c, EVERYBODY, live=number)

    def promote(self, number: int, note: Note | None = None) -> Version:
        """Make a version live, whatever the gate said, and let learning go on from it; UserError for a candidate.

        `note` says why.
        """
        lineage = self.version(number).lineage
        with self._store.engine.begin() as c:
            self._lock(c, lineage)
            _refuse_pruned(c, number)
            wanted = _version(c.execute(_select().where(schema.versions.c.number == number)).one())
            if wanted.state == "candidate":
                raise UserError(f"Version {number} is at the gate right now; wait until it is published or rejected.")
            _set(c, lineage, live=number, stopped="")
            add_note(c, lineage, number, note)
        return wanted

    def rollback(self, lineage: str = EVERYBODY, note: Note | None = None) -> Version | None:
        """Go back to the version before the live one (None: the model as it was); UserError when there is none.

        `note` says why.
        """
        v = schema.versions.c
        with self._store.engine.begin() as c:
            live = self._lock(c, lineage)
            if live is None:
                whose = f" of {lineage}" if lineage else ""
                raise UserError(f"The model{whose} serves as it was: there is nothing to go back from.")
            parent = c.execute(select(v.parent).where(v.number == live)).scalar_one()
            if parent is not None:
                _refuse_pruned(c, parent)
            _set(c, lineage, live=parent, stopped="")
            add_note(c, lineage, parent, note)
        return None if parent is None else self.version(parent)

    def notes(self, lineage: str, limit: int = 20) -> list[Note]:
        """What was written of promotions and roll-backs in a lineage, newest first."""
        return notes(self._store, lineage, limit)

    def stop(self, lineage: str, reason: str) -> None:
        """Stop the learning of this lineage until a version is promoted or rolled back by hand."""
        with self._store.engine.begin() as c:
            self._lock(c, lineage)
            _set(c, lineage, stopped=reason)

    def _lock(self, c: Connection, lineage: str) -> int | None:
        """The live version of a lineage, which is this transaction's alone to change until it ends."""
        s = schema.lineages
        self._store.put(c, s, {"name": lineage, "live": None, "stopped": ""}, where=false())
        return c.execute(select(s.c.live).where(s.c.name == lineage).with_for_update()).scalar()


def _refuse_pruned(c: Connection, number: int) -> None:
    v = schema.versions.c
    if c.execute(select(v.pruned).where(v.number == number).with_for_update()).scalar() is not None:
        raise UserError(f"The files of version {number} were removed as old; --keep-versions keeps more of them.")


def _select() -> Any:
    v, u = schema.versions, schema.updates
    return select(v, u.c.metrics).select_from(v).outerjoin(u, u.c.version == v.c.number)


def _version(row: Any) -> Version:
    return Version(
        row.number,
        row.parent,
        row.lineage,
        Path(row.path),
        row.state,
        row.reason,
        json.loads(row.measures),
        json.loads(row.metrics or "{}"),
        row.created,
        row.pruned is not None,
    )


def _set(c: Connection, lineage: str, **values: Any) -> None:
    c.execute(update(schema.lineages).where(schema.lineages.c.name == lineage).values(**values))
