"""The store: one database, opened by path or URL. Every method is one transaction; all of SQL is in this package.

Open it to see what is done with conversations: add, find, show, give feedback, export, forget.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Table,
    and_,
    bindparam,
    delete,
    extract,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, OperationalError

from talktune.conversations.turns import turns_of
from talktune.errors import UserError
from talktune.store import schema
from talktune.store.database import open_engine, report_outages, shown
from talktune.store.enqueue import queue_for_judging, queue_for_learning
from talktune.store.forgetting import forget
from talktune.store.rows import ConversationRow, Forgotten, Found, NewTurn
from talktune.store.trees import conversations_of
from talktune.store.turn_rows import TurnStatements, stored_turns, system_hash
from talktune.types import Conversation, Turn

MIGRATION = 0x74616C6B
"""Name of the lock under which a database is migrated."""
UNIX_EPOCH = 2440587.5
"""1970 as SQLite counts days."""
_NUL = "\0"
"""No id has it, and PostgreSQL refuses to look for it."""
CHUNK = 500
"""Rows of one IN (…): databases bound their parameters."""


class Store:
    """Conversations, verdicts, versions and updates, shared by all processes of one installation."""

    def __init__(self, where: str | Path) -> None:
        """Open a SQLite file by its path, or a database by SQLAlchemy's URL, and migrate it; UserError if it cannot."""
        try:
            self.engine: Engine = open_engine(where)
            self._reading = self.engine.execution_options(talktune_reads=True)
            self._asking = self.engine.execution_options(talktune_asks=True)
            self._statements = TurnStatements(self.engine.dialect)
            with self.engine.begin() as connection:
                if self.engine.dialect.name == "postgresql":  # one process at a time; SQLite has one writer anyway
                    connection.execute(select(func.pg_advisory_xact_lock(MIGRATION)))
                schema.migrate(connection)
                self.name = str(connection.execute(select(schema.identity.c.name)).scalar_one())
                """Of its own, made once: versions of several stores may be in one engine."""
        except (DatabaseError, OSError, ModuleNotFoundError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise UserError(
                f"The store {shown(where)} cannot be opened ({reason}); name a file or a database URL."
            ) from error
        report_outages(self.engine)

    def now(self, c: Connection) -> float:
        """The database's own time in seconds since 1970: claims of several machines, whose clocks differ, go by it."""
        if self.engine.dialect.name == "postgresql":
            return float(c.execute(select(extract("epoch", func.clock_timestamp()))).scalar_one())
        return float(c.execute(select((func.julianday("now") - UNIX_EPOCH) * 86400.0)).scalar_one())

    def put(self, c: Connection, table: Table, values: Mapping[str, Any], *, where: Any = None) -> bool:
        """Insert a row, or update the one that is there where it fits `where`; whether the row is as given now."""
        of = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        keys = [column.name for column in table.primary_key]
        new = of(table).values(**values)
        rest = {name: value for name, value in values.items() if name not in keys}
        put = new.on_conflict_do_update(index_elements=keys, set_=rest, where=where)
        return c.execute(put.returning(*table.primary_key)).first() is not None

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def reading(self) -> Connection:
        """A connection for reading, which waits for no writer; close it."""
        return self._reading.connect()

    # Serving.

    def add_turns(self, turns: Sequence[NewTurn]) -> None:
        """Commit some turns together, parents before children; a turn that is there already is left as it is.

        UserError where the database cannot take them (a full disk), and none is there then.
        """
        try:
            self._add_turns(turns)
        except OperationalError as error:
            raise UserError(
                f"the store cannot be written ({error.orig}); make room, or mend what is in its way."
            ) from error

    def _add_turns(self, turns: Sequence[NewTurn]) -> None:
        with self.engine.begin() as c:
            known = set(c.execute(_KNOWN_TURNS, {"ids": [turn.id for turn in turns]}).scalars())
            fresh = list({turn.id: turn for turn in turns if turn.id not in known}.values())
            if not fresh:
                return
            fresh = _one_conversation_a_session(c, fresh)
            self._statements.write(c, fresh)
            if parents := [turn.parent for turn in fresh if turn.parent is not None]:
                c.execute(_CONTINUED, {"ids": parents})
                queue_for_judging(c, [t.parent for t in fresh if t.parent is not None and t.kind == "main"])

    def find(
        self, user: str, hashes: Sequence[bytes], system: str = "", conversation: str | None = None
    ) -> Found | None:
        """The user's turn with the first of `hashes` that is known (give the longest history first).

        `conversation` restricts the search to one.

        Of several turns with one hash: one that answered under the same system prompt, then one that nothing
        continues yet, then the newest.
        """
        query, given = (_FIND, {}) if conversation is None else (_FIND_WITHIN, {"conversation": conversation})
        with self._asking.connect() as c:
            for at in range(0, len(hashes), CHUNK):
                rows = c.execute(query, {"user": user, "hashes": hashes[at : at + CHUNK], **given}).all()
                if rows:
                    order = {key: i for i, key in enumerate(hashes)}
                    same = system_hash(system)
                    best = min(rows, key=lambda r: (order[r.hash], r.system != same, r.continued, -r.created))
                    return Found(best.id, best.conversation, best.hash, best.kind)
        return None

    def conversation_of_session(self, user: str, session: str) -> str | None:
        """The conversation that a client's own id stands for."""
        with self._asking.connect() as c:
            return c.execute(_OF_SESSION, {"user": user, "session": session}).scalar()

    def close_conversations(
        self, at: float, *, user: str | None = None, id: str | None = None, idle_since: float | None = None
    ) -> int:
        """Close the open conversations that fit all that is given; returns how many."""
        s = schema.conversations.c
        wanted = [s.closed.is_(None)]
        wanted += [] if user is None else [s.user == user]
        wanted += [] if id is None else [s.id == id]
        wanted += [] if idle_since is None else [s.touched <= idle_since]
        with self.engine.begin() as c:
            return c.execute(update(schema.conversations).where(*wanted).values(closed=at)).rowcount

    def add_feedback(self, user: str, turn: str, score: float | None, at: float, better: str | None = None) -> bool:
        """Keep a person's own score of an answer, -1 … 1, and the answer that they wanted; False for no turn of theirs.

        The newest counts; what is not given stays as it was. Who only says what they wanted did not like what they got
        (-1), and an empty `better` takes it back. It overrules the judge, also after its verdict: the turn is ready for
        learning as it is, and is not judged any more.
        """
        t, f = schema.turns.c, schema.feedback
        if _NUL in turn:
            return False
        with self.engine.begin() as c:
            row = c.execute(select(t.conversation, t.kind, t.state).where(t.id == turn, t.user == user)).first()
            if row is None:
                return False
            before = c.execute(select(f.c.score, f.c.better).where(f.c.turn == turn)).first()
            if score is None and not better and before is None:
                return True  # nothing was said, and nothing is taken back
            if score is None:
                score = -1.0 if before is None else before.score
            # As JSON, because PostgreSQL's text cannot hold the character 0.
            wanted = (before and before.better) if better is None else json.dumps(better) if better else None
            c.execute(delete(f).where(f.c.turn == turn))
            c.execute(insert(f).values(turn=turn, score=score, created=at, better=wanted))
            c.execute(delete(schema.judging).where(schema.judging.c.turn == turn))
            if row.kind == "main" and row.state == "complete":
                queue_for_learning(c, turn, user, row.conversation, at)
        return True

    # Reading.

    def list_conversations(
        self, user: str | None = None, *, after: str | None = None, limit: int = 50
    ) -> list[ConversationRow]:
        """A page of conversations, newest first, those behind the conversation `after`."""
        s = schema.conversations
        count = select(func.count()).where(schema.turns.c.conversation == s.c.id).scalar_subquery()
        query = select(s, count.label("turns")).order_by(s.c.created.desc(), s.c.id.desc()).limit(limit)
        if user is not None:
            query = query.where(s.c.user == user)
        if after is not None and _NUL in after:
            return []
        with self._reading.connect() as c:
            if after is not None:
                last = c.execute(select(s.c.created).where(s.c.id == after)).scalar()
                if last is None:
                    return []
                query = query.where(or_(s.c.created < last, and_(s.c.created == last, s.c.id < after)))
            return [ConversationRow(r.id, r.session, r.created, r.touched, r.closed, r.turns) for r in c.execute(query)]

    def tell(self, role: str, trouble: str, at: float) -> None:
        """A role says that it is at work, and why it does nothing right now (empty where it does)."""
        with self.engine.begin() as c:
            self.put(c, schema.roles, {"name": role, "trouble": trouble, "told": at})

    def users(self) -> set[str]:
        """Everybody who ever said something that is still here."""
        with self._reading.connect() as c:
            return set(c.execute(select(schema.conversations.c.user).distinct()).scalars())

    def show(self, id: str, user: str | None = None) -> list[Conversation]:
        """One conversation with everything known of its turns: its main line first, then its forks; [] if unknown."""
        if _NUL in id:
            return []
        with self._reading.connect() as c:
            wanted = [schema.conversations.c.id == id] + ([] if user is None else [schema.conversations.c.user == user])
            if c.execute(select(schema.conversations.c.id).where(*wanted)).scalar() is None:
                return []
            return conversations_of(id, stored_turns(c, id))

    def turns(self, ids: Sequence[str]) -> dict[str, Turn]:
        """Those of the turns that exist, each in the line of its conversation in which it can be trained.

        One that nothing but a retry follows there takes the next state that it has in a fork.
        """
        found: dict[str, Turn] = {}
        with self._reading.connect() as c:
            t = schema.turns.c
            rows = c.execute(select(t.conversation).where(t.id.in_(ids)).distinct()).scalars().all()
            lines = [line for name in rows for line in conversations_of(name, stored_turns(c, name))]
        wanted = set(ids)
        for line in lines:  # a line of its own comes before the forks that share it
            names: dict[str, str] = line.metadata["turns"]
            for turn in turns_of(line):
                id = names.get(str(turn.index))
                if id is None or id not in wanted:
                    continue
                if id not in found:
                    found[id] = turn
                elif not found[id].next_state:
                    found[id] = replace(found[id], next_state=turn.next_state)
        return found

    def export(self, user: str | None = None) -> Iterator[Conversation]:
        """Every conversation and fork, oldest first, one conversation at a time in memory."""
        s = schema.conversations.c
        query = select(s.id).order_by(s.created, s.id)
        with self._reading.connect() as c:
            ids = c.execute(query if user is None else query.where(s.user == user)).scalars().all()
        for id in ids:
            yield from self.show(id)

    # Forgetting.

    def forget(self, *, user: str | None = None, conversation: str | None = None) -> Forgotten:
        """Delete a user's conversations, or one, with all that hangs on them; their bytes leave the file, too.

        ValueError when neither is given.
        """
        if user is None and conversation is None:
            raise ValueError("give a user or a conversation to forget")
        with self.engine.begin() as c:
            forgotten = forget(c, user, conversation)
        if self.engine.dialect.name == "sqlite":  # the write-ahead log holds old pages until then
            raw = self.engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                raw.close()
        return forgotten


_KNOWN_TURNS = select(schema.turns.c.id).where(schema.turns.c.id.in_(bindparam("ids", expanding=True)))
_CONTINUED = (
    update(schema.turns).where(schema.turns.c.id.in_(bindparam("ids", expanding=True))).values(continued=1)
)  # fmt: skip
_FIND = select(
    *(schema.turns.c[name] for name in ("id", "conversation", "hash", "kind", "system", "continued", "created"))
).where(schema.turns.c.user == bindparam("user"), schema.turns.c.hash.in_(bindparam("hashes", expanding=True)))
_FIND_WITHIN = _FIND.where(schema.turns.c.conversation == bindparam("conversation"))
_OF_SESSION = select(schema.conversations.c.id).where(
    schema.conversations.c.user == bindparam("user"), schema.conversations.c.session == bindparam("session")
)


def _one_conversation_a_session(c: Connection, turns: Sequence[NewTurn]) -> list[NewTurn]:
    """Two first requests of a session may have been answered at once: the conversation of the first has both."""
    s = schema.conversations.c
    known: dict[tuple[str, str], str] = {}
    found: list[NewTurn] = []
    for turn in turns:
        if turn.session is not None:
            key = (turn.user, turn.session)
            if key not in known:
                query = select(s.id).where(s.user == turn.user, s.session == turn.session)
                known[key] = c.execute(query).scalar() or turn.conversation
            turn = replace(turn, conversation=known[key])
        found.append(turn)
    return found
