from random import Random

import pytest

from talktune.lab.task import (
    COLOURS,
    END,
    KNOWS,
    REACTIONS,
    SHADES,
    WORDS,
    Question,
    base_answers,
    opinion,
    questions,
    react,
    truth,
)
from talktune.types import Message, Turn

PLAIN, EXACT, LIST = Question("plain", 0), Question("exact", 0), Question("list", 0)


@pytest.mark.parametrize(
    ("question", "answer", "label"),
    [
        (PLAIN, ["blue", END], 1),
        (PLAIN, ["well", "blue", "green", END], 1),
        (PLAIN, ["green", "blue", END], 0),
        (PLAIN, ["green", END], -1),
        (PLAIN, ["azure", END], -1),
        (PLAIN, ["blue", "well"], -1),
        (PLAIN, [], -1),
        (EXACT, ["azure", END], 1),
        (EXACT, ["blue", END], -1),
        (EXACT, ["jet", "azure", END], 0),
        (LIST, [*COLOURS, END], 1),
        (LIST, [*COLOURS[:4], "red", "red", END], 0),
        (LIST, [*COLOURS[:3], END], -1),
        (LIST, [*COLOURS], -1),
    ],
)
def test_opinions(question: Question, answer: list[str], label: int) -> None:
    assert opinion(question, answer) == label


def test_the_user_says_what_it_thinks_and_the_oracle_understands() -> None:
    rng = Random(0)
    for label in REACTIONS:
        for _ in range(10):
            said = Message("user", react(label, rng))
            turn = Turn("c", 1, (Message("user", "?"),), Message("assistant", "a"), (said,))
            assert truth(turn) == label


def test_words_are_tokens_and_kinds_take_turns() -> None:
    assert len(set(WORDS)) == len(WORDS)
    asked = questions(("plain", "list"), 6, Random(0))
    assert [q.kind for q in asked] == ["plain", "list"] * 3
    assert all(word in WORDS for q in asked for word in q.words())


def test_the_base_model_is_to_know_little_but_not_nothing() -> None:
    found = {"plain": [0, 0], "exact": [0, 0], "list": [0, 0]}
    for question, answer in base_answers(3000, Random(0)):
        assert answer[-1] == END
        found[question.kind][0] += opinion(question, answer) == 1
        found[question.kind][1] += 1
    assert KNOWS * 0.9 < found["plain"][0] / found["plain"][1] < 0.6
    assert 0.03 < found["exact"][0] / found["exact"][1] < 0.1
    assert 0 < found["list"][0] / found["list"][1] < 0.4
    assert not set(SHADES) & set(COLOURS)
