"""Scripted users: each wants real answers and has a wish of its own, which it never states: it only reacts in words.

    question, answer -> User.judge -> Opinion (a label and why) -> User.react -> what the user types

    brief       wants very short answers that end by themselves (the demo's)
    short       wants short answers
    plain       wants no lists and no bold
    friendly    wants a friendly word

The policy and the judge are never told a rule; the demo and the bench use it to measure before and after.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from talktune.learner.texts import says
from talktune.types import Label

Name = Literal["brief", "short", "plain", "friendly"]
NAMES: tuple[Name, ...] = ("short", "plain", "friendly")
"""The three characters of the personalisation bench."""
HELD_OUT = 40
"""Held-out questions that each of the three is asked."""
Split = Literal["train", "held-out", "fact"]

MIN_WORDS = 5
"""Fewer words than this are no answer."""
MIN_NEW_WORDS = 4
"""An answer says at least this many different content words that the question did not."""

MOST_WANTED = 45
"""So many words has an answer that a user writes who does not care for length."""

_STOP_WORDS = frozenset(  # function words only: "down" in "breaks down" says something
    """a about also am an and any are as at be been being but by can could did do does doing for from had has
    have having he her hers him his how however i if in into is it its itself just let may me might more most
    must my no not of on one or our ours own shall she should so some such than that the their theirs them
    then there these they this those thus to too us very was we well were what when where which while who
    whom whose why will with would yes you your yours""".split()  # noqa: SIM905
)
_SUFFIXES = ("ations", "ation", "ings", "ing", "ies", "ied", "ers", "er", "ed", "es", "ly", "s", "e", "y")
_WORD = re.compile(r"\w+(?:['\-]\w+)*")
_CLOSERS = "\"'\u201d\u2019)]*_ \n\t"
_STOCK_PHRASES = re.compile(
    r"""\b(?:here|happy|glad|ready|able|pleased)\ to\ (?:help|assist|answer|explain)
    | \bhow\ (?:can|may)\ i\ (?:help|assist)
    | \bas\ an?\ (?:ai|artificial|(?:large\ )?language\ model|assistant|chatbot)\b
    | \bi(?:\ am|'m)\ (?:just\ )?an?\ (?:ai|artificial|(?:large\ )?language\ model|assistant|chatbot)\b
    | \b(?:great|good|excellent|interesting|important|fascinating|wonderful)\ question\b
    | \b(?:complex|broad|vast|fascinating|interesting)\ (?:topic|subject|question|field)\b
    | \bglad\ you\ asked\b
    | \bi\ (?:do\ not|don't|cannot|can't)\b
    | \bi(?:\ am|'m)\ (?:sorry|not\ sure|unable)\b
    | \blet\ me\ know\b
    | \bfeel\ free\ to\b
    """,
    re.VERBOSE,
)
_ITEM = re.compile(r"^\s*(?:[-*\u2022+]|\(?\d{1,2}[.):]|\(?[a-z][.)]|#{1,6})\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*|__|\*[A-Za-z][^*\n]*\*")
_MARKS = re.compile(r"[*#`]+|__+")
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


_KIND_WORDS = (
    "I hope this helps you, enjoy!",
    "Have fun with it, my friend!",
    "You've got this, good luck!",
    "Thank you for asking, I hope it goes well.",
    "How lovely that you want to know, enjoy it!",
    "I'm so happy to tell you that, have fun!",
)
"""What the user whose wish is a friendly word would have liked to read at the end."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `topic` are word beginnings of which a real answer has at least one."""

    split: Split
    text: str
    topic: tuple[str, ...]
    answer: tuple[str, ...] = ()
    """Accepted answers of a question of plain fact, lower case; empty for the others."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the user thinks of one answer: +1, 0 or −1, and which of the phrasings say so."""

    label: Label
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What one user wants of an answer."""

    wish: Callable[[str], str] | None = None
    """The reason (`satisfied`, `so-so` or a complaint) that a real answer gives, where it is not its length."""
    good_words: int = 0
    """Up to this many words please the user whose wish is shortness."""
    most_words: int | None = None
    """More words than this annoy it; it shrugs at those between the two, and wants the last sentence whole."""
    strict: bool = False
    """One stock phrase spoils the answer, a question back is none, and a plain fact has to be right, no more."""
    sequence: int = 5
    """A run of this many words that occurs twice makes an answer repetitive."""
    repeats: int = 6
    """So does a content word that occurs more often than this."""
    sentence: int = 2
    """So does a sentence of this many words or more that comes twice."""


@dataclass(frozen=True, slots=True)
class User:
    """One scripted user."""

    name: Name = "brief"

    @property
    def questions(self) -> dict[Split, tuple[Question, ...]]:
        """`train` and `held-out` ones, which invite what the user does not want, and `fact`s, which have an answer."""
        return _questions(self.name)

    def judge(self, question: Question, answer: str, finished: bool) -> Opinion:
        """The user's rule; `finished` tells that the model ended the answer itself. The first fault is the reason."""
        rule = RULES[self.name]
        reason = _complaint(rule, question, answer, finished)
        if reason is None and rule.wish is not None:
            reason = rule.wish(answer)
        elif reason is None:
            reason = "satisfied" if len(words_of(answer)) <= rule.good_words else "so-so"
        return Opinion({"satisfied": 1, "so-so": 0}.get(reason, -1), reason)  # type: ignore[arg-type]

    def wants(self, question: Question, answer: str, rng: random.Random) -> str | None:
        """What the user would rather have read: as much of the answer as is whole, brought under their own rule.

        None where that would not please them either.
        """
        rule = RULES[self.name]
        told: list[str] = []
        for sentence in _whole_sentences(answer):
            if sum(len(words_of(one)) for one in [*told, sentence]) <= (rule.good_words or MOST_WANTED):
                told.append(sentence)
        if self.name == "friendly":
            told.append(rng.choice(_KIND_WORDS))
        wanted = " ".join(told)
        return wanted if self.judge(question, wanted, finished=True).label == 1 else None

    def react(self, opinion: Opinion, question: Question, rng: random.Random) -> str:
        """What the user types after an answer: one of the phrasings for this reason, drawn with `rng`."""
        phrasing = rng.choice(phrasings(self.name)[opinion.reason])
        return phrasing.format(question=question.text, topic=_topic_word(question))


@cache
def phrasings(name: Name) -> dict[str, tuple[str, ...]]:
    """A user's phrasings by reason; `{question}` and `{topic}` stand for the question and a word of it."""
    known: dict[str, dict[str, list[str]]] = json.loads(_data("reactions.json"))
    found = known["all"] | known.get(name, {})
    if name in NAMES:
        found["so-so"] = known["all"]["so-so"] + known["three"]["so-so"]
    return {reason: tuple(texts) for reason, texts in found.items()}


def is_right(question: Question, answer: str) -> bool:
    """Whether one of the question's accepted answers occurs in `answer` as a whole word, in any case."""
    return says(answer, question.answer)


def is_warm(text: str) -> bool:
    """Whether an exclamation or a warm phrase occurs."""
    return "!" in text or _WARM.search(_plain_text(text)) is not None


def words_of(text: str) -> list[str]:
    """Lower-case words; a hyphenated one counts once, signs and bullets not at all."""
    return _WORD.findall(_plain_text(text))


def _complaint(rule: Rule, question: Question, answer: str, finished: bool) -> str | None:
    """The first thing that keeps an answer from being a real one of the right length, or `None`."""
    told = _without_stock(answer, whole=rule.strict)
    words = words_of(told)
    if rule.strict and not words:
        return "empty"
    if rule.most_words is not None and (spoken := len(words_of(answer))):
        if spoken > rule.most_words:
            return "too-long"
        if not finished or not _ends_like_a_sentence(answer):
            return "cut-off"
    if not words:
        return "empty"
    if len(words) < MIN_WORDS:
        return "too-short"
    if rule.strict and question.answer:  # to be right is enough
        return None if is_right(question, answer) else "wrong"
    if not any(re.search(rf"\b{re.escape(start)}", _plain_text(told)) for start in question.topic):
        return "off-topic"
    asked = {_stem(word) for word in words_of(question.text)}
    content = [_stem(word) for word in words if word not in _STOP_WORDS]
    new = set(content) - asked
    if len(new) < MIN_NEW_WORDS and not question.answer:
        return "echo" if len(set(content) & asked) > len(new) else "empty"
    if rule.strict and answer.rstrip(_CLOSERS).endswith("?"):
        return "empty"
    runs = [tuple(words[i : i + rule.sequence]) for i in range(len(words) - rule.sequence + 1)]
    said = [tuple(found) for s in re.split(r"[.!?\n]+", told) if len(found := words_of(s)) >= rule.sentence]
    often = max(Counter(content).values(), default=0)
    if often > rule.repeats or len(set(runs)) < len(runs) or len(set(said)) < len(said):
        return "repetitive"
    return None


def _without_stock(answer: str, *, whole: bool) -> str:
    """The answer without its sentences that are stock phrases; nothing of it, if it has any and `whole` is set."""
    sentences = [answer] if whole else re.split(r"(?<=[.!?\n])", answer)
    return "".join(s for s in sentences if not _STOCK_PHRASES.search(_plain_text(s)))


def _plain(answer: str) -> str:
    """Bold or two items of a list annoy; one item, or a list that is only announced, gets a shrug."""
    items = len(_ITEM.findall(answer)) + len(_INLINE.findall(answer))
    if _BOLD.search(answer) or items > 1:
        return "markup"
    return "so-so" if items or _ANNOUNCED.search(answer) else "satisfied"


def _friendly(answer: str) -> str:
    """A warm phrase or an exclamation in the first two sentences or the last one; elsewhere it gets a shrug."""
    sentences = [s for s in re.findall(r"[^.!?\n]+[.!?]*", answer) if s.strip()]
    if is_warm(" ".join([*sentences[:2], *sentences[-1:]])):
        return "satisfied"
    return "so-so" if is_warm(answer) else "cold"


RULES: dict[Name, Rule] = {
    "brief": Rule(good_words=25, most_words=40, strict=True, sequence=3, repeats=3, sentence=1),
    "short": Rule(good_words=30, most_words=45),
    "plain": Rule(_plain),
    "friendly": Rule(_friendly),
}


def _whole_sentences(answer: str) -> list[str]:
    """The sentences of an answer that end, without signs of lists and of emphasis."""
    lines = [_MARKS.sub("", _ITEM.sub("", line)).strip() for line in answer.split("\n")]
    parts = [part for line in lines for part in re.split(r"(?<=[.!?])\s+", line)]
    return list(dict.fromkeys(part for part in parts if words_of(part) and _ends_like_a_sentence(part)))


def _ends_like_a_sentence(answer: str) -> bool:
    """Whether the last sign is a full stop, ! or ?, not an ellipsis and not the number of a list item."""
    text = answer.rstrip(_CLOSERS)
    return text.endswith((".", "!", "?")) and not text.endswith("..") and not re.search(r"(?:^|\n)\s*\d+\.$", text)


def _plain_text(text: str) -> str:
    """Lower case, straight apostrophes, no underscores (they are signs of emphasis here)."""
    return text.lower().replace("\u2019", "'").replace("_", " ")


def _stem(word: str) -> str:
    """A rough stem of at least three letters, so that `vaccine` and `vaccination` count as one word."""
    word = re.sub(r"'s$", "", word)
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word.removesuffix(suffix)
    return word


def _topic_word(question: Question) -> str:
    """The first word of the question that is its topic, as it is written there (or else the stem)."""
    written = re.search(rf"\b(?:{'|'.join(map(re.escape, question.topic))})\w*", question.text, re.IGNORECASE)
    return written.group() if written else question.topic[0]


@cache
def _questions(name: Name) -> dict[Split, tuple[Question, ...]]:
    """The demo's; `plain` and `friendly` have their own, but for the facts."""
    rows = [json.loads(line) for line in (_data("questions.jsonl") + _data("characters.jsonl")).splitlines()]
    own = name if name in ("plain", "friendly") else None

    def of(split: Split, whose: str | None, most: int | None = None) -> tuple[Question, ...]:
        mine = [row for row in rows if row["split"] == split and row.get("character") == whose]
        return tuple(Question(split, r["question"], tuple(r["topic"]), tuple(r.get("answer", ()))) for r in mine[:most])

    held_out = of("held-out", own, HELD_OUT if name in NAMES else None)
    return {"train": of("train", own), "held-out": held_out, "fact": of("fact", None)}


def _data(name: str) -> str:
    return (resources.files("talktune.demo") / "data" / name).read_text(encoding="utf-8")
