"""Lists turns with what became of them, newest first, a page at a time, for people who look at verdicts.

Open it to change what a list of turns says.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select

from talktune.conversations.messages import message_from_dict
from talktune.conversations.words import spoken
from talktune.store import schema
from talktune.store.blobs import floats_from_bytes, ids_from_bytes
from talktune.store.store import Store
from talktune.types import Message, Role, Sampled, Vote

PAGE = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer, what it was given to, and what was said and thought of it."""

    id: str
    user: str
    created: float
    request: str
    answer: str
    reaction: str | None
    """What was said next; None while nothing was."""
    reacted: Role | None
    """Who said it."""
    votes: tuple[Vote, ...]
    reward: float | None
    """The person's score where there is one, else the judge's."""
    version: int | None
    """Of the policy that answered; None for the model as it was, or where the engine does not say."""
    score: float | None
    """The person's own."""
    better: str | None
    """The answer that the person wanted."""
    updates: tuple[int, ...]
    """Those that it was part of."""
    advantage: float | None
    """Of each of its tokens in the last of them."""


def entries(
    store: Store,
    user: str | None,
    *,
    before: str | None = None,
    limit: int = 50,
    bad: bool = False,
    unscored: bool = False,
    corrected: bool = False,
) -> list[Entry]:
    """A page of turns behind the turn `before`, newest first; side turns are left out.

    `user` is whose (None: everybody's); `bad` leaves those with a negative reward, `unscored` those without any, and
    `corrected` those with a person's own score.
    """
    t, reward = schema.turns.c, _reward()
    query = _select().where(t.kind == "main", t.state == "complete")
    query = query.order_by(t.created.desc(), t.id.desc()).limit(limit)
    if user is not None:
        query = query.where(t.user == user)
    if bad:
        query = query.where(reward < 0)
    if unscored:
        query = query.where(reward.is_(None))
    if corrected:
        query = query.where(schema.feedback.c.score.is_not(None))
    with store.reading() as c:
        if before is not None:
            if "\0" in before:
                return []
            whose = [] if user is None else [t.user == user]
            last = c.execute(select(t.created).where(t.id == before, *whose)).scalar()
            if last is None:
                return []
            query = query.where(t.created <= last, or_(t.created < last, and_(t.created == last, t.id < before)))
        return _entries(c, query)


def entry(store: Store, user: str | None, id: str) -> Entry | None:
    """One turn, of this user where one is named."""
    if "\0" in id:
        return None
    whose = [] if user is None else [schema.turns.c.user == user]
    with store.reading() as c:
        return next(iter(_entries(c, _select().where(schema.turns.c.id == id, *whose))), None)


def judge_lines(store: Store, user: str) -> Iterator[dict[str, Any]]:
    """What a user said of answers that were reacted to, newest first: lines as `talktune judge-train` reads them.

    `better` is the wanted answer, where one was given; a judge never sees it.
    """
    before = None
    while page := entries(store, user, before=before, limit=PAGE, corrected=True):
        before = page[-1].id
        for one in page:
            if one.reaction and one.score is not None:
                label = (one.score > 0) - (one.score < 0)
                line = {"request": one.request, "response": one.answer, "role": one.reacted}
                line |= {"next_state": one.reaction, "label": label}
                yield line if one.better is None else line | {"better": one.better}


def sampled(store: Store, id: str) -> Sampled | None:
    """An answer as it was sampled; None where its tokens are not known."""
    t = schema.turns.c
    columns = (t.prompt_ids, t.answer_ids, t.logprobs, t.temperature, t.policy_version)
    with store.reading() as c:
        row = c.execute(select(*columns).where(t.id == id)).first()
    if row is None or row.answer_ids is None or row.prompt_ids is None:
        return None
    logprobs = None if row.logprobs is None else floats_from_bytes(row.logprobs)
    ids = ids_from_bytes(row.prompt_ids), ids_from_bytes(row.answer_ids)
    return Sampled(*ids, logprobs or None, row.temperature, row.policy_version)


def _reward() -> Any:
    return func.coalesce(schema.feedback.c.score, schema.verdicts.c.reward)


def _select() -> Any:
    t, f = schema.turns.c, schema.feedback.c
    columns = (t.id, t.user, t.created, t.messages, t.answer, t.policy_version, f.score, f.better)
    joined = schema.turns.outerjoin(schema.feedback).outerjoin(schema.verdicts)
    return select(*columns, _reward().label("reward")).select_from(joined)


def _entries(c: Connection, query: Any) -> list[Entry]:
    rows = c.execute(query).all()
    ids = [row.id for row in rows]
    votes, reactions, updates = _votes(c, ids), _reactions(c, ids), _updates(c, ids)
    found: list[Entry] = []
    for row in rows:
        reaction = reactions.get(row.id, ())
        found.append(
            Entry(
                row.id,
                row.user,
                row.created,
                _text(m for m in _messages(row.messages) if m.role in ("user", "tool")),
                _answer(message_from_dict(json.loads(row.answer))),
                _text(reaction) if reaction else None,
                reaction[0].role if reaction else None,
                tuple(votes.get(row.id, ())),
                row.reward,
                row.policy_version,
                row.score,
                json.loads(row.better) if row.better else None,
                tuple(number for number, _ in updates.get(row.id, ())),
                updates[row.id][-1][1] if row.id in updates else None,
            )
        )
    return found


def _votes(c: Connection, ids: Sequence[str]) -> dict[str, list[Vote]]:
    v = schema.votes.c
    found: dict[str, list[Vote]] = {}
    for row in c.execute(select(schema.votes).where(v.turn.in_(ids)).order_by(v.turn, v.number)):
        found.setdefault(row.turn, []).append(Vote(row.label, row.confidence, row.judge, row.reason))
    return found


def _updates(c: Connection, ids: Sequence[str]) -> dict[str, list[tuple[int, float | None]]]:
    """The updates of each, with its advantage there."""
    u = schema.update_turns.c
    found: dict[str, list[tuple[int, float | None]]] = {}
    for row in c.execute(select(u.turn, u.update, u.advantage).where(u.turn.in_(ids)).order_by(u.update)):
        found.setdefault(row.turn, []).append((row.update, row.advantage))
    return found


def _reactions(c: Connection, ids: Sequence[str]) -> dict[str, list[Message]]:
    """What was said first behind each."""
    t = schema.turns.c
    query = select(t.parent, t.messages).where(t.parent.in_(ids), t.kind == "main").order_by(t.created.desc())
    return {row.parent: [m for m in _messages(row.messages) if m.role in ("user", "tool")] for row in c.execute(query)}


def _messages(body: str) -> list[Message]:
    return [message_from_dict(message) for message in json.loads(body)]


def _text(messages: Iterable[Message]) -> str:
    return "\n".join(filter(None, map(spoken, messages)))


def _answer(answer: Message) -> str:
    """What was answered, calls of tools as name(arguments)."""
    calls = [call.get("function") or {} for call in answer.tool_calls]
    return "\n".join(filter(None, [answer.content, *(f"{f.get('name')}({f.get('arguments')})" for f in calls)]))
