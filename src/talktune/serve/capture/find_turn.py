"""Finds the stored turn that a request continues; where there is none, a new conversation begins.

Open it where a reaction reached the wrong turn, or none: `place`.

A history that came back as it was is known by its hash. Clients change theirs: they drop what they had added in
passing, cut the beginning off, sum it up, rewrite ids and markup. Then the answers in it tell, which the server wrote
itself: turns that gave the last ones are looked up, and the one whose line goes best with the whole request is its
parent. Where another conversation goes as well with it, nothing is guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from talktune.conversations.marks import answer_mark
from talktune.serve.capture.aligning import Alignment, Block, Fit, answer_fit, blocks_of, joined
from talktune.serve.capture.history_hash import Prefixes, prefixes
from talktune.serve.capture.summaries import Summed, summed
from talktune.serve.dialects.chat_request import ChatRequest
from talktune.store.marked_turns import FEW, MarkedTurns
from talktune.store.rows import Found, Lost, MarkedTurn, new_id
from talktune.store.store import Store
from talktune.types import Message

DEPTHS = (8, 64)
"""So many blocks of a request and turns of a line are compared, and so many where that does not decide."""
LOOKED_UP = 8
"""Blocks whose answers are looked up, from the end."""
TELLING = 2
"""So many of them that are known are enough."""
ENOUGH = 0.1
"""The least worth of an alignment; a unique answer of a few letters has it."""
MARGIN = 0.05
"""By so much the best must be better than any in another conversation."""


@dataclass(frozen=True, slots=True)
class Place:
    """A conversation, the turn that the request continues, and what the request adds to it."""

    conversation: str
    parent: str | None
    messages: tuple[Message, ...]
    """What is new since the parent's answer, without the system prompt."""
    state: bytes
    """Hash state of the whole request: with the answer it becomes the hash that the next request is found by."""
    history: tuple[Message, ...] | None = None
    """What was sent up to the parent's answer, where that is not what had been said."""
    lost: Lost | None = None
    prefill: Message | None = None
    """The beginning of the answer, which the client wrote."""

    def whole(self, answer: Message) -> Message:
        """The answer together with the beginning that the client wrote for it, as the client will send it back."""
        return answer if self.prefill is None else joined((self.prefill, answer))


def place(store: Store, user: str, asked: ChatRequest) -> Place:
    """Find the turn that a request continues, or make a new conversation for it.

    A session id decides the conversation where one is given, and the history decides the turn within it. Else the
    history decides both, whoever edited or regenerated what came after it.
    """
    messages, prefill = asked.messages, None
    if len(messages) > 1 and messages[-1].role == "assistant" and not messages[-1].tool_calls:
        messages, prefill = messages[:-1], messages[-1]
    known = prefixes(messages)
    conversation = None if asked.session is None else store.conversation_of_session(user, asked.session)
    searched = bool(known.hashes) and (conversation is not None or asked.session is None)
    found = store.find(user, known.hashes, asked.system, conversation) if searched else None
    if found is not None and found.hash == known.hashes[0] and (found.kind == "main" or asked.kind == "side"):
        return _exactly(found, known, messages, prefill)
    fitting: Fit | Lost = "unknown"
    if searched:
        fitting = _aligned(store, user, asked, messages, conversation)
    if isinstance(fitting, Fit) and (found is None or _later(fitting, found, known)):
        rest = tuple(m for m in messages[fitting.end :] if m.role != "system")
        history = tuple(m for m in messages[: fitting.end] if m.role != "system")
        turn = fitting.candidate
        return Place(turn.conversation, turn.id, rest, known.state, history, prefill=prefill)
    if found is not None and fitting != "ambiguous":
        return _exactly(found, known, messages, prefill)
    if fitting == "unknown" and asked.summed and (conversation is not None or asked.session is None):
        with store.reading() as connection:
            behind = summed(MarkedTurns(connection, user, conversation), messages, asked.raw["messages"])
        if isinstance(behind, Summed):
            turn = behind.turn
            return Place(turn.conversation, turn.id, behind.messages, known.state, behind.history, prefill=prefill)
    lost = fitting if known.hashes and isinstance(fitting, str) else None
    return Place(
        conversation or new_id("conv"), None, known.rest(None, messages), known.state, lost=lost, prefill=prefill
    )


