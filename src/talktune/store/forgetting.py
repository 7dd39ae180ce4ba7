"""Conversations deleted with all that hangs on them. Open it when a new table holds something of a turn."""

from sqlalchemy import Connection, delete, or_, select, update

from talktune.store import schema
from talktune.store.rows import Forgotten

CHUNK = 500
"""Rows of one IN (…): databases bound their parameters."""
_OF_A_TURN = (schema.feedback, schema.votes, schema.verdicts, schema.readings)


def forget(c: Connection, user: str | None, conversation: str | None) -> Forgotten:
    """Delete a user's conversations, or one; whoever calls it gives one of both."""
    s, t = schema.conversations.c, schema.turns.c
    wanted = [] if user is None else [s.user == user]
    wanted += [] if conversation is None else [s.id == conversation]
    ids = c.execute(select(s.id).where(*wanted)).scalars().all()
    turns: list[str] = []
    for at in range(0, len(ids), CHUNK):
        turns += c.execute(select(t.id).where(t.conversation.in_(ids[at : at + CHUNK]))).scalars()
    trained: set[int] = set()
    for at in range(0, len(turns), CHUNK):
        part = turns[at : at + CHUNK]
        u = schema.updates.join(schema.update_turns, schema.update_turns.c.update == schema.updates.c.number)
        rows = select(schema.updates.c.version).select_from(u).where(schema.update_turns.c.turn.in_(part))
        trained |= set(c.execute(rows).scalars())
        c.execute(update(schema.turns).where(t.id.in_(part)).values(parent=None))
        for table in (*_OF_A_TURN, schema.judging, schema.learning):
            c.execute(delete(table).where(table.c.turn.in_(part)))
    for at in range(0, len(ids), CHUNK):
        part = list(ids[at : at + CHUNK])
        c.execute(delete(schema.turns).where(t.conversation.in_(part)))
        c.execute(delete(schema.sent).where(schema.sent.c.conversation.in_(part)))
        c.execute(delete(schema.conversations).where(s.id.in_(part)))
    if user is not None:
        n = schema.notes.c
        c.execute(delete(schema.notes).where(or_(n.by == user, n.lineage == user)))
    x = schema.texts.c.hash
    used = select(t.system).where(t.system == x).exists() | select(t.tools).where(t.tools == x).exists()
    c.execute(delete(schema.texts).where(~used))
    return Forgotten(len(ids), len(turns), tuple(sorted(trained)))
