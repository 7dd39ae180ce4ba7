"""The queue of verdicts for the learner, and the transaction that commits an update.

Open it to see what makes an update count once: `Learning.commit`.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import case, delete, func, insert, select, update

from talktune.store import schema
from talktune.store.queues import CLAIM_SECONDS, holder, lease
from talktune.store.readings import NewReadings, add_readings
from talktune.store.store import Store
from talktune.types import Turn

LEASE = "learner"


@dataclass(frozen=True, slots=True)
class Scored:
    """A turn with its reward that waits for an update, or was held out."""

    id: str
    user: str
    created: float
    """When its verdict was given."""
    turn: Turn


@dataclass(frozen=True, slots=True)
class Waiting:
    """The waiting turns of one user, in numbers."""

    count: int
    since: float
    """Since when the oldest of them does."""
    held_out: int
    """Turns with a verdict that are kept from training."""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """The version that an update made."""

    number: int
    parent: int | None
    lineage: str
    path: str


class LostLeaseError(Exception):
    """Another process learns now, or learned from these turns already: what was computed is void."""


class Learning:
    """The queue of turns for the learner, the oldest verdict first. `holdout` buckets (of 100) are never in it."""

    def __init__(self, store: Store, holdout: int = 0) -> None:
        """`holdout` is the number of buckets that are kept from training."""
        self._store = store
        self._holdout = holdout

    def waiting(self) -> dict[str, Waiting]:
        """The waiting and held-out turns of each user, in numbers."""
        q = schema.learning.c
        free = q.bucket >= self._holdout
        query = select(
            q.user,
            func.count(case((free, 1))).label("waiting"),
            func.count(case((~free, 1))).label("held_out"),
            func.min(case((free, q.created))).label("since"),
        )
        with self._store.reading() as c:
            rows = c.execute(query.group_by(q.user))
            return {row.user: Waiting(row.waiting, row.since or 0.0, row.held_out) for row in rows}

    def oldest(self, users: Mapping[str, int], limit: int) -> list[Scored]:
        """The first `limit` turns by their verdicts, at most so many of each user."""
        q = schema.learning.c
        with self._store.reading() as c:
            rows: list[Any] = []
            for user, most in users.items():
                query = select(q.turn, q.user, q.created).where(q.user == user, q.bucket >= self._holdout)
                rows += c.execute(query.order_by(q.created, q.turn).limit(most))
        rows.sort(key=lambda row: (row.created, row.turn))
        return self._with_turns(rows[:limit])

    def held_out(self, users: Sequence[str], before: float, limit: int) -> list[Scored]:
        """The last `limit` held-out turns of these users with a verdict not newer than `before`, oldest first."""
        q = schema.learning.c
        query = select(q.turn, q.user, q.created).where(
            q.user.in_(users), q.bucket < self._holdout, q.created <= before
        )
        with self._store.reading() as c:
            rows = c.execute(query.order_by(q.created.desc(), q.turn.desc()).limit(limit)).all()
        return self._with_turns(list(reversed(rows)))

    def drop(self, turns: Mapping[str, str]) -> None:
        """Take turns that no update can use out of the queue; the reason is given for each of them, and counted."""
        q, d = schema.learning.c, schema.dropped
        with self._store.engine.begin() as c:
            waits = c.execute(select(q.turn).where(q.turn.in_(list(turns))).with_for_update()).scalars().all()
            c.execute(delete(schema.learning).where(q.turn.in_(waits)))
            for why, count in Counter(turns[turn][:200] for turn in waits).items():
                more = update(d).where(d.c.why == why).values(turns=d.c.turns + count)
                if c.execute(more).rowcount == 0:
                    c.execute(insert(d).values(why=why, turns=count))

    def hold(self, owner: str) -> None:
        """Take or renew the learner's lease; raises LostLeaseError while another process has it."""
        if not lease(self._store, LEASE, owner):
            raise LostLeaseError

    def holder(self) -> str | None:
        """Who has the learner's lease, if anybody."""
        return holder(self._store, LEASE)

    def commit(
        self,
        owner: str,
        made: NewVersion | None,
        metrics: Mapping[str, float],
        used: Sequence[str],
        uses: int,
        now: float,
        readings: NewReadings | None = None,
        advantages: Mapping[str, float] | None = None,
        place: Callable[[], None] | None = None,
    ) -> None:
        """Commit one update: its turns, metrics and readings, and its version, a candidate where something was learned.

        `advantages` are those of its turns. `place` puts the version's files where the row says that they are: it is
        called last, while nobody else can have the lease, and what it raises undoes all of it.

        A turn leaves the queue when it was part of `uses` updates, else it goes to the end. Raises LostLeaseError when
        this process does not hold the learner's lease, when a turn does not wait any more, or when there is a
        version of that number already.
        """
        q, held = schema.learning, schema.leases
        with self._store.engine.begin() as c:
            holder = c.execute(select(held.c.owner).where(held.c.name == LEASE).with_for_update()).scalar()
            if holder != owner:
                raise LostLeaseError
            c.execute(update(held).where(held.c.name == LEASE).values(until=self._store.now(c) + CLAIM_SECONDS))
            left = {row.turn: row.uses for row in c.execute(select(q.c.turn, q.c.uses).where(q.c.turn.in_(used)))}
            if len(left) != len(used):
                raise LostLeaseError
            again = [turn for turn, had in left.items() if had + 1 < uses]
            c.execute(update(q).where(q.c.turn.in_(again)).values(uses=q.c.uses + 1, created=now))
            c.execute(delete(q).where(q.c.turn.in_([turn for turn in used if turn not in again])))
            if made is not None:
                v = schema.versions.c.number
                if c.execute(select(v).where(v == made.number)).first() is not None:
                    raise LostLeaseError
                new = asdict(made) | {"state": "candidate", "reason": "", "measures": "{}", "created": now}
                c.execute(insert(schema.versions).values(**new))
            number = (c.execute(select(func.max(schema.updates.c.number))).scalar() or 0) + 1
            values = {"version": None if made is None else made.number, "metrics": json.dumps(dict(metrics))}
            c.execute(insert(schema.updates).values(number=number, created=now, **values))
            known = advantages or {}
            rows = [{"update": number, "turn": turn, "advantage": known.get(turn)} for turn in used]
            c.execute(insert(schema.update_turns), rows)
            if readings is not None:
                add_readings(c, number, readings)
            if place is not None:
                place()

    def _with_turns(self, rows: Sequence[Any]) -> list[Scored]:
        turns = self._store.turns([row.turn for row in rows]) if rows else {}
        return [Scored(row.turn, row.user, row.created, turns[row.turn]) for row in rows if row.turn in turns]


def quotas(counts: Mapping[str, int], n: int, share: float) -> dict[str, int]:
    """How many of each user's waiting turns the next update of at most `n` may take.

    Where several users wait, nobody has more than `share` of what it takes; a user alone is everybody.
    """
    if len(counts) < 2 or n * share < 1:
        return {user: min(n, count) for user, count in counts.items()}
    most = {user: min(int(n * share), count) for user, count in counts.items()}
    while (total := sum(most.values())) < n:
        user = max(most, key=lambda one: most[one])
        if most[user] <= share * total:
            break
        most[user] -= 1
    return most
