"""Makes conversations of a tree of stored turns: one line for each path, each turn trainable in one of them only.

Open it to see how forks are told apart.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from talktune.conversations.marks import answer_text
from talktune.conversations.passing import Habits, compared
from talktune.store.rows import TurnState
from talktune.types import Conversation, Message, Sampled, TurnKind, Verdict

_SILENT = re.compile(r"|\W{0,9}[A-Z][A-Z_]{3,40}\W{0,9}")
"""What a client shows to nobody: HEARTBEAT_OK, NO_REPLY, or nothing at all."""
SHOWN = 6
"""So many of the last turns in a history are compared with what had been said."""


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """One turn as the store has it: what was new, the answer, and what is known of it."""

    id: str
    parent: str | None
    messages: tuple[Message, ...]
    answer: Message
    system: str
    tools: tuple[Mapping[str, Any], ...]
    kind: TurnKind
    state: TurnState
    engine: str
    sampled: Sampled | None = None
    verdict: Verdict | None = None
    history: tuple[Message, ...] | None = None
    """What the client sent up to the parent's answer, where it had changed that."""
    finish: str | None = None
    wanted: str | None = None
    """The answer that the person wanted."""


def conversations_of(name: str, turns: Sequence[StoredTurn]) -> list[Conversation]:
    """The conversation `name` and its forks, from all of its turns (oldest first).

    The main line follows, at each fork, the branch that goes on longest, the oldest of equals; never one that begins
    with a side turn, whose request is no reaction to the answer before it. A fork is a conversation `name/TURN` of
    its own, named after its first turn; the turns that it shares with another line are marked as side turns there:
    none is scored or trained twice. So are partial ones, and answers that came with a request and are nobody's turn.
    """
    known = {turn.id for turn in turns}
    children: dict[str | None, list[StoredTurn]] = {}
    for turn in turns:
        children.setdefault(turn.parent if turn.parent in known else None, []).append(turn)
    height: dict[str, int] = {}
    for turn in reversed(_depth_first(children)):
        height[turn.id] = 1 + max((height[child.id] for child in children.get(turn.id, ())), default=0)
    lines: list[Conversation] = []
    waiting: list[tuple[list[StoredTurn], StoredTurn]] = []
    roots = sorted(
        children.get(None, ()), key=lambda turn: (turn.kind == "side", -height[turn.id])
    )  # stable: the oldest of equals first
    waiting += [([], root) for root in roots]
    while waiting:
        shared, turn = waiting.pop(0)
        path = [*shared, turn]
        while branches := sorted(children.get(path[-1].id, ()), key=lambda t: (t.kind == "side", -height[t.id])):
            goes_on = branches[0].kind == "main"
            waiting += [(list(path), other) for other in branches[goes_on:]]
            if not goes_on:
                break
            path.append(branches[0])
        asides = [frozenset(answer_text(t.answer) for t in children.get(p.id, ()) if t.kind == "side") for p in path]
        lines.append(_line(name if not lines else f"{name}/{turn.id}", path, len(shared), asides))
    return lines


def _depth_first(children: Mapping[str | None, Sequence[StoredTurn]]) -> list[StoredTurn]:
    """Every turn, each behind its parent."""
    found: list[StoredTurn] = []
    waiting = list(children.get(None, ()))
    while waiting:
        turn = waiting.pop()
        found.append(turn)
        waiting += children.get(turn.id, ())
    return found