def _exactly(found: Found, known: Prefixes, messages: Sequence[Message], prefill: Message | None) -> Place:
    return Place(found.conversation, found.id, known.rest(found.hash, messages), known.state, prefill=prefill)


def _later(fitting: Fit, found: Found, known: Prefixes) -> bool:
    """Whether the alignment knows more of the request than the history that came back as it was."""
    return fitting.end > known.ends[known.hashes.index(found.hash)] or found.kind == "side"


def _aligned(
    store: Store, user: str, asked: ChatRequest, messages: Sequence[Message], conversation: str | None
) -> Fit | Lost:
    """The turn whose line goes best with the request, or why there is none."""
    fitting: Fit | Lost = "unknown"
    with store.reading() as connection:
        candidates = MarkedTurns(connection, user, conversation)
        for depth in DEPTHS:
            blocks = blocks_of(messages, depth + 1)
            cut, blocks = len(blocks) > depth, blocks[-depth:]
            if asked.kind == "side":
                blocks = [_SideBlock(b.before, b.answers, b.end) for b in blocks]
            fitting = _best(candidates, blocks, depth, cut=cut, session=conversation is not None)
            if fitting != "ambiguous" or not cut:
                break
    return fitting


class _SideBlock(Block):
    """A block of a side request, which may go on behind a side turn as well."""

    @property
    def marks(self) -> dict[bytes, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of main turns and those of side turns."""
        mark = answer_mark(self.whole, "side")
        return super().marks | ({} if mark is None else {mark: self.end})


def _best(candidates: MarkedTurns, blocks: Sequence[Block], depth: int, *, cut: bool, session: bool) -> Fit | Lost:
    looked = blocks[-LOOKED_UP:]
    found = {c.id: c for c in candidates.answered(looked[-1].marks) or ()}
    fitting = _judged(candidates, found, blocks, depth, cut=cut, session=session)
    if not isinstance(fitting, Fit) or fitting.block < len(blocks) - 1:
        found |= _further(candidates, looked)
        fitting = _judged(candidates, found, blocks, depth, cut=cut, session=session)
    return fitting


def _further(candidates: MarkedTurns, blocks: Sequence[Block]) -> dict[str, MarkedTurn]:
    """Turns by the last answers that tell anything, by what they answer, and those that go on behind these."""
    found: dict[str, MarkedTurn] = {}
    common: set[bytes] = set()
    told = 0
    for block in reversed(blocks):
        some = None if common & set(block.marks) else candidates.answered(block.marks)
        if some is None:
            common |= set(block.marks)
            some = candidates.answered(block.marks, block.asked) if block.asked else ()
        if not some:
            some = candidates.asked(block.asked)
        some = {c.id: c for c in some or () if any(answer_fit(b, c) for b in blocks)}
        found |= some
        told += bool(some)
        if told == TELLING:
            break
    newest = dict(found)
    for _ in blocks:
        behind = {c.id: c for c in candidates.children(newest) if c.id not in found} if newest else {}
        newest = {id: c for id, c in behind.items() if c.kind == "main" and any(answer_fit(b, c) for b in blocks)}
        found |= newest
        if not newest or len(found) > 10 * FEW:
            break
    return found


def _judged(
    candidates: MarkedTurns,
    found: dict[str, MarkedTurn],
    blocks: Sequence[Block],
    depth: int,
    *,
    cut: bool,
    session: bool,
) -> Fit | Lost:
    if not found:
        return "unknown"
    alignment = Alignment(blocks, candidates.with_ancestors(found.values(), depth), cut=cut)
    fits = [one for candidate in found.values() if (one := alignment.fit(candidate)) is not None]
    fits = [one for one in fits if session or one.score >= ENOUGH - 1e-9]
    if not fits:
        return "unknown"
    # Of equals in one conversation: the one that nothing continues yet, then the newest.
    fits.sort(key=lambda one: (-round(one.score, 6), one.candidate.continued, -one.candidate.created))
    best = fits[0]
    others = [one.score for one in fits if one.candidate.conversation != best.candidate.conversation]
    if others and best.score - max(others) < MARGIN:
        return "ambiguous"
    return best
