"""Scores how well a request's history fits a stored turn and its ancestors.

Open it when a changed history is placed wrongly.

A request is read as blocks: what was said to the model, and its answer. A turn's line is aligned with them from the
end. Answers are what the server wrote itself, so they weigh most, by their length: "Ok." has been said before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Literal

from talktune.conversations.marks import answer_mark, answer_text, asked_mark, said, skeleton
from talktune.conversations.words import spoken
from talktune.store.rows import MarkedTurn
from talktune.types import Message

SIMILAR = 0.6
"""So much of an answer must be left when a client changed it."""
LEAST = 20
"""Characters that a part of an answer needs to stand for it."""
GRAM = 5
COMPARED = 8000
"""Characters of an answer that are compared."""
GAP = 0.05
"""What a turn costs that the request has nothing of, between others that it has."""
SKIPPED = 3
"""So many turns or blocks in a row may be missing between two that fit."""


@dataclass(frozen=True)
class Block:
    """One part of a history: what was said to the model, and the answers that followed, in one piece or several."""

    before: tuple[Message, ...]
    answers: tuple[Message, ...]
    end: int
    """How many messages the request has up to and with the last of the answers."""

    @cached_property
    def text(self) -> str:
        """The text that identifies the block's answer."""
        return answer_text(self.whole)

    @cached_property
    def weight(self) -> float:
        """The weight of the block's answer in an alignment."""
        return weight(self.text)

    @cached_property
    def whole(self) -> Message:
        """The block's answers joined to one."""
        return joined(self.answers)

    @cached_property
    def marks(self) -> dict[bytes, int]:
        """By `answer_mark`, the place where the answer ends: of the block as a whole, and of each of its answers."""
        ends: dict[bytes, int] = {}
        for i, answer in enumerate(self.answers, self.end - len(self.answers) + 1):
            if (mark := answer_mark(answer)) is not None:
                ends[mark] = i
        if (mark := answer_mark(self.whole)) is not None:
            ends[mark] = self.end
        return ends

    @cached_property
    def asked(self) -> bytes | None:
        """The mark of the message that the block answers."""
        return asked_mark(self.before)

    @cached_property
    def users(self) -> list[str]:
        """What the person said, as skeletons."""
        return _users(self.before)


@dataclass(frozen=True, slots=True)
class Fit:
    """A stored turn, how well its line fits the request, and where in the request its answer stands."""

    candidate: MarkedTurn
    score: float
    block: int
    end: int
    """How many messages the request has up to and with the answer."""


def joined(answers: Sequence[Message]) -> Message:
    """Join consecutive answers to one: their texts and their calls in a row."""
    if len(answers) == 1:
        return answers[0]
    calls = tuple(call for answer in answers for call in answer.tool_calls)
    reasoning = "".join(answer.reasoning_content or "" for answer in answers)
    return Message("assistant", "".join(a.content for a in answers), calls, reasoning_content=reasoning or None)


def blocks_of(messages: Sequence[Message], most: int) -> list[Block]:
    """The last blocks of a request, at most so many."""
    found: list[Block] = []
    end = len(messages)
    while len(found) < most:
        while end > 0 and messages[end - 1].role != "assistant":
            end -= 1
        if end == 0:
            break
        start = end
        while start > 0 and messages[start - 1].role == "assistant":
            start -= 1
        first = start
        while first > 0 and messages[first - 1].role != "assistant":
            first -= 1
        before = tuple(m for m in messages[first:start] if m.role != "system")
        found.append(Block(before, tuple(messages[start:end]), end))
        end = start
    found.reverse()
    return found


def answer_fit(block: Block, turn: MarkedTurn) -> float:
    """How surely the block's answer is the turn's, 0 … 1: by its mark, by what is left of it, or because both are
    empty.
    """
    if turn.mark is not None and turn.mark in block.marks:
        return 1.0
    ours = answer_text(turn.answer)
    if not ours or not block.text:
        return 0.9 if ours == block.text else 0.0
    likeness = similarity(ours, block.text)
    return 0.8 * likeness if likeness >= SIMILAR else 0.0


def similarity(a: str, b: str) -> float:
    """0 … 1 for two skeletons: the share of pieces that both have, of the shorter one where it was cut off."""
    if a == b:
        return 1.0
    short, long = sorted((a, b), key=len)
    if len(short) >= LEAST and long.startswith(short):
        return 0.95
    first, second = _grams(a), _grams(b)
    common = len(first & second)
    if not common:
        return 0.0
    contained = 0.9 * common / min(len(first), len(second)) if len(short) >= LEAST else 0.0
    return max(common / len(first | second), contained)


