"""Notes of admins, written when a version was promoted or rolled back.

Open it to see what is kept of them.
"""

import json
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from talktune.store import schema
from talktune.store.store import Store

MOST_LETTERS = 500
"""Of one note."""


@dataclass(frozen=True, slots=True)
class Note:
    """Why another version serves, in the words of who saw to it."""

    text: str
    by: str
    created: float
    version: int | None = None
    """That serves from then on; None for the model as it was."""


def add_note(c: Connection, lineage: str, version: int | None, note: Note | None) -> None:
    """Within the transaction that makes `version` live; an empty note is none."""
    if note is not None and note.text.strip():
        values = {"lineage": lineage, "version": version, "by": note.by, "created": note.created}
        # As JSON, because PostgreSQL's text cannot hold the character 0.
        c.execute(insert(schema.notes).values(**values, text=json.dumps(note.text.strip())))


def notes(store: Store, lineage: str, limit: int) -> list[Note]:
    """Those of a lineage, newest first."""
    n = schema.notes.c
    query = select(n.text, n.by, n.created, n.version).where(n.lineage == lineage).order_by(n.number.desc())
    with store.reading() as c:
        return [Note(json.loads(row.text), row.by, row.created, row.version) for row in c.execute(query.limit(limit))]