def _line(name: str, path: Sequence[StoredTurn], shared: int, asides: Sequence[frozenset[str]]) -> Conversation:
    """`asides` are the answers of the side turns behind each turn of the path."""
    system = path[0].system
    messages: list[Message] = [Message("system", system)] if system else []
    kinds: dict[int, TurnKind] = {}
    sampled: dict[int, Sampled] = {}
    verdicts: dict[int, Verdict] = {}
    prompts: dict[int, tuple[Message, ...]] = {}
    finishes: dict[int, str] = {}
    wanted: dict[int, str] = {}
    ids: dict[str, str] = {}
    sent: list[Message] = []
    changed = False
    for i, (turn, own) in enumerate(zip(path, _with_words(path, asides), strict=True)):
        sent = [*(sent if turn.history is None else turn.history), *turn.messages]
        for message in _with_ids(own, turn.history, path[i - 1].answer if i else None):
            if message.role == "assistant":
                kinds[len(messages)] = "side"
            messages.append(message)
        index = len(messages)
        ids[str(index)] = turn.id
        if turn.kind == "side" or turn.state == "partial" or i < shared:
            kinds[index] = "side"
        if turn.sampled is not None:
            sampled[index] = turn.sampled
        if turn.verdict is not None and i >= shared:
            verdicts[index] = turn.verdict
        changed = changed or turn.history is not None
        if changed or turn.system != system:
            first = [Message("system", turn.system)] if turn.system else []
            prompts[index] = (*first, *sent[: len(sent) - len(own)], *own)
        if turn.finish is not None:
            finishes[index] = turn.finish
        if turn.wanted is not None and i >= shared:
            wanted[index] = turn.wanted
        messages.append(turn.answer)
        sent.append(turn.answer)
    return Conversation(
        id=name,
        messages=tuple(messages),
        tools=path[-1].tools,
        metadata={"turns": ids, "engine": path[-1].engine},
        kinds=kinds,
        sampled=sampled,
        verdicts=verdicts,
        prompts=prompts,
        finishes=finishes,
        wanted=wanted,
    )


def _with_words(path: Sequence[StoredTurn], asides: Sequence[frozenset[str]]) -> list[tuple[Message, ...]]:
    """The messages of each turn, those that only passed by and the words within the others marked."""
    own = [_without_asides(turn.messages, asides[i - 1]) if i else turn.messages for i, turn in enumerate(path)]
    shown = list(own)
    settled: set[int] = set()
    for i, turn in enumerate(path):
        newest = all(m.role != "user" for m in turn.messages)
        for k, before, cut in _blocks(turn.history or (), path[:i]):
            known = compared(own[k], before, cut=cut)
            if known is not None:  # the first history that shows a change
                shown[k] = tuple(m if m.words is not None else n for m, n in zip(shown[k], known, strict=True))
                if not newest:  # what a client adds to the newest message of the person may go later
                    settled.add(k)
            newest = newest and all(m.role != "user" for m in before)
    habits = Habits()
    found: list[tuple[Message, ...]] = []
    for i, messages in enumerate(shown):
        found.append(habits.unwrapped(messages) if i in settled else habits.applied(messages))
        if all(m.words is None for m in path[i].messages):  # a summary around the words is no habit
            habits.learn(found[-1])
    return found


def _blocks(history: Sequence[Message], path: Sequence[StoredTurn]) -> Iterator[tuple[int, Sequence[Message], bool]]:
    """The last turns that a history shows: which, what stands before its answer, and whether that may be cut off."""
    end, k = len(history), len(path) - 1
    for number in range(SHOWN):
        last = end
        while end > 0 and history[end - 1].role == "assistant":  # an answer that the client keeps in pieces
            end -= 1
        answer = "".join(answer_text(m) for m in history[end:last])
        start = end
        while start > 0 and history[start - 1].role != "assistant":
            start -= 1
        near = range(k, max(k - SHOWN, -1), -1)
        of = k if number == 0 else next((i for i in near if answer_text(path[i].answer) == answer), None)
        if of is not None and of >= 0:
            yield of, history[start:end], start == 0 and of > 0
            k = of - 1
        if start == 0 or k < 0:
            return
        end = start


def _without_asides(messages: Sequence[Message], asides: frozenset[str]) -> tuple[Message, ...]:
    """Side turns that the client kept in its history are passed over: their requests, and answers for it alone.

    One that a person could read (an alert, a reminder) stands between the answer before it and what was said then.
    """
    found = list(messages)
    start = 0
    for i, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if answer_text(message) in asides:
            for j in range(start, i + bool(_SILENT.fullmatch(message.content.strip()))):
                found[j] = replace(messages[j], words="")
        start = i + 1
    return tuple(found)


def _with_ids(
    messages: Sequence[Message], history: Sequence[Message] | None, answer: Message | None
) -> Sequence[Message]:
    """Tool results under the ids that the answer gave its calls, where the client had others."""
    if not history or answer is None or not answer.tool_calls:
        return messages
    theirs = [call.get("id") for call in history[-1].tool_calls]
    ids = dict(zip(theirs, (call.get("id") for call in answer.tool_calls), strict=False))
    return [
        replace(m, tool_call_id=ids[m.tool_call_id]) if m.role == "tool" and m.tool_call_id in ids else m
        for m in messages
    ]
