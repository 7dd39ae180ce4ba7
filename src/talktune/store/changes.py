"""Tells whether anything changed since the last look, in one query whose cost does not grow with the store.

Open it when something new should wake the page.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, select

from talktune.store import schema
from talktune.store.store import Store


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest of everything."""

    turns: dict[str, str | None]
    """The last turn of each user who was asked for."""
    judged: float
    """When the last verdict was given, by the judge or a person."""
    versions: dict[str, tuple[int, int, int]]
    """Of each lineage: the newest version, how many are at the gate, and the last update that made one."""
    live: tuple[tuple[str, int | None, str], ...]
    """Of each lineage: the version that serves, and why learning is stopped."""
    update: int
    """The last, whether it made a version or not."""


def last_verdict(store: Store) -> float:
    """When the last verdict was given, by the judge or a person; 0 where none was."""
    times = [select(func.max(table.c.created)).scalar_subquery() for table in (schema.verdicts, schema.feedback)]
    with store.reading() as c:
        return max(at or 0.0 for at in c.execute(select(*times)).one())


def latest(store: Store, users: Collection[str]) -> Latest:
    """Look."""
    t, v, s = schema.turns.c, schema.versions.c, schema.lineages.c
    names = sorted(users)
    parts = [
        select(t.id).where(t.user == user, t.kind == "main").order_by(t.created.desc(), t.id.desc()).limit(1)
        for user in names
    ]
    columns = [
        select(func.max(schema.verdicts.c.created)).scalar_subquery().label("verdict"),
        select(func.max(schema.feedback.c.created)).scalar_subquery().label("feedback"),
        select(func.max(schema.updates.c.number)).scalar_subquery().label("update"),
        *(part.scalar_subquery().label(f"turn_{i}") for i, part in enumerate(parts)),
    ]
    at_gate = func.count().filter(v.state == "candidate")
    made = select(v.lineage, func.max(v.number), at_gate, func.max(schema.updates.c.number)).group_by(v.lineage)
    made = made.select_from(schema.versions).outerjoin(schema.updates)
    with store.reading() as c:
        row = c.execute(select(*columns)).one()
        live = tuple((r.name, r.live, r.stopped) for r in c.execute(select(s.name, s.live, s.stopped).order_by(s.name)))
        versions = {name: (number, waiting, update or 0) for name, number, waiting, update in c.execute(made)}
    return Latest(
        turns={user: row[3 + i] for i, user in enumerate(names)},
        judged=max(row.verdict or 0.0, row.feedback or 0.0),
        versions=versions,
        live=live,
        update=row.update or 0,
    )
