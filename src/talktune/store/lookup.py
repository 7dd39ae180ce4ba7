"""Finds an answer by its id, with the conversation that led to it.

Open it when an earlier answer cannot be referred to.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from talktune.store import schema
from talktune.store.rows import TurnState
from talktune.store.store import Store
from talktune.types import Turn


@dataclass(frozen=True, slots=True)
class Answered:
    """A stored answer and what is known of it."""

    turn: Turn
    parent: str | None
    system: str
    """The system prompt that it was given."""
    state: TurnState
    engine: str
    created: float


def answers(store: Store, user: str, ids: Sequence[str]) -> dict[str, Answered]:
    """Those of the answers that this user got; somebody else's are as if they were not there."""
    t = schema.turns.c
    wanted = [id for id in ids if "\0" not in id]
    if not wanted:
        return {}
    query = (
        select(t.id, t.parent, t.state, t.engine, t.created, schema.texts.c.body)
        .select_from(schema.turns.outerjoin(schema.texts, schema.texts.c.hash == t.system))
        .where(t.id.in_(wanted), t.user == user)
    )
    with store.reading() as c:
        rows = {row.id: row for row in c.execute(query)}
    turns = store.turns(list(rows))
    return {
        id: Answered(
            turns[id], row.parent, json.loads(row.body) if row.body else "", row.state, row.engine, row.created
        )
        for id, row in rows.items()
        if id in turns
    }
