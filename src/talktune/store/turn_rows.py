"""Turns as rows of the database, and rows as turns again. Open it to see in which form a turn is kept.

Texts that many turns share (system prompts, tools) are rows of their own, and so are the messages of a history that its
client had changed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Connection, Dialect, Insert, null, select
from sqlalchemy.dialects import postgresql, sqlite

from talktune.conversations.marks import answer_mark, asked_mark
from talktune.conversations.messages import message_from_dict, message_to_dict
from talktune.store import schema
from talktune.store.blobs import floats_from_bytes, floats_to_bytes, ids_from_bytes, ids_to_bytes
from talktune.store.rows import NewTurn
from talktune.store.trees import StoredTurn
from talktune.types import Message, Sampled, Verdict, Vote

SENT_BYTES = 16
"""Of the hash of a message: it need be its own within one conversation only."""


class TurnStatements:
    """The statements that write turns, compiled once for a database."""

    def __init__(self, dialect: Dialect) -> None:
        of = (postgresql if dialect.name == "postgresql" else sqlite).insert
        new = of(schema.conversations)
        again = {"touched": new.excluded.touched, "closed": null()}
        self._conversation = _Write(dialect, new.on_conflict_do_update(index_elements=["id"], set_=again))
        """Makes a conversation, or opens it again."""
        self._text = _Write(dialect, of(schema.texts).on_conflict_do_nothing(index_elements=["hash"]))
        kept = of(schema.sent).on_conflict_do_nothing(index_elements=["conversation", "hash"])
        self._sent = _Write(dialect, kept)
        self._turn = _Write(dialect, of(schema.turns))

    def write(self, c: Connection, turns: Sequence[NewTurn]) -> None:
        """Write turns that are not there yet, parents before children, with their conversations and texts."""
        latest = {turn.conversation: turn for turn in turns}.values()
        self._conversation.of(c, [_conversation_values(turn) for turn in latest])
        texts: dict[str, bytes] = {}
        rows = [_turn_values(turn, texts) for turn in turns]
        if texts:
            self._text.of(c, [{"hash": key, "body": body} for body, key in texts.items()])
        if messages := {key: row for turn in turns for key, row in _sent(turn).items()}:
            self._sent.of(c, list(messages.values()))
        self._turn.of(c, rows)


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


def _conversation_values(turn: NewTurn) -> dict[str, Any]:
    return {
        "id": turn.conversation,
        "user": turn.user,
        "session": turn.session,
        "created": turn.created,
        "touched": turn.created,
        "closed": None,
    }


def system_hash(system: str) -> bytes | None:
    """The hash under which a system prompt is kept; None for an empty one."""
    return _text_hash(_system_text(system)) if system else None


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


def stored_turns(c: Connection, conversation: str) -> list[StoredTurn]:
    """All turns of a conversation with what is known of them, the oldest first."""
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
