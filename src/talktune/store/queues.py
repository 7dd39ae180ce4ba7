"""The queue of turns that wait for a judge, and leases: the sole right to do something.

Open it to see who may judge a turn, and for how long: `Judging`, `lease`.

A turn waits for the judge once its conversation went on behind it, and for the learner once it has a reward. Rows
are written in the transaction of what caused them and deleted in the transaction of what was made of them: whoever
is killed at whatever moment, each turn is judged once and is part of an update once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update

from talktune.store import schema
from talktune.store.enqueue import queue_for_learning
from talktune.store.owners import is_gone, owner_name
from talktune.store.store import Store
from talktune.types import Turn, Verdict

CLAIM_SECONDS = 24.0
"""A claim runs out after so long: whoever had it, and renewed it all the time while at work, is taken for dead."""
RENEW_SECONDS = CLAIM_SECONDS / 4


def lease(store: Store, name: str, owner: str, seconds: float = CLAIM_SECONDS) -> bool:
    """Take or renew the sole right to do something; False while somebody else has it.

    A holder whose process could be seen from here, and is gone, has it no more. The database's time counts.
    """
    q = schema.leases.c
    with store.engine.begin() as c:
        now = store.now(c)
        held = c.execute(select(q.owner).where(q.name == name)).scalar()
        free = [owner] if held is None or not is_gone(held) else [owner, held]
        values = {"name": name, "owner": owner, "until": now + seconds}
        return store.put(c, schema.leases, values, where=or_(q.owner.in_(free), q.until <= now))


def holder(store: Store, name: str) -> str | None:
    """Who has the sole right to do something now, if anybody."""
    q = schema.leases.c
    with store.reading() as c:
        return c.execute(select(q.owner).where(q.name == name, q.until > store.now(c))).scalar()


@dataclass(frozen=True, slots=True)
class Claimed:
    """A turn that this process has claimed to judge."""

    id: str
    turn: Turn


class Judging:
    """The queue of turns that wait for a verdict, the oldest first."""

    def __init__(self, store: Store, owner: str | None = None) -> None:
        """`owner` is this process by default."""
        self._store = store
        self._owner = owner or owner_name()

    def waiting(self) -> int:
        """How many turns wait, claimed ones included."""
        with self._store.reading() as c:
            return c.execute(select(func.count()).select_from(schema.judging)).scalar() or 0

    def claim(self, limit: int, seconds: float = CLAIM_SECONDS, *, newest: bool = False) -> list[Claimed]:
        """Take up to `limit` turns, the oldest or newest; one that has no next state after all leaves the queue."""
        j = schema.judging
        with self._store.engine.begin() as c:
            now = self._store.now(c)
            owners = c.execute(select(j.c.owner).where(j.c.owner.is_not(None)).distinct()).scalars()
            gone = [owner for owner in owners if owner is not None and is_gone(owner)]
            free: list[ColumnElement[bool]] = [j.c.owner.is_(None), j.c.until <= now, j.c.owner.in_(gone)]
            order = (j.c.created.desc(), j.c.turn.desc()) if newest else (j.c.created, j.c.turn)
            query = select(j.c.turn).where(j.c.after <= now, or_(*free)).order_by(*order).limit(limit)
            ids = list(c.execute(query.with_for_update(skip_locked=True)).scalars())
            c.execute(update(j).where(j.c.turn.in_(ids)).values(owner=self._owner, until=now + seconds))
        turns = self._store.turns(ids) if ids else {}
        ready = [Claimed(id, turns[id]) for id in ids if id in turns and turns[id].next_state]
        known = {claimed.id for claimed in ready}
        self._drop([id for id in ids if id not in known])
        return ready

    def renew(self, ids: Sequence[str], seconds: float = CLAIM_SECONDS) -> bool:
        """Renew claims that are at work; False where none belongs to this process any more."""
        j = schema.judging
        with self._store.engine.begin() as c:
            mine = update(j).where(j.c.turn.in_(ids), j.c.owner == self._owner)
            return c.execute(mine.values(until=self._store.now(c) + seconds)).rowcount > 0

    def settle(self, id: str, verdict: Verdict, cost: float, now: float) -> bool:
        """Write the votes and the reward of a claimed turn; False when it is no longer this process's, or forgotten.

        `cost` is in seconds, of all votes together.
        """
        assert verdict.reward is not None
        t, j = schema.turns.c, schema.judging
        with self._store.engine.begin() as c:
            if c.execute(delete(j).where(j.c.turn == id, j.c.owner == self._owner)).rowcount != 1:
                return False
            row = c.execute(select(t.user, t.conversation).where(t.id == id)).one()
            c.execute(delete(schema.votes).where(schema.votes.c.turn == id))
            votes = [
                {
                    "turn": id,
                    "number": i,
                    "label": vote.label,
                    "confidence": vote.confidence,
                    "judge": vote.judge,
                    "reason": vote.reason,
                    "cost": cost / len(verdict.votes),
                    "created": now,
                }
                for i, vote in enumerate(verdict.votes)
            ]
            if votes:
                c.execute(insert(schema.votes), votes)
            c.execute(insert(schema.verdicts).values(turn=id, reward=verdict.reward, created=now))
            queue_for_learning(c, id, row.user, row.conversation, now)
        return True

    def give_back(self, ids: Sequence[str]) -> None:
        """Return turns to the queue as if nobody had tried, because the judge is down."""
        j = schema.judging
        with self._store.engine.begin() as c:
            c.execute(update(j).where(j.c.turn.in_(ids), j.c.owner == self._owner).values(owner=None, until=0.0))

    def postpone(self, id: str) -> None:
        """Put back a turn on which the judge has no verdict: it waits twice as long each time, and lets others pass."""
        j = schema.judging
        with self._store.engine.begin() as c:
            tries = c.execute(select(j.c.tries).where(j.c.turn == id)).scalar() or 0
            after = self._store.now(c) + 2.0 ** min(tries, 12)
            later = {"owner": None, "until": 0.0, "tries": tries + 1, "after": after}
            c.execute(update(j).where(j.c.turn == id, j.c.owner == self._owner).values(**later))

    def _drop(self, ids: Sequence[str]) -> None:
        j = schema.judging
        if ids:
            with self._store.engine.begin() as c:
                c.execute(delete(j).where(j.c.turn.in_(ids), j.c.owner == self._owner))
