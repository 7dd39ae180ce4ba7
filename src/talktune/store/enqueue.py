"""Turns start to wait: for the judge once their conversation went on, for the learner once they have a reward.

Each function is called within the transaction of what makes a turn wait. Who takes them is in `queues.py` and
`learning.py`.
"""

import hashlib
from collections.abc import Sequence

from sqlalchemy import Connection, Insert, bindparam, insert, literal, select, update

from talktune.store import schema

BUCKETS = 100
"""Conversations are spread over this many buckets, of which the first ones are held out from training."""


def bucket(conversation: str) -> int:
    """The bucket of a conversation, 0 … 99, by its id alone."""
    return int.from_bytes(hashlib.sha256(conversation.encode()).digest()[:4], "big") % BUCKETS


def queue_for_judging(c: Connection, turns: Sequence[str]) -> None:
    """Queue turns whose conversation went on: those that are main, complete and not judged yet wait for the judge.

    One that is claimed right now waits anew: its judge may have found that nothing had followed yet.
    """
    c.execute(_WAITS_ANEW, {"ids": turns})
    c.execute(_WAITS, {"ids": turns})


def _waits() -> Insert:
    t = schema.turns.c
    done = [select(table.c.turn) for table in (schema.verdicts, schema.feedback, schema.judging)]
    new = select(t.id, t.created, literal(0.0), literal(0), literal(0.0)).where(
        t.id.in_(_IDS), t.kind == "main", t.state == "complete", *(t.id.not_in(one) for one in done)
    )
    return insert(schema.judging).from_select(["turn", "created", "after", "tries", "until"], new)


_IDS = bindparam("ids", expanding=True)
_WAITS = _waits()
_WAITS_ANEW = (
    update(schema.judging)
    .where(schema.judging.c.turn.in_(_IDS), schema.judging.c.owner.is_not(None))
    .values(owner=None, until=0.0)
)


def queue_for_learning(c: Connection, turn: str, user: str, conversation: str, at: float) -> None:
    """Queue a turn that has a reward now for the learner, unless it waits already or was learned from."""
    q, u = schema.learning, schema.update_turns
    waits = c.execute(select(q.c.turn).where(q.c.turn == turn)).scalar()
    if waits is None and c.execute(select(u.c.turn).where(u.c.turn == turn)).first() is None:
        c.execute(insert(q).values(turn=turn, user=user, bucket=bucket(conversation), created=at, uses=0))
