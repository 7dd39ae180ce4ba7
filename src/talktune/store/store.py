"""The store: one database, opened by path or URL. Every method is one transaction; all of SQL is in this package."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sqlalchemy import (
    Connection,
    Dialect,
    Engine,
    ExceptionContext,
    Insert,
    Table,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    extract,
    func,
    insert,
    make_url,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError

from talktune.conversations.marks import answer_mark, asked_mark
from talktune.conversations.messages import message_from_dict, message_to_dict
from talktune.conversations.turns import turns_of
from talktune.errors import StoreDownError, UserError
from talktune.store import schema
from talktune.store.blobs import floats_from_bytes, floats_to_bytes, ids_from_bytes, ids_to_bytes
from talktune.store.queues import queue_for_judging, queue_for_learning
from talktune.store.rows import ConversationRow, Forgotten, Found, NewTurn
from talktune.store.trees import StoredTurn, conversations_of
from talktune.types import Conversation, Message, Sampled, Turn, Verdict, Vote

MIGRATION = 0x74616C6B
"""Name of the lock under which a database is migrated."""
UNIX_EPOCH = 2440587.5
"""1970 as SQLite counts days."""
BUSY_MS = 10_000
"""How long a writer waits for another process's transaction."""
_NUL = "\0"
"""No id has it, and PostgreSQL refuses to look for it."""
CHUNK = 500
"""Rows of one IN (…): databases bound their parameters."""
SENT_BYTES = 16
"""Of the hash of a message: it need be its own within one conversation only."""


class Store:
    """Conversations, verdicts, versions and updates, shared by all processes of one installation."""

    def __init__(self, where: str | Path) -> None:
        """Open a SQLite file by its path, or a database by SQLAlchemy's URL, and migrate it; UserError if it cannot."""
        url = str(where) if "://" in str(where) else f"sqlite:///{where}"
        if url.startswith(("postgresql://", "postgres://")):  # SQLAlchemy would ask for the driver's predecessor
            url = "postgresql+psycopg://" + url.split("://", 1)[1]
        try:
            if url.startswith("sqlite:///") and (name := make_url(url).database) not in (None, "", ":memory:"):
                _make_private(Path(name))
            # A connection that died while nobody used it is opened again, before anything is asked over it.
            self.engine: Engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
            self._reading = self.engine.execution_options(talktune_reads=True)
            self._asking = self.engine.execution_options(talktune_asks=True)
            self._conversation, self._text, self._sent, self._turn = _writes(self.engine.dialect)
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _sqlite_options)
                event.listen(self.engine, "begin", _sqlite_begin)
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

        if self.engine.dialect.name == "postgresql":
            event.listen(self.engine, "handle_error", _down)

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
            latest = {turn.conversation: turn for turn in fresh}.values()
            self._conversation.of(c, [_conversation_values(turn) for turn in latest])
            texts: dict[str, bytes] = {}
            rows = [_turn_values(turn, texts) for turn in fresh]
            if texts:
                self._text.of(c, [{"hash": key, "body": body} for body, key in texts.items()])
            if messages := {key: row for turn in fresh for key, row in _sent(turn).items()}:
                self._sent.of(c, list(messages.values()))
            self._turn.of(c, rows)
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
                    same = _text_hash(_system_text(system)) if system else None
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
            return conversations_of(id, _stored_turns(c, id))

    def turns(self, ids: Sequence[str]) -> dict[str, Turn]:
        """Those of the turns that exist, each in the line of its conversation in which it can be trained.

        One that nothing but a retry follows there takes the next state that it has in a fork.
        """
        found: dict[str, Turn] = {}
        with self._reading.connect() as c:
            t = schema.turns.c
            rows = c.execute(select(t.conversation).where(t.id.in_(ids)).distinct()).scalars().all()
            lines = [line for name in rows for line in conversations_of(name, _stored_turns(c, name))]
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
        s, t = schema.conversations.c, schema.turns.c
        with self.engine.begin() as c:
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
        if self.engine.dialect.name == "sqlite":  # the write-ahead log holds old pages until then
            raw = self.engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                raw.close()
        return Forgotten(len(ids), len(turns), tuple(sorted(trained)))


_OF_A_TURN = (schema.feedback, schema.votes, schema.verdicts, schema.readings)
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


