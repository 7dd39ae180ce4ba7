"""The three characters of the personalisation bench: their rules, questions and phrasings."""

import random

import pytest

from talktune.demo.characters import HELD_OUT, NAMES, Character, Name, Opinion, is_warm, phrasings
from talktune.demo.user import Question

CAT = Question("train", "How do I look after a cat? Give me five tips.", ("cat",))
PROSE = "Feed your cat twice a day, keep the water fresh, and play with it every evening before bed."
LIST = "Your cat needs care:\n\n1. Feed it twice a day.\n2. Keep the water fresh.\n3. Play every evening."
BOLD = "Feed your cat **twice** a day, keep the water fresh, and play with it every evening before bed."
ANNOUNCED = "A cat likes a calm household with fresh water and daily play. Here are five tips:"


def judged(name: Name, answer: str, finished: bool = True) -> Opinion:
    return Character(name).judge(CAT, answer, finished)


@pytest.mark.parametrize(
    ("name", "answer", "label"),
    [
        ("short", PROSE, 1),
        ("short", PROSE + " Brush the long fur each week, visit a vet once every year, and buy strong toys.", 0),
        ("short", " ".join([PROSE, PROSE, PROSE]), -1),
        ("plain", PROSE, 1),
        ("plain", LIST, -1),
        ("plain", BOLD, -1),
        ("plain", ANNOUNCED, 0),
        ("plain", "Feed it:\n- Give the cat dry biscuits, fresh water and some play every evening.", 0),
        ("friendly", PROSE, -1),
        ("friendly", "How lovely! " + PROSE, 1),
        ("friendly", PROSE + " Enjoy the time with your new friend.", 1),
        ("friendly", "Cats sleep long. They like warmth. Congratulations on yours. " + PROSE + " Brush it weekly.", 0),
    ],
)
def test_the_rules_are_graded(name: Name, answer: str, label: int) -> None:
    assert judged(name, answer).label == label


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        ("I'm happy to help you! How can I help you today?", "empty"),
        ("What a great question! I'm glad you asked!", "empty"),
        ("Cats!", "too-short"),
        ("Wonderful! The capital of France is Paris, on the river Seine.", "off-topic"),
        ("Look after the cat, look after a cat!", "echo"),
        ("Feed the cat dry biscuits daily! Feed the cat dry biscuits daily!", "repetitive"),
    ],
)
def test_no_character_likes_what_is_no_answer(name: Name, answer: str, reason: str) -> None:
    assert judged(name, answer) == Opinion(-1, reason)


def test_a_cut_answer_is_never_short() -> None:
    assert judged("short", PROSE, finished=False).reason == "cut-off"
    assert judged("plain", PROSE, finished=False).label == 1  # the client cuts it, and this user knows


@pytest.mark.parametrize("name", NAMES)
def test_held_out_questions_are_no_training_questions(name: Name) -> None:
    questions = Character(name).questions
    assert len(questions["held-out"]) == HELD_OUT
    assert not {q.text for q in questions["train"]} & {q.text for q in questions["held-out"]}
    assert all(q.topic for split in ("train", "held-out") for q in questions[split])


@pytest.mark.parametrize("name", NAMES)
def test_each_outcome_has_twenty_phrasings_at_least(name: Name) -> None:
    own = {"short": "too-long", "plain": "markup", "friendly": "cold"}[name]
    found = phrasings(name)
    bad = [text for reason, texts in found.items() if reason not in ("satisfied", "so-so") for text in texts]
    assert own in found
    assert all(len(set(texts)) >= 20 for texts in (found["satisfied"], found["so-so"], bad))


def test_reactions_are_the_seeds() -> None:
    character, opinion = Character("plain"), Opinion(-1, "markup")
    drawn = [[character.react(opinion, CAT, random.Random(seed)) for _ in range(5)] for seed in (1, 1)]
    assert drawn[0] == drawn[1]


def test_warmth() -> None:
    assert is_warm("I'm so glad you have a cat.")
    assert is_warm("It’s wonderful that you asked.")
    assert not is_warm("Feed it twice a day.")
