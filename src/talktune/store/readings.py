"""Readings of judged turns, for the preference model; bytes here, their meaning is the learner's.

Open it to see how long readings are kept.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from talktune.store import schema
from talktune.store.store import Store


@dataclass(frozen=True, slots=True)
class NewReadings:
    """What one update read."""

    lineage: str
    reader: str
    """Who made them; what another one made is of no use."""
    bodies: Sequence[tuple[str, bytes]]
    """By turn, in the order of the update."""
    keep: int
    """So many of the lineage's stay, the newest ones."""


@dataclass(frozen=True, slots=True)
class KeptReading:
    """A reading with the verdict that its turn has now."""

    turn: str
    update: int
    body: bytes
    reward: float
    wanted: bool = False
    """Whether the person said what the answer should have been."""


def add_readings(c: Connection, update: int, new: NewReadings) -> None:
    """Within the transaction of an update: what it read, in place of what was older than the last `keep`."""
    r = schema.readings
    c.execute(delete(r).where(r.c.turn.in_([turn for turn, _ in new.bodies])))
    rows = [
        {"turn": turn, "lineage": new.lineage, "update": update, "place": i, "reader": new.reader, "body": body}
        for i, (turn, body) in enumerate(new.bodies)
    ]
    if rows:
        c.execute(insert(r), rows)
    newest = select(r.c.turn).where(r.c.lineage == new.lineage).order_by(r.c.update.desc(), r.c.place.desc())
    old = c.execute(newest.offset(new.keep)).scalars().all()
    c.execute(delete(r).where(r.c.turn.in_(old)))


def read_before(store: Store, reader: str, turns: Collection[str]) -> set[str]:
    """Those of the turns that this reader has read."""
    r = schema.readings.c
    with store.reading() as c:
        return set(c.execute(select(r.turn).where(r.turn.in_(turns), r.reader == reader)).scalars())


def kept_readings(store: Store, lineage: str, reader: str) -> list[KeptReading]:
    """A lineage's readings in the order in which updates took the turns; a person's own word overrules a verdict."""
    r, v, f = schema.readings, schema.verdicts, schema.feedback
    joined = r.outerjoin(f, f.c.turn == r.c.turn).outerjoin(v, v.c.turn == r.c.turn)
    query = (
        select(r.c.turn, r.c.update, r.c.body, f.c.better, func.coalesce(f.c.score, v.c.reward).label("reward"))
        .select_from(joined)
        .where(r.c.lineage == lineage, r.c.reader == reader)
        .order_by(r.c.update, r.c.place)
    )
    with store.reading() as c:
        rows = c.execute(query).all()
    return [
        KeptReading(row.turn, row.update, bytes(row.body), row.reward, row.better is not None)
        for row in rows
        if row.reward is not None
    ]