class _Write:
    """A statement that is compiled once: SQLAlchemy would go through every value of every row again each time."""

    def __init__(self, dialect: Dialect, statement: Insert) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=[column.name for column in statement.table.columns])
        self._text = str(compiled)
        self._order = cast(Any, compiled).positiontup
        """Of the values, where the driver takes them by their places."""

    def of(self, c: Connection, rows: list[dict[str, Any]]) -> None:
        """Write some rows, each with a value for every column."""
        order = self._order
        given: Any = rows if order is None else [tuple(map(row.__getitem__, order)) for row in rows]
        c.exec_driver_sql(self._text, given)


def _writes(dialect: Dialect) -> tuple[_Write, _Write, _Write, _Write]:
    """Make a conversation, or open it again; keep a text, or a message, unless it is there; add a turn."""
    of = (postgresql if dialect.name == "postgresql" else sqlite).insert
    new = of(schema.conversations)
    again = {"touched": new.excluded.touched, "closed": null()}
    conversation = new.on_conflict_do_update(index_elements=["id"], set_=again)
    text = of(schema.texts).on_conflict_do_nothing(index_elements=["hash"])
    sent = of(schema.sent).on_conflict_do_nothing(index_elements=["conversation", "hash"])
    writes = [_Write(dialect, one) for one in (conversation, text, sent, of(schema.turns))]
    return writes[0], writes[1], writes[2], writes[3]


def _down(context: ExceptionContext) -> None:
    """Say in a sentence that the database cannot be reached."""
    if context.is_pre_ping:
        return  # it is tried again with a new connection
    if context.is_disconnect or (context.connection is None and isinstance(context.sqlalchemy_exception, DBAPIError)):
        said = str(context.original_exception).strip() or type(context.original_exception).__name__
        reason = said.splitlines()[0]
        raise StoreDownError(f"the database cannot be reached ({reason}).") from context.original_exception


def _sqlite_options(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions in its own way
    for option in (
        f"busy_timeout = {BUSY_MS}",  # first: the next one may have to wait for another process that does the same
        "journal_mode = WAL",
        "synchronous = FULL",  # a commit that was acknowledged survives a loss of power
        "foreign_keys = ON",
        "secure_delete = ON",  # what is forgotten is overwritten
    ):
        connection.execute(f"PRAGMA {option}")


def _sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE: two transactions that both read first and then write would refuse each other. Readers wait for none,
    # and one question is a transaction by itself.
    options = connection.get_execution_options()
    if not options.get("talktune_asks"):
        connection.exec_driver_sql("BEGIN" if options.get("talktune_reads") else "BEGIN IMMEDIATE")


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


def _conversation_values(turn: NewTurn) -> dict[str, Any]:
    return {
        "id": turn.conversation,
        "user": turn.user,
        "session": turn.session,
        "created": turn.created,
        "touched": turn.created,
        "closed": None,
    }


def _system_text(system: str) -> str:
    # As JSON, because PostgreSQL's text cannot hold the character 0.
    return json.dumps(system) if system else ""


def _text_hash(body: str) -> bytes:
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).digest()


def _text_key(body: str, texts: dict[str, bytes]) -> bytes | None:
    """The hash of a text, which is put among `texts`; None for an empty one."""
    if not body:
        return None
    if body not in texts:
        texts[body] = _text_hash(body)
    return texts[body]


def _turn_values(turn: NewTurn, texts: dict[str, bytes]) -> dict[str, Any]:
    tools = json.dumps([dict(tool) for tool in turn.tools], sort_keys=True) if turn.tools else ""
    s = turn.sampled
    return {
        "id": turn.id,
        "conversation": turn.conversation,
        "parent": turn.parent,
        "user": turn.user,
        "hash": turn.hash,
        "continued": 0,
        "kind": turn.kind,
        "state": turn.state,
        "messages": json.dumps([message_to_dict(message) for message in turn.messages]),
        "answer": json.dumps(message_to_dict(turn.answer)),
        "system": _text_key(_system_text(turn.system), texts),
        "tools": _text_key(tools, texts),
        "prompt_ids": None if s is None else ids_to_bytes(s.prompt_ids),
        "answer_ids": None if s is None else ids_to_bytes(s.answer_ids),
        "logprobs": None if s is None or s.logprobs is None else floats_to_bytes(s.logprobs),
        "temperature": None if s is None else s.temperature,
        "policy_version": None if s is None else s.policy_version,
        "engine": turn.engine,
        "created": turn.created,
        "mark": answer_mark(turn.answer, turn.kind),
        "asked": asked_mark(turn.messages),
        "history": None if turn.history is None else b"".join(key for key, _ in map(_hashed, turn.history)),
        "lost": turn.lost,
        "finish": turn.finish,
    }


