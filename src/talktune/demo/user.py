"""The scripted user of the demo: wants short answers that still answer, and says so only in words.

    question, answer -> judge_answer -> Opinion (a label and why) -> react -> what the user types

The policy and the judge are never told the rule; the demo uses it to measure before and after.
"""

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from talktune.learner.texts import says
from talktune.types import Label

Split = Literal["train", "held-out", "fact"]
Reason = Literal[
    "satisfied", "so-so", "too-long", "cut-off", "empty", "off-topic", "too-short", "echo", "repetitive", "wrong"
]

MIN_WORDS = 5
"""Fewer words than this are no answer."""
GOOD_WORDS = 25
"""Up to this many words please the user."""
MAX_WORDS = 40
"""More words than this annoy the user; between the two the user shrugs."""
MIN_NEW_WORDS = 4
"""An answer says at least this many different content words that the question did not."""
MAX_REPEATS = 3
"""A content word that occurs more often than this makes an answer repetitive."""
SEQUENCE = 3
"""A run of this many words that occurs twice makes an answer repetitive."""

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
STOCK_PHRASES = re.compile(
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


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the demo; `topic` are word beginnings of which a real answer has at least one."""

    split: Split
    text: str
    topic: tuple[str, ...]
    answer: tuple[str, ...] = ()
    """Accepted answers of a question of plain fact, lower case; empty for the others."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the user thinks of one answer: +1, 0 or −1, and why."""

    label: Label
    reason: Reason


def load_questions() -> dict[Split, tuple[Question, ...]]:
    """The shipped questions by split: `train` and `held-out` invite rambling, `fact` have an answer."""
    questions: dict[Split, list[Question]] = {"train": [], "held-out": [], "fact": []}
    for line in _data("questions.jsonl").splitlines():
        row = json.loads(line)
        question = Question(row["split"], row["question"], tuple(row["topic"]), tuple(row.get("answer", ())))
        questions[question.split].append(question)
    return {split: tuple(found) for split, found in questions.items()}


@cache
def load_reactions() -> dict[Reason, tuple[str, ...]]:
    """The user's phrasings by reason; `{question}` and `{topic}` stand for the question and a word of it."""
    return {reason: tuple(texts) for reason, texts in json.loads(_data("reactions.json")).items()}


def judge_answer(question: Question, answer: str, finished: bool) -> Opinion:
    """The user's rule: 5 to 25 words that end by themselves, on the topic, with something new, said once.

    `finished` tells that the model ended the answer itself. 26 to 40 words get a 0; the first thing that
    is wrong otherwise gives the reason of a −1. A question of plain fact wants the right answer and nothing
    new beside it.
    """
    complaint = _complaint(question, answer, finished)
    if complaint is not None:
        return Opinion(-1, complaint)
    return Opinion(1, "satisfied") if len(words_of(answer)) <= GOOD_WORDS else Opinion(0, "so-so")


def react(opinion: Opinion, question: Question, rng: random.Random) -> str:
    """What the user types after an answer: one of the phrasings for this reason, drawn with `rng`."""
    phrasing = rng.choice(load_reactions()[opinion.reason])
    return phrasing.format(question=question.text, topic=topic_word(question))


def is_right(question: Question, answer: str) -> bool:
    """Whether one of the question's accepted answers occurs in `answer` as a whole word, in any case."""
    return says(answer, question.answer)


def _complaint(question: Question, answer: str, finished: bool) -> Reason | None:
    """The first thing that is wrong with an answer, or `None`."""
    words = words_of(answer)
    said = plain_text(answer)
    if not words or STOCK_PHRASES.search(said):
        return "empty"
    if len(words) > MAX_WORDS:
        return "too-long"
    if not finished or not ends_like_a_sentence(answer):
        return "cut-off"
    if len(words) < MIN_WORDS:
        return "too-short"
    if question.answer:  # a plain fact: to be right is enough
        return None if is_right(question, answer) else "wrong"
    if not any(re.search(rf"\b{re.escape(stem)}", said) for stem in question.topic):
        return "off-topic"
    asked = {stem(word) for word in words_of(question.text)}
    content = content_words(words)
    new = set(content) - asked
    if len(new) < MIN_NEW_WORDS:
        return "echo" if len(set(content) & asked) > len(new) else "empty"
    if answer.rstrip(_CLOSERS).endswith("?"):
        return "empty"  # a question back is no answer
    if _repeats(words, content, answer):
        return "repetitive"
    return None


def _repeats(words: list[str], content: list[str], answer: str) -> bool:
    """Whether a content word comes too often, or a run of words or a sentence comes twice."""
    runs = [tuple(words[i : i + SEQUENCE]) for i in range(len(words) - SEQUENCE + 1)]
    sentences = [tuple(words_of(sentence)) for sentence in re.split(r"[.!?\n]+", answer)]
    spoken = [sentence for sentence in sentences if sentence]
    return (
        max(Counter(content).values(), default=0) > MAX_REPEATS
        or len(set(runs)) < len(runs)
        or len(set(spoken)) < len(spoken)
    )


def ends_like_a_sentence(answer: str) -> bool:
    """Whether the last sign is a full stop, ! or ?, not an ellipsis and not the number of a list item."""
    text = answer.rstrip(_CLOSERS)
    return text.endswith((".", "!", "?")) and not text.endswith("..") and not re.search(r"(?:^|\n)\s*\d+\.$", text)


def words_of(text: str) -> list[str]:
    """Lower-case words; a hyphenated one counts once, signs and bullets not at all."""
    return _WORD.findall(plain_text(text))


def plain_text(text: str) -> str:
    """Lower case, straight apostrophes, no underscores (they are signs of emphasis here)."""
    return text.lower().replace("\u2019", "'").replace("_", " ")


def content_words(words: list[str]) -> list[str]:
    """The stems of those that say something, in their order."""
    return [stem(word) for word in words if word not in _STOP_WORDS]


def stem(word: str) -> str:
    """A rough stem of at least three letters, so that `vaccine` and `vaccination` count as one word."""
    word = re.sub(r"'s$", "", word)
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word.removesuffix(suffix)
    return word


def topic_word(question: Question) -> str:
    """The first word of the question that is its topic, as it is written there (or else the stem)."""
    written = re.search(rf"\b(?:{'|'.join(map(re.escape, question.topic))})\w*", question.text, re.IGNORECASE)
    return written.group() if written else question.topic[0]


def _data(name: str) -> str:
    return (resources.files("talktune.demo") / "data" / name).read_text(encoding="utf-8")
