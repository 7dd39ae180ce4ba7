"""Whether anything changed since the last look, in one query whose cost does not grow with the store."""

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
    version: int
    candidates: int
    """Versions that are at the gate."""
    live: tuple[tuple[str, int | None, str], ...]
    """Of each lineage: the version that serves, and why learning is stopped."""
    update: int


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
        select(func.max(v.number)).scalar_subquery().label("version"),
        select(func.count()).where(v.state == "candidate").scalar_subquery().label("candidates"),
        select(func.max(schema.updates.c.number)).scalar_subquery().label("update"),
        *(part.scalar_subquery().label(f"turn_{i}") for i, part in enumerate(parts)),
    ]
    with store.reading() as c:
        row = c.execute(select(*columns)).one()
        live = tuple((r.name, r.live, r.stopped) for r in c.execute(select(s.name, s.live, s.stopped).order_by(s.name)))
    return Latest(
        turns={user: row[5 + i] for i, user in enumerate(names)},
        judged=max(row.verdict or 0.0, row.feedback or 0.0),
        version=row.version or 0,
        candidates=row.candidates,
        live=live,
        update=row.update or 0,
    )
