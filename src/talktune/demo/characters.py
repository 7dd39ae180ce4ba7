"""Three scripted users, each with a wish of their own that they never state as a rule: they only react in words.

    short       wants short answers
    plain       wants no lists and no bold
    friendly    wants a friendly word

Each also wants a real answer: empty, stock, off-topic, repetitive or very short ones never satisfy.
"""

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from talktune.demo.user import (
    MIN_NEW_WORDS,
    MIN_WORDS,
    STOCK_PHRASES,
    Question,
    Split,
    content_words,
    ends_like_a_sentence,
    load_questions,
    load_reactions,
    plain_text,
    stem,
    topic_word,
    words_of,
)
from talktune.types import Label

Name = Literal["short", "plain", "friendly"]
NAMES: tuple[Name, ...] = ("short", "plain", "friendly")
HELD_OUT = 40

SHORT_WORDS = 30
"""Up to this many words please the one who wants short answers."""
SOSO_WORDS = 45
"""Up to this many words get a shrug from the same one."""
SEQUENCE = 5
"""A run of this many words that occurs twice makes a longer answer repetitive."""
MAX_REPEATS = 6
"""A content word that occurs more often than this makes a longer answer repetitive."""

_ITEM = re.compile(r"^\s*(?:[-*\u2022+]|\(?\d{1,2}[.):]|\(?[a-z][.)]|#{1,6})\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*|__|\*[A-Za-z][^*\n]*\*")
_ANNOUNCED = re.compile(r":\s*(?:\n|$)")
"""A list that is announced, whether or not its items are still in the answer."""
_INLINE = re.compile(r"(?<=\s)\(?[1-9][.)]\s+[A-Z]")
_WARM = re.compile(
    r"""\b(?:congratulations|congrats|well\ done|good\ luck|best\ of\ luck|have\ fun|enjoy
    | how\ (?:nice|lovely|wonderful)
    | i(?:'m|\ am)\ (?:so\ |very\ |really\ )?(?:happy|glad|delighted|thrilled|excited|proud)
    | (?:what|that's|that\ is|it's|sounds)\ (?:an?\ |such\ an?\ |so\ |really\ )?
      (?:great|wonderful|lovely|fantastic|amazing|nice|exciting|awesome)
    | i\ hope|hope\ (?:you|this|that|it)|you've\ got\ this|don't\ worry|welcome|thank\ you|thanks|cheers
    | my\ friend|dear)\b""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a character thinks of one answer: +1, 0 or -1, and which of the phrasings say so."""

    label: Label
    reason: str


@dataclass(frozen=True)
class Character:
    """One scripted user."""

    name: Name

    @property
    def questions(self) -> dict[Split, tuple[Question, ...]]:
        """`train`, 40 `held-out` ones and the `fact`s of the demo."""
        return _questions(self.name)

    def judge(self, question: Question, answer: str, finished: bool) -> Opinion:
        """The rule: graded, so that even a bad model's answers differ."""
        if self.name == "short":
            return _short(question, answer, finished)
        complaint = _no_real_answer(question, answer)
        if complaint is not None:
            return Opinion(-1, complaint)
        return _plain(answer) if self.name == "plain" else _friendly(answer)

    def react(self, opinion: Opinion, question: Question, rng: random.Random) -> str:
        """What the user types, drawn with `rng` from the phrasings of this opinion."""
        phrasing = rng.choice(phrasings(self.name)[opinion.reason])
        return phrasing.format(question=question.text, topic=topic_word(question))


@cache
def phrasings(name: Name) -> dict[str, tuple[str, ...]]:
    """The demo's phrasings, with those that are this character's own."""
    own = _own_reactions()
    shared: dict[str, tuple[str, ...]] = dict(load_reactions())  # type: ignore[arg-type]
    shared["so-so"] = (*shared["so-so"], *own["short"]["so-so"])
    return shared | {reason: tuple(texts) for reason, texts in own[name].items() if reason != "so-so"}


def _short(question: Question, answer: str, finished: bool) -> Opinion:
    words = words_of(answer)
    if len(words) > SOSO_WORDS:
        return Opinion(-1, "too-long")
    if words and (not finished or not ends_like_a_sentence(answer)):
        return Opinion(-1, "cut-off")
    complaint = _no_real_answer(question, answer)
    if complaint is not None:
        return Opinion(-1, complaint)
    return Opinion(1, "satisfied") if len(words) <= SHORT_WORDS else Opinion(0, "so-so")


def _plain(answer: str) -> Opinion:
    """Bold or two items of a list annoy; one item, or a list that is only announced, gets a shrug."""
    items = len(_ITEM.findall(answer)) + len(_INLINE.findall(answer))
    if _BOLD.search(answer) or items > 1:
        return Opinion(-1, "markup")
    if items or _ANNOUNCED.search(answer):
        return Opinion(0, "so-so")
    return Opinion(1, "satisfied")


def _friendly(answer: str) -> Opinion:
    """A warm phrase or an exclamation in the first two sentences or the last one; elsewhere it gets a shrug."""
    sentences = [s for s in re.findall(r"[^.!?\n]+[.!?]*", answer) if s.strip()]
    edge = " ".join([*sentences[:2], *sentences[-1:]])
    if is_warm(edge):
        return Opinion(1, "satisfied")
    return Opinion(0, "so-so") if is_warm(answer) else Opinion(-1, "cold")


def is_warm(text: str) -> bool:
    """Whether an exclamation or a warm phrase occurs."""
    return "!" in text or _WARM.search(plain_text(text)) is not None


def _no_real_answer(question: Question, answer: str) -> str | None:
    """The first thing that keeps an answer from being one, or None; what stock sentences say does not count."""
    sentences = [s for s in re.split(r"(?<=[.!?\n])", answer) if s.strip()]
    told = "".join(s for s in sentences if not STOCK_PHRASES.search(plain_text(s)))
    words = words_of(told)
    if not words:
        return "empty"
    if len(words) < MIN_WORDS:
        return "too-short"
    if not any(re.search(rf"\b{re.escape(start)}", plain_text(told)) for start in question.topic):
        return "off-topic"
    asked = {stem(word) for word in words_of(question.text)}
    content = content_words(words)
    new = set(content) - asked
    if len(new) < MIN_NEW_WORDS and not question.answer:
        return "echo" if len(set(content) & asked) > len(new) else "empty"
    runs = [tuple(words[i : i + SEQUENCE]) for i in range(len(words) - SEQUENCE + 1)]
    said = [tuple(words_of(s)) for s in re.split(r"[.!?\n]+", told)]
    said = [s for s in said if len(s) > 1]
    if (
        len(set(runs)) < len(runs)
        or len(set(said)) < len(said)
        or max(Counter(content).values(), default=0) > MAX_REPEATS
    ):
        return "repetitive"
    return None


@cache
def _questions(name: Name) -> dict[Split, tuple[Question, ...]]:
    found = load_questions()
    if name == "short":
        return {**found, "held-out": found["held-out"][:HELD_OUT]}
    rows = [row for row in map(json.loads, _data("characters.jsonl").splitlines()) if row["character"] == name]

    def mine(split: Split) -> tuple[Question, ...]:
        return tuple(Question(split, row["question"], tuple(row["topic"])) for row in rows if row["split"] == split)

    return {"train": mine("train"), "held-out": mine("held-out"), "fact": found["fact"]}


@cache
def _own_reactions() -> dict[str, dict[str, list[str]]]:
    return json.loads(_data("character_reactions.json"))


def _data(name: str) -> str:
    return (resources.files("talktune.demo") / "data" / name).read_text(encoding="utf-8")
