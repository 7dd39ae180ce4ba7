"""A score, from a fitted table of words, of how much a request is like those that clients send.

Open it with `scripts/fit_side.py`, which makes the table.

A table says what each word and each pair of words counts, in a system prompt and in what was said last, beside the
shape of the request. `scripts/fit_side.py` makes it from whole requests of both kinds; no pattern is read for it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from math import sqrt
from pathlib import Path

from talktune.serve.side.telling import ABOUT, CHANGE, OWN, PERSON, QUOTED, TRANSCRIPT, is_transcript

ENOUGH = 1.0
"""Points of a client's order: a person's are below zero, and in doubt a request is a person's."""
SHORT = 60
"""Characters of the texts of a request, at least: a client does not say in fewer what it wants."""
START = 600
"""Characters at the start of a text where it says what it wants."""
TAIL = 300
"""And at its end, where it may say that behind a transcript."""
LEAST = 20
"""Marks of a request that has fewer: one telling word in a short request is not everything."""

_WORD = re.compile(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+")
"""Words, and single letters of scripts that put no space between words."""


def points(system: Sequence[str], words: Sequence[str], shape: Iterable[str]) -> float:
    """The points of a request, by its system prompts, what was said since the last answer, and its shape.

    Above zero it is rather a client's. The shape is in words of its own, as in "tools 2".
    """
    if sum(map(len, (*system, *words[-1:]))) < SHORT:
        return -1.0
    table = _table()
    parts = [_part("s", text) for text in system] + [_part("u", text) for text in words[-1:]]
    count, worth = sum(n for n, _ in parts), sum(worth for _, worth in parts)
    about = sum(table.get(one, 0.0) for one in _about(words, shape))
    return about / sqrt(LEAST) + worth / sqrt(max(LEAST, count))


def marks(system: Sequence[str], words: Sequence[str], shape: Iterable[str]) -> dict[str, float]:
    """All marks of a request with their counts: what `points` adds up, for the fit of the table."""
    found = [one for text in system for one in marks_of("s", text)]
    found += [one for text in words[-1:] for one in marks_of("u", text)]
    part = 1 / sqrt(max(LEAST, len(found)))
    return {one: found.count(one) * part for one in found} | dict.fromkeys(_about(words, shape), 1 / sqrt(LEAST))


def _about(words: Sequence[str], shape: Iterable[str]) -> list[str]:
    """The shape as marks: it counts as much beside long texts as beside short ones."""
    return [f"<{one}>" for one in shape] + ["<own>"] * bool(words and _is_own(words[-1]))


def marks_of(place: str, text: str) -> set[str]:
    """Words and pairs of words of a text where it says what it wants, with its place: "s", system, or "u", user."""
    found: set[str] = set()
    for part in _asking(text, START, TAIL):
        words = [_word(one) for one in _WORD.findall(part)]
        found.update([f"{place} {word}" for word in words])
        found.update([f"{place} {first} {second}" for first, second in pairwise(words)])
    return found | {f"<{place} talk>"} if is_transcript(text) else found


@lru_cache(maxsize=256)
def _part(place: str, text: str) -> tuple[int, float]:
    """How many marks a text has, and their worth: a client sends its system prompt each time."""
    table, found = _table(), marks_of(place, text)
    return len(found), sum(table.get(one, 0.0) for one in found)


@lru_cache(maxsize=1)
def _table() -> dict[str, float]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


TABLE = Path(__file__).with_suffix(".json")
"""What the marks count."""


def _asking(text: str, start: int, tail: int) -> tuple[str, str]:
    """The start of a text, up to a talk or a change that is shown in it, and the last paragraph behind that."""
    shown = [found.start() for p in (TRANSCRIPT, PERSON, CHANGE) if (found := p.search(text)) is not None]
    head = text[: min([start, *shown])]
    return head, text[max(len(head), len(text) - tail) :].rsplit("\n\n", 1)[-1]


def _is_own(text: str) -> bool:
    """Whether a person speaks of themselves, or about something."""
    ask = next((part for part in _asking(text, 2 * START, TAIL) if part.strip()), "")
    return OWN.search(QUOTED.sub("", ask)) is not None or ABOUT.search(ask) is not None


def _word(text: str) -> str:
    """A word without its case; numbers are one word, and so are constants, by which a client wants to be answered."""
    if text.isdigit():
        return "1"
    return "A_B" if "_" in text and text.isupper() else text.lower()
