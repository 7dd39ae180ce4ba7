"""Finds the conversation of a request whose history is only a summary, which the server itself once wrote.

Open it when a conversation is lost after its client compacted it.

The summary was written by ourselves, as the answer to a request that the client made for itself. It comes back within
a message, with the client's own words around it. So its longest line finds it, and its other lines tell that it is it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import Any, Literal, cast

from talktune.conversations.marks import LEAST_LINE, MOST, line_mark, lines_of
from talktune.store.marked_turns import MarkedTurns
from talktune.store.rows import MarkedTurn
from talktune.types import Message

LOOKED_AT = 200_000
"""Characters of a request's messages that are looked at, from the end."""
LINES = 256
"""Lines of them that are looked up, the longest."""
SHARE = 0.6
"""So much of a summary must have come back."""
MARGIN = 0.05
"""By so much the best must be better than any of another conversation."""


@dataclass(frozen=True, slots=True)
class Summed:
    """A turn that was summed up, and what the request adds behind the summary."""

    turn: MarkedTurn
    history: tuple[Message, ...]
    messages: tuple[Message, ...]
    """From the message that holds the summary on: of that one, only what its other parts say counts."""


def summed(candidates: MarkedTurns, messages: Sequence[Message], raw: Sequence[Any]) -> Summed | Literal["unknown"]:
    """Find the turn that a summary in one of the messages stands for; `raw` are the messages as they were sent.

    Unknown, too, where the same summary was made of two conversations.
    """
    lines: dict[str, int] = {}
    left = LOOKED_AT
    for at in reversed(range(len(messages))):
        if messages[at].role in ("user", "assistant") and left > 0:
            left -= min(len(messages[at].content), MOST)
            lines = dict.fromkeys(lines_of(messages[at]), at) | lines
    longest = nlargest(LINES, (line for line in lines if len(line) >= LEAST_LINE), key=len)
    found: list[tuple[int, float, MarkedTurn]] = []
    for side in candidates.sides([line_mark(line) for line in longest]):
        told = lines_of(side.answer)
        at = lines.get(max(told, key=len), -1)
        share = sum(len(line) for line in told if lines.get(line) == at) / sum(map(len, told))
        if at >= 0 and share >= SHARE:
            found.append((at, share, side))
    if not found:
        return "unknown"
    at, share, side = max(found, key=lambda one: (one[0], one[1], one[2].created))
    if any(n == at and s > share - MARGIN and o.conversation != side.conversation for n, s, o in found):
        return "unknown"
    turn = candidates.main_above(side)
    if turn is None:
        return "unknown"
    first = replace(messages[at], words=_behind(messages[at], raw[at], set(lines_of(side.answer))))
    rest = [first, *messages[at + 1 :]]
    if len(rest) > 1 and first.role == "user" and rest[1].role == "assistant":  # the client's own "Got it."
        rest[1] = replace(rest[1], words="")
    return Summed(turn, _told(messages[:at]), _told(rest))


def _behind(message: Message, raw: Any, told: set[str]) -> str:
    """What the parts behind that with the last of the summary say: a text of one part is the client's as a whole."""
    content: Any = raw.get("content") if isinstance(raw, dict) else None
    if message.role != "user" or not isinstance(content, list):
        return ""
    parts: list[str] = []
    for part in cast(list[Any], content):
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            continue
        parts = [] if told & set(lines_of(Message("user", text))) else [*parts, text]
    return "\n".join(parts).strip()


def _told(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(m for m in messages if m.role != "system")
