"""Finds turns by marks of their answers, for a request whose history its client has changed.

Open it to see which turns such a request may continue.
"""

import json
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, literal, select

from talktune.conversations.messages import message_from_dict
from talktune.store import schema
from talktune.store.rows import MarkedTurn

FEW = 24
"""More turns than this under one mark tell nothing by it alone."""
MOST_CHILDREN = 200
MOST_ABOVE = 64
"""Side turns in a row: a summary is made in one request, or in a few."""

_COLUMNS = tuple(
    schema.turns.c[name]
    for name in ("id", "conversation", "parent", "kind", "mark", "continued", "created", "messages", "answer")
)


class MarkedTurns:
    """A user's turns, or those of one conversation, over one connection for reading."""

    def __init__(self, connection: Connection, user: str, conversation: str | None = None) -> None:
        self._c = connection
        t = schema.turns.c
        self._conversation = conversation
        self._whose: ColumnElement[bool] = t.user == user if conversation is None else t.conversation == conversation

    def answered(self, marks: Collection[bytes], asked: bytes | None = None) -> list[MarkedTurn] | None:
        """Turns with one of these marks (and of what they answer); None where there are too many."""
        t = schema.turns.c
        where = [t.mark.in_(list(marks))] + ([] if asked is None else [t.asked == asked])
        return self._few(where) if marks else []

    def asked(self, asked: bytes | None) -> list[MarkedTurn] | None:
        """Turns that were asked this; None where there are too many."""
        return [] if asked is None else self._few([schema.turns.c.asked == asked])

    def sides(self, marks: Collection[bytes]) -> list[MarkedTurn]:
        """The newest side turns with one of these marks."""
        if not marks:
            return []
        t = schema.turns.c
        query = select(*_COLUMNS).where(self._whose, t.mark.in_(list(marks)), t.kind == "side")
        return [_marked_turn(row) for row in self._c.execute(query.order_by(t.created.desc()).limit(FEW))]

    def main_above(self, turn: MarkedTurn) -> MarkedTurn | None:
        """The nearest main turn that a side turn goes on behind; None where there is none."""
        above = self.with_ancestors([turn], MOST_ABOVE)
        found: MarkedTurn | None = turn
        while found is not None and found.kind == "side":
            found = above.get(found.parent or "")
        return found

    def children(self, ids: Iterable[str]) -> list[MarkedTurn]:
        """The turns that go on behind some."""
        t = schema.turns.c
        query = select(*_COLUMNS).where(t.parent.in_(list(ids))).order_by(t.created.desc()).limit(MOST_CHILDREN)
        return [_marked_turn(row) for row in self._c.execute(query)]

    def with_ancestors(self, candidates: Iterable[MarkedTurn], depth: int) -> dict[str, MarkedTurn]:
        """The candidates and, of each, as many ancestors as `depth`."""
        t = schema.turns
        known = {candidate.id: candidate for candidate in candidates}
        starts = list(known)
        up = select(t.c.id, t.c.parent, literal(0).label("depth")).where(t.c.id.in_(starts))
        chain = up.cte("chain", recursive=True)
        chain = chain.union_all(
            select(t.c.id, t.c.parent, chain.c.depth + 1).where(t.c.id == chain.c.parent, chain.c.depth < depth)
        )
        query = select(*_COLUMNS).where(t.c.id.in_(select(chain.c.id).where(chain.c.depth > 0)), t.c.id.not_in(starts))
        return known | {row.id: _marked_turn(row) for row in self._c.execute(query)}

    def _few(self, where: list[ColumnElement[bool]]) -> list[MarkedTurn] | None:
        query = select(*_COLUMNS).where(self._whose, *where).limit(FEW + 1)
        if self._conversation is not None:  # a few turns, of which the newest count
            return [_marked_turn(row) for row in self._c.execute(query.order_by(schema.turns.c.created.desc()))]
        rows = self._c.execute(query).all()
        return None if len(rows) > FEW else [_marked_turn(row) for row in rows]


def _marked_turn(row: Any) -> MarkedTurn:
    return MarkedTurn(
        row.id,
        row.conversation,
        row.parent,
        row.kind,
        None if row.mark is None else bytes(row.mark),
        bool(row.continued),
        row.created,
        tuple(message_from_dict(message) for message in json.loads(row.messages)),
        message_from_dict(json.loads(row.answer)),
    )
