"""A small world of conversations: a user asks for a colour in one of three ways, and reacts in words.

    question (words) -> answer (words) -> the user's opinion -> the user's reaction (words) -> votes on it

The three kinds of question are there because each needs another part of GRPO-TCR: `plain` answers are short,
`list` answers are long and run into the length limit, and the good word of an `exact` answer is rare.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from talktune.types import Label, Turn

Kind = Literal["plain", "exact", "list"]

END, USER, BOT, WHICH, EXACTLY, LIST = "<end>", "<user>", "<bot>", "which", "exactly", "list"
THINGS = ("sky", "grass", "snow", "coal", "rose", "lemon")
COLOURS = ("blue", "green", "white", "black", "red", "yellow")
SHADES = ("azure", "emerald", "ivory", "jet", "crimson", "amber")
FILLERS = ("well", "so", "hm", "really", "you", "see", "it", "is", "just", "quite")
WORDS = (END, USER, BOT, WHICH, EXACTLY, LIST, *THINGS, *COLOURS, *SHADES, *FILLERS)
"""Every word is one token; its id is its place here."""
IDS = {word: i for i, word in enumerate(WORDS)}
END_ID = IDS[END]

LIST_GOOD, LIST_FAIR = 6, 4
"""Different colours that a list must have to be good, or fair."""
KNOWS, KNOWS_SHADE = 0.3, 0.06
"""Share of the base model's answers that name the right colour, or the right shade."""

REACTIONS: dict[Label, tuple[str, ...]] = {
    1: ("Thank you, exactly.", "Great, that is what I wanted.", "Perfect."),
    0: ("Well, more or less.", "Hm, that is part of it.", "Fine, I suppose."),
    -1: ("No, that is not it.", "You did not answer my question.", "That is wrong."),
}
"""What the user types after a good, a fair and a bad answer."""
_OPINIONS: dict[str, Label] = {text: label for label, texts in REACTIONS.items() for text in texts}


@dataclass(frozen=True, slots=True)
class Question:
    """One question: its kind and what it is about (an index into THINGS)."""

    kind: Kind
    thing: int

    def words(self) -> tuple[str, ...]:
        """The prompt as words, up to where the answer begins."""
        if self.kind == "list":
            return (USER, LIST, BOT)
        return (USER, WHICH if self.kind == "plain" else EXACTLY, THINGS[self.thing], BOT)

    def ids(self) -> tuple[int, ...]:
        """The prompt as token ids."""
        return tuple(IDS[word] for word in self.words())


def questions(kinds: Sequence[Kind], n: int, rng: Random) -> list[Question]:
    """Draw n questions, the kinds in turn (so that each has its share), their things at random."""
    return [Question(kinds[i % len(kinds)], rng.randrange(len(THINGS))) for i in range(n)]


def opinion(question: Question, answer: Sequence[str]) -> Label:
    """What the user thinks of an answer, given as words with its END where it has one.

    An answer that was cut off is bad. `plain`: good when the first colour named is the right one, fair when
    the right one comes later. `exact`: the same with shades. `list`: good from LIST_GOOD different colours,
    fair from LIST_FAIR. Everything else is bad.
    """
    if not answer or answer[-1] != END:
        return -1
    if question.kind == "list":
        different = len(set(answer) & set(COLOURS))
        return 1 if different >= LIST_GOOD else 0 if different >= LIST_FAIR else -1
    names = COLOURS if question.kind == "plain" else SHADES
    named = [word for word in answer if word in names]
    right = names[question.thing]
    return -1 if right not in named else 1 if named[0] == right else 0


def react(label: Label, rng: Random) -> str:
    """What the user types, given the opinion."""
    return rng.choice(REACTIONS[label])


def truth(turn: Turn) -> Label | None:
    """The opinion behind the user's words: what the oracle judge knows. `None` for words the user never says."""
    return _OPINIONS.get(turn.next_state[-1].content) if turn.next_state else None


def base_answers(n: int, rng: Random) -> Iterator[tuple[Question, list[str]]]:
    """Draw n answers such as the base model is to give: it rambles and knows little, but not nothing."""
    kinds: tuple[Kind, ...] = ("plain", "exact", "list")
    for question in questions(kinds, n, rng):
        if question.kind == "list":
            words = [rng.choice(COLOURS if rng.random() < 0.45 else FILLERS) for _ in range(_length(rng, 1 / 14))]
        else:
            words = [_name(question, rng), *_fill(rng)]
        yield question, [*words, END]


def _name(question: Question, rng: Random) -> str:
    if question.kind == "exact" and rng.random() < KNOWS_SHADE:
        return SHADES[question.thing]
    return COLOURS[question.thing] if rng.random() < KNOWS else rng.choice(COLOURS)


def _fill(rng: Random) -> list[str]:
    return [rng.choice(COLOURS if rng.random() < 0.15 else FILLERS) for _ in range(_length(rng, 1 / 5) - 1)]


def _length(rng: Random, stop: float) -> int:
    """A geometric length of at least 1."""
    n = 1
    while rng.random() >= stop and n < 60:
        n += 1
    return n