class Alignment:
    """Aligns the blocks of one request with turns, each with as many of its ancestors as are at hand."""

    def __init__(self, blocks: Sequence[Block], turns: Mapping[str, MarkedTurn], *, cut: bool) -> None:
        """`cut` says that the request has earlier blocks than these."""
        self._blocks = blocks
        self._turns = turns
        self._cut = cut
        said_by_others = (m for turn in turns.values() for m in turn.messages if m.role == "assistant")
        foreign = {mark for m in said_by_others if (mark := answer_mark(m)) is not None}
        costs = [0.0 if foreign & set(b.marks) else 0.5 * b.weight for b in blocks]
        self._cost = list(accumulate(costs, initial=0.0))
        marks = {turn.mark for turn in turns.values()}
        self._known_blocks = [bool(marks & set(b.marks)) for b in blocks]
        self._users: dict[str, list[str]] = {}
        self._worth: dict[tuple[str, int], float | None] = {}

    def fit(self, candidate: MarkedTurn) -> Fit | None:
        """The best alignment of a turn and its ancestors; None where the request has no place for it."""
        found: Fit | None = None
        for j in range(len(self._blocks) - 1, -1, -1):
            worth = self._best(candidate, j)
            if worth is not None:
                score = worth - 0.5 * self._missing(j + 1, len(self._blocks))
                if found is None or score > found.score:
                    block = self._blocks[j]
                    end = block.end if candidate.mark is None else block.marks.get(candidate.mark, block.end)
                    found = Fit(candidate, score, j, end)
        return found

    def _missing(self, start: int, end: int) -> float:
        """What blocks cost that no turn has."""
        return self._cost[end] - self._cost[start]

    def _best(self, turn: MarkedTurn, j: int) -> float | None:
        """The worth of the turn's line and of `blocks[: j + 1]` when the turn and block j are one."""
        key = turn.id, j
        if key not in self._worth:
            worth = self._pair(turn, j)
            self._worth[key] = None if worth is None else worth + self._rest(turn, j)
        return self._worth[key]

    def _rest(self, turn: MarkedTurn, j: int) -> float:
        """The worth of what lies before a pair."""
        known = turn.parent is None or turn.parent in self._turns
        rest = -self._missing(0, j) if known else 0.0
        for skipped in range(SKIPPED):
            above = self._turns.get(turn.parent or "")
            if above is None:
                break
            for back in range(j - 1, max(j - 2 - SKIPPED, -1), -1):
                before = self._best(above, back)
                if before is not None:
                    rest = max(rest, before - self._missing(back + 1, j) - GAP * skipped)
            turn = above
        return rest

    def _pair(self, turn: MarkedTurn, j: int) -> float | None:
        """The worth of the turn and block j as one: of the answer, and of what the person had said."""
        block = self._blocks[j]
        if turn.mark is not None and turn.mark in block.marks:
            answered = 1.0
        elif self._known_blocks[j] or not (answered := answer_fit(block, turn)):  # it is another turn's
            return None
        worth = answered * block.weight
        if turn.id not in self._users:
            self._users[turn.id] = _users(said(turn.messages))
        relation, text = _relation(block.users, self._users[turn.id])
        if relation == "other":  # a summary may stand in front of the first block that is left
            return worth * (0.6 if j == 0 and not self._cut else 0.4)
        return worth + {"equal": 1.0, "within": 0.8, "alike": 0.5, "nothing": 0.0}[relation] * weight(text)


def weight(text: str) -> float:
    """The weight of an equal text, 0.1 … 1 by its length: short texts repeat by chance."""
    return min(1.0, 0.1 + len(text) / 50)


def _relation(
    here: Sequence[str], there: Sequence[str]
) -> tuple[Literal["equal", "within", "alike", "other", "nothing"], str]:
    """How what the person says in a request goes with what a turn has, and the text that shows it."""
    if not here or not there:
        return "nothing", ""
    equal = [text for text in here if text in there]
    if equal:
        return "equal", max(equal, key=len)
    pairs = [sorted((a, b), key=len) for a in here for b in there]
    within = [
        short
        for short, long in pairs
        if short and (long.startswith(short) or long.endswith(short) or (len(short) >= 8 and short in long))
    ]
    if within:
        return "within", max(within, key=len)
    alike = [short for short, long in pairs if similarity(short, long) >= SIMILAR]
    return ("alike", max(alike, key=len)) if alike else ("other", "")


def _users(messages: Sequence[Message]) -> list[str]:
    texts = [skeleton(spoken(m)) for m in messages if m.role == "user"]
    return [text for text in texts if text]


@lru_cache(maxsize=512)
def _grams(text: str) -> frozenset[str]:
    if len(text) > COMPARED:
        text = text[: COMPARED // 2] + text[-COMPARED // 2 :]
    return frozenset(text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1)))