def _sent(turn: NewTurn) -> dict[tuple[str, bytes], dict[str, Any]]:
    """The messages of a changed history, to be kept once a conversation."""
    rows: dict[tuple[str, bytes], dict[str, Any]] = {}
    for key, body in map(_hashed, turn.history or ()):
        rows[turn.conversation, key] = {"conversation": turn.conversation, "hash": key, "body": body}
    return rows


def _hashed(message: Message) -> tuple[bytes, str]:
    body = json.dumps(message_to_dict(message), sort_keys=True)
    return _text_hash(body)[:SENT_BYTES], body


def _stored_turns(c: Connection, conversation: str) -> list[StoredTurn]:
    t = schema.turns.c
    system, tools = schema.texts.alias("system_texts"), schema.texts.alias("tool_texts")
    joined = schema.turns.outerjoin(system, system.c.hash == t.system).outerjoin(tools, tools.c.hash == t.tools)
    joined = joined.outerjoin(schema.feedback).outerjoin(schema.verdicts)
    query = (
        select(
            schema.turns,
            system.c.body.label("system_body"),
            tools.c.body.label("tools_body"),
            schema.feedback.c.score,
            schema.feedback.c.better,
            schema.verdicts.c.reward,
        )
        .select_from(joined)
        .where(t.conversation == conversation)
        .order_by(t.created, t.id)
    )
    rows = c.execute(query).all()
    v = schema.votes.c
    votes: dict[str, list[Vote]] = {}
    given = select(schema.votes).join(schema.turns, t.id == v.turn).where(t.conversation == conversation)
    for row in c.execute(given.order_by(v.turn, v.number)):
        votes.setdefault(row.turn, []).append(Vote(row.label, row.confidence, row.judge, row.reason))
    sent: dict[bytes, Message] = {}
    if any(row.history is not None for row in rows):
        s = schema.sent.c
        for row in c.execute(select(s.hash, s.body).where(s.conversation == conversation)):
            sent[bytes(row.hash)] = message_from_dict(json.loads(row.body))
    return [_stored_turn(row, tuple(votes.get(row.id, ())), sent) for row in rows]


def _stored_turn(row: Any, votes: tuple[Vote, ...], sent: Mapping[bytes, Message]) -> StoredTurn:
    reward = row.score if row.score is not None else row.reward  # a person's own word overrules
    sampled = None
    if row.answer_ids is not None and row.prompt_ids is not None:
        sampled = Sampled(
            ids_from_bytes(row.prompt_ids),
            ids_from_bytes(row.answer_ids),
            None if row.logprobs is None else floats_from_bytes(row.logprobs),
            row.temperature,
            row.policy_version,
        )
    return StoredTurn(
        id=row.id,
        parent=row.parent,
        messages=tuple(message_from_dict(m) for m in json.loads(row.messages)),
        answer=message_from_dict(json.loads(row.answer)),
        system=json.loads(row.system_body) if row.system_body else "",
        tools=tuple(json.loads(row.tools_body)) if row.tools_body else (),
        kind=row.kind,
        state=row.state,
        engine=row.engine,
        sampled=sampled,
        verdict=Verdict(votes, reward) if votes or reward is not None else None,
        history=None if row.history is None else tuple(sent[key] for key in _keys(bytes(row.history))),
        finish=row.finish,
        wanted=json.loads(row.better) if row.better else None,
    )


def _keys(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + SENT_BYTES] for at in range(0, len(hashes), SENT_BYTES)]


def shown(where: str | Path) -> str:
    """A store as it may be printed: a URL may hold a password."""
    return str(where) if "@" not in str(where) else str(where).split("://")[0] + "://…"


def _make_private(path: Path) -> None:
    """A SQLite file that nobody but its owner reads; SQLite gives its journals the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    for one in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        with suppress(OSError):  # it is not there, or somebody else's who lets us write
            one.chmod(0o600)
