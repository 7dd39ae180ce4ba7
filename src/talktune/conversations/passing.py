"""What a client adds to its messages and takes out of its history again: known by comparing the two.

A turn's own messages are held against the place in a later history where they stood. A message that is not there any
more had only passed by; of one that is shorter there, the rest was an envelope. What was seen once in a conversation
is looked for in its newest messages, too, which no history shows yet: a client does again what it did before.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from talktune.conversations.marks import skeleton
from talktune.conversations.words import spoken
from talktune.types import Message

KEPT = 6
"""So many of the last envelopes and passing messages are remembered."""
LOOKED_AT = 20_000
"""Characters of a message, or of an envelope, whose shape is looked at."""
SEARCHED = 500_000
"""Characters of a text in which words are looked for that a client has set with other white space."""
_PIECE = re.compile(r"\d+(?:[.:,/-]\d+)*|[^\W\d_]+|\s+|[\W_]")
_CALENDAR = re.compile(
    r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?|[ap]m|utc|gmt|[ecmp][ds]?t|cest|t|z|"
    r"jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?)",
    re.I,
)
_CLOSED = {"[": "]", "(": ")", "{": "}", "<": ">", "«": "»", "【": "】"}
_OPENED = {closed: opened for opened, closed in _CLOSED.items()}


@dataclass
class Habits:
    """What a client was seen to add, in one line of a conversation up to some turn."""

    blocks: list[str] = field(default_factory=list[str])
    """Passing messages."""
    envelopes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What stood before and behind a person's words."""
    places: dict[int, tuple[bool, ...]] = field(default_factory=dict[int, tuple[bool, ...]])
    """Of so many messages in a row, which passed."""

    def learn(self, messages: Sequence[Message]) -> None:
        """Take in messages whose words are known."""
        users = [m for m in messages if m.role == "user"]
        passed = [m.words == "" for m in users]
        if any(passed) and not all(passed):
            self.places[len(users)] = tuple(passed)
        for message in users:
            if message.words == "":
                self.blocks = [*self.blocks, message.content][-KEPT:]
            elif message.words is not None:
                before, _, behind = message.content.partition(message.words)
                self.envelopes = [*self.envelopes, (before, behind)][-KEPT:]

    def applied(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The newest messages of a client with these habits; at least one of the person's is left to count."""
        users = [i for i, m in enumerate(messages) if m.role == "user" and m.words is None]
        if not users or not (self.blocks or self.envelopes):
            return tuple(messages)
        passed = [any(_alike(messages[i].content, block) for block in self.blocks) for i in users]
        usual = self.places.get(len(users))
        if usual is not None and (all(passed) or all(u for u, p in zip(usual, passed, strict=True) if p)):
            passed = list(usual)
        if all(passed):
            passed = [False] * len(users)
        gone = {i for i, passes in zip(users, passed, strict=True) if passes}
        return self.unwrapped([replace(m, words="") if i in gone else m for i, m in enumerate(messages)])

    def unwrapped(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Messages that all count, with the words in those that an envelope is around."""
        found = list(messages)
        for i, message in enumerate(messages):
            if message.role == "user" and message.words is None:
                words = self._unwrapped(message.content)
                if words != message.content:
                    found[i] = replace(message, words=words)
        return tuple(found)

    def _unwrapped(self, text: str) -> str:
        for before, behind in reversed(self.envelopes):
            start = _length_like(text, before)
            rest = text[start:]
            end = _length_like(rest[-_reach(behind) :][::-1], behind[::-1], backwards=True)
            inner = rest[: len(rest) - end]
            if inner.strip() and (start or not before.strip()) and (end or not behind.strip()):
                return inner.strip()
        return text


def compared(messages: Sequence[Message], shown: Sequence[Message], *, cut: bool) -> tuple[Message, ...] | None:
    """A turn's messages with their words, as a later history shows them; None where it does not show them at all.

    `cut` says that the history may have lost its beginning: then what is missing in front shows nothing.
    """
    users = [i for i, m in enumerate(messages) if m.role == "user"]
    later = [m for m in shown if m.role == "user"]
    pairs = _pairs([messages[i] for i in users], later)
    if not pairs:
        return None
    found = list(messages)
    first = min(pairs)
    for place, i in enumerate(users):
        message = messages[i]
        if place in pairs:
            words = _inner(message.content, later[pairs[place]].content)
            if words is not None:
                found[i] = replace(message, words=words)
        elif not (cut and place < first):
            found[i] = replace(message, words="")
    return tuple(found)


def _pairs(messages: Sequence[Message], later: Sequence[Message]) -> dict[int, int]:
    """Which message stands where in the later history: as it was, within, with more around it, or nearly so."""
    ours, theirs = ([skeleton(m.content) or m.content.strip() for m in some] for some in (messages, later))
    own, other = ([skeleton(spoken(m)) for m in some] for some in (messages, later))
    pairs: dict[int, int] = {}
    for j in reversed(range(len(theirs))):  # the last of them first: the person's newest words
        free = [i for i in range(len(ours)) if i not in pairs]
        best = (
            [i for i in free if ours[i] == theirs[j]]
            or [i for i in free if own[i] and own[i] == other[j]]
            or [i for i in free if theirs[j] and (ours[i].startswith(theirs[j]) or ours[i].endswith(theirs[j]))]
            or [i for i in free if theirs[j] and theirs[j] in ours[i]]
            or [i for i in free if len(own[i]) > 3 and own[i] in theirs[j]]
            or [i for i in free if _alike(messages[i].content, later[j].content)]
        )
        if best:
            pairs[best[-1]] = j
    return pairs


def _inner(text: str, words: str) -> str | None:
    """The words where they stand within the text and are not all of it; as the text spells them."""
    words = words.strip()
    if not words or text.strip() == words:
        return None
    for at in (len(text.rstrip()) - len(words), len(text) - len(text.lstrip()), _last(text, words)):
        if at >= 0 and text.startswith(words, at):
            return words
    if len(text) > SEARCHED:
        return None
    if (loose := _loosely(text, words)) is not None and loose != text.strip():
        return loose
    plain = unicodedata.normalize("NFC", text)
    if plain != text and (inner := _inner(plain, unicodedata.normalize("NFC", words))) is not None and inner in text:
        return inner
    return None


def _loosely(text: str, words: str) -> str | None:
    """The last place of the words in the text, whatever white space is between them; as the text spells them.

    Both are compared with single spaces.
    """
    ours, theirs = (" ".join(one.split()) for one in (text, words))
    start = _last(ours, theirs)
    if start < 0:
        return None
    marks = [m.start() for m in _WORD.finditer(text)]

    def place(at: int) -> int:
        """Where the letter at `at` of ours stands in the text."""
        return marks[ours.count(" ", 0, at)] + at - (ours.rfind(" ", 0, at) + 1)

    return text[place(start) : place(start + len(theirs) - 1) + 1]


def _last(text: str, words: str) -> int:
    """Where the words stand last in the text, or -1: reversed, since only `find` is never slow."""
    back = text[::-1].find(words[::-1])
    return back if back < 0 else len(text) - back - len(words)


_WORD = re.compile(r"\S+")


def _alike(text: str, block: str) -> bool:
    """Whether a text has the shape of another: the same but for numbers, or most of its words, or its first line."""
    ours, theirs = (_SHAPE.sub("0", one.strip()[:LOOKED_AT]).casefold() for one in (text, block))
    if ours == theirs:
        return True
    first, other = (one.split("\n", 1)[0] for one in (ours, theirs))
    if len(first) >= 12 and first == other and "\n" in ours:
        return True
    a, b = ours.split()[:400], theirs.split()[:400]
    if min(len(a), len(b)) < 3:
        return False
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= 0.6


_SHAPE = re.compile(r"\d+(?:[.:,/-]\d+)*")


def _length_like(text: str, pattern: str, *, backwards: bool = False) -> int:
    """How much of the beginning of a text has the shape of a pattern; 0 for none.

    Numbers and names of days stand for each other, words for themselves; or both begin alike and end with the same
    sign; with `backwards` both are read from behind.
    """
    if not pattern.strip():
        return 0
    if text.startswith(pattern):
        return len(pattern)
    at = 0
    if len(pattern) > LOOKED_AT:
        return 0
    rest = text[: _reach(pattern)]
    pieces = [m[0] for m in _PIECE.finditer(rest)]
    wanted = [m[0] for m in _PIECE.finditer(pattern)]
    for piece, want in zip(pieces, wanted, strict=False):
        if not _stands_for(piece[::-1] if backwards else piece, want[::-1] if backwards else want):
            break
        at += len(piece)
    else:
        if len(pieces) >= len(wanted):
            return at
    return _delimited(rest, pattern, backwards)


def _reach(pattern: str) -> int:
    """So many characters of a text may have the shape of a pattern."""
    return min(20 * len(pattern) + 100, max(20 * LOOKED_AT, len(pattern)))


def _stands_for(piece: str, want: str) -> bool:
    if piece == want or (piece.isspace() and want.isspace()):
        return True
    if piece[0].isdigit() and want[0].isdigit():
        return True
    return _CALENDAR.fullmatch(piece) is not None and _CALENDAR.fullmatch(want) is not None


def _delimited(text: str, pattern: str, backwards: bool) -> int:
    """A bracket for a bracket, a block for a block in tags; or as many lines for lines that begin with the same word.

    With `backwards` both are reversed: a bracket closes first, and the words are read the right way round.
    """
    lead, want = text.lstrip(), pattern.strip()
    skipped = len(text) - len(lead)
    other = (_OPENED if backwards else _CLOSED).get(want[0])
    if other is not None and lead[:1] == want[0] and want.endswith(other):
        tag = want[want.rfind(want[0]) :] if want[0] in "<>" else want
        closing = other if tag == want else tag
        end = lead.find(closing)
        return 0 if end < 0 else skipped + end + len(closing)
    if not pattern.endswith("\n"):
        return 0
    lines = pattern.count("\n")
    parts = text.split("\n", lines)
    if len(parts) <= lines:
        return 0
    if backwards:
        word, begins = re.match(r"\w+\W*", want[::-1]), "\n".join(parts[:lines])[::-1].strip()
    else:
        word, begins = re.match(r"\W*\w+", want), lead
    known = word is not None and begins.startswith(word[0].strip() if backwards else word[0])
    return len(text) - len(parts[-1]) if known else 0
