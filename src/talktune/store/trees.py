"""A tree of stored turns as conversations: one line for each path, and each turn trainable in one of them only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from talktune.store.rows import TurnState
from talktune.types import Conversation, Message, Sampled, TurnKind, Verdict


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
    finish: str | None = None


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
        lines.append(_line(name if not lines else f"{name}/{turn.id}", path, len(shared)))
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


def _line(name: str, path: Sequence[StoredTurn], shared: int) -> Conversation:
    system = path[0].system
    messages: list[Message] = [Message("system", system)] if system else []
    kinds: dict[int, TurnKind] = {}
    sampled: dict[int, Sampled] = {}
    verdicts: dict[int, Verdict] = {}
    finishes: dict[int, str] = {}
    ids: dict[str, str] = {}
    for i, turn in enumerate(path):
        for message in turn.messages:
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
        if turn.finish is not None:
            finishes[index] = turn.finish
        messages.append(turn.answer)
    return Conversation(
        id=name,
        messages=tuple(messages),
        tools=path[-1].tools,
        metadata={"turns": ids, "engine": path[-1].engine},
        kinds=kinds,
        sampled=sampled,
        verdicts=verdicts,
        finishes=finishes,
    )
