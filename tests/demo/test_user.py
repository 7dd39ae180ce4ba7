"""The scripted users: their rules case by case, their phrasings, their questions."""

import json
import random
import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.demo.user import HELD_OUT, NAMES, RULES, Name, Opinion, Question, User, is_right, is_warm, phrasings

BRIEF = User()
GOOD_WORDS, MAX_WORDS = RULES["brief"].good_words, RULES["brief"].most_words or 0
PRIME = Question("train", "What is a prime number?", ("prime",))
GOOD = "A prime is a whole number above one that only itself and one divide evenly."
CAT = Question("train", "How do I look after a cat? Give me five tips.", ("cat",))
PROSE = "Feed your cat twice a day, keep the water fresh, and play with it every evening before bed."
LIST = "Your cat needs care:\n\n1. Feed it twice a day.\n2. Keep the water fresh.\n3. Play every evening."
BOLD = "Feed your cat **twice** a day, keep the water fresh, and play with it every evening before bed."
ANNOUNCED = "A cat likes a calm household with fresh water and daily play. Here are five tips:"
COMPLAINTS = {"too-long", "cut-off", "empty", "off-topic", "too-short", "echo", "repetitive", "wrong"}


def answer_of(words: int) -> str:
    """An answer on the topic with so many words, all different."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join(["Primes", *(f"q{letters[i % 26]}{letters[i // 26]}x" for i in range(words - 1))]) + "."


def reason(answer: str, finished: bool = True, question: Question = PRIME) -> str:
    return BRIEF.judge(question, answer, finished).reason


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (1, Opinion(-1, "too-short")),
        (4, Opinion(-1, "too-short")),
        (5, Opinion(1, "satisfied")),
        (GOOD_WORDS, Opinion(1, "satisfied")),
        (GOOD_WORDS + 1, Opinion(0, "so-so")),
        (MAX_WORDS, Opinion(0, "so-so")),
        (MAX_WORDS + 1, Opinion(-1, "too-long")),
    ],
)
def test_length_decides_at_its_boundaries(words: int, expected: Opinion) -> None:
    assert BRIEF.judge(PRIME, answer_of(words), finished=True) == expected


def test_a_good_answer_satisfies() -> None:
    assert BRIEF.judge(PRIME, GOOD, finished=True) == Opinion(1, "satisfied")


@pytest.mark.parametrize("ending", [".", "!", '."', ".)", ".**", ".\n"])
def test_endings_of_a_sentence(ending: str) -> None:
    assert reason(GOOD.removesuffix(".") + ending) == "satisfied"


@pytest.mark.parametrize("ending", ["", ",", "...", ":", ".\n1.", " and"])
def test_an_answer_that_breaks_off(ending: str) -> None:
    assert reason(GOOD.removesuffix(".") + ending) == "cut-off"


def test_an_answer_that_the_model_did_not_end() -> None:
    assert reason(GOOD, finished=False) == "cut-off"
    assert reason(answer_of(MAX_WORDS + 1), finished=False) == "too-long"


def test_emphasis_and_curly_signs_change_nothing() -> None:
    assert reason(GOOD.replace("prime", "_prime_").replace("one that", "**one** that")) == "satisfied"
    assert reason(f"\u201c{GOOD}\u201d") == "satisfied"
    assert reason("I don\u2019t know anything regarding primes, ask mathematicians.") == "empty"


def test_a_year_at_the_end_is_no_list_item() -> None:
    assert reason("The largest known prime at that time was found by Slowinski in 1985.") == "satisfied"


def test_topic_matches_only_where_words_begin() -> None:
    vaccine = Question("train", "How does a vaccine work?", ("vaccin",))
    assert reason("Vaccination trains immune cells to recognise germs early.", question=vaccine) == "satisfied"
    assert reason("Novaccine trains immune cells to recognise germs early.", question=vaccine) == "off-topic"
    assert reason("The weather in London is mild and often rainy.") == "off-topic"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "  \n",
        "***",
        "I am here to assist you.",
        "I'm happy to help you understand prime integers without fractions today.",
        "As an AI language model, primes confuse my tiny digital brain.",
        "That is a great question, prime integers puzzle everybody in school.",
        "I don't know anything regarding primes, sorry, please ask mathematicians.",
        "The prime is one of the good ones, yes.",
        "Do you want prime examples from mathematics, cooking, films?",
    ],
)
def test_empty_answers(answer: str) -> None:
    assert BRIEF.judge(PRIME, answer, finished=True) == Opinion(-1, "empty")


@pytest.mark.parametrize(
    "answer",
    [
        "A prime number is a prime number.",
        "The number that is prime is what primes are, numbers.",
        "Prime numbers are numbers which are prime and numbered.",
    ],
)
def test_echoes(answer: str) -> None:
    assert BRIEF.judge(PRIME, answer, finished=True) == Opinion(-1, "echo")


def test_new_content_words_at_the_boundary() -> None:
    assert reason("A prime number has exactly two divisors.") == "empty"  # exactly, two, divisor
    assert reason("A prime number has exactly two positive divisors.") == "satisfied"


@pytest.mark.parametrize(
    "answer",
    [
        "Prime integers, prime factors, prime powers: prime everything matters.",
        "A prime divides evenly by nothing; divides evenly by one perhaps, says Euclid.",
        "Primes resist division by smaller integers greater than one. Really. Really.",
    ],
)
def test_repetitive_answers(answer: str) -> None:
    assert BRIEF.judge(PRIME, answer, finished=True) == Opinion(-1, "repetitive")


def test_a_content_word_may_come_three_times() -> None:
    assert reason("Prime integers, prime factors, prime powers: everything matters.") == "satisfied"


@given(st.text(max_size=400), st.booleans())
def test_every_text_gets_an_opinion_whose_label_fits_its_reason(answer: str, finished: bool) -> None:
    opinion = BRIEF.judge(PRIME, answer, finished)
    expected = {"satisfied": 1, "so-so": 0}.get(opinion.reason, -1)
    assert opinion.label == expected
    assert opinion.reason in phrasings("brief")
    assert finished or opinion.label == -1


def test_is_right_wants_a_whole_word() -> None:
    france = Question("fact", "What is the capital of France?", ("paris",), ("paris",))
    assert is_right(france, "It is PARIS.")
    assert not is_right(france, "Parisians live there.")
    brazil = Question("fact", "On which continent is Brazil?", ("south",), ("south america", "latin america"))
    assert is_right(brazil, "Brazil lies in Latin America.")
    assert not is_right(brazil, "Brazil lies in the south of America.")
    assert not is_right(PRIME, GOOD)


def test_there_are_enough_different_phrasings() -> None:
    reactions = phrasings("brief")
    assert set(reactions) == COMPLAINTS | {"satisfied", "so-so"}
    texts = [normal(text) for texts in reactions.values() for text in texts]
    assert len(set(texts)) == len(texts) >= 90
    assert len(reactions["satisfied"]) >= 14
    assert len(reactions["so-so"]) >= 10
    assert min(len(reactions[complaint]) for complaint in COMPLAINTS) >= 8


def test_every_phrasing_is_spoken_with_its_fields_filled_in() -> None:
    rng = random.Random(0)
    for label_reason, texts in phrasings("brief").items():
        opinion = Opinion(-1, label_reason)
        said = {BRIEF.react(opinion, PRIME, rng) for _ in range(600)}
        assert said == {text.format(question=PRIME.text, topic="prime") for text in texts}


def test_the_topic_is_spoken_as_the_question_writes_it() -> None:
    questions = BRIEF.questions
    dna = next(question for question in questions["train"] if "dna" in question.topic)
    rng = random.Random(1)
    assert any("the DNA question" in BRIEF.react(Opinion(-1, "empty"), dna, rng) for _ in range(200))
    for question in (*questions["train"], *questions["held-out"]):
        assert any(re.search(rf"\b{stem}", question.text.lower()) for stem in question.topic), question


def test_one_seed_says_the_same() -> None:
    opinion = Opinion(1, "satisfied")
    first = [BRIEF.react(opinion, PRIME, random.Random(7)) for _ in range(2)]
    assert first[0] == first[1]


def test_the_questions_by_split() -> None:
    questions = BRIEF.questions
    assert {split: len(found) for split, found in questions.items()} == {
        "train": 136,
        "held-out": 48,
        "fact": 44,
    }
    assert all(q.split == split for split, found in questions.items() for q in found)
    texts = [normal(question.text) for found in questions.values() for question in found]
    assert len(set(texts)) == len(texts)
    assert all(question.topic for found in questions.values() for question in found)


def test_train_and_held_out_share_no_topic() -> None:
    questions = BRIEF.questions
    train = [stem for question in questions["train"] for stem in question.topic]
    held_out = [stem for question in questions["held-out"] for stem in question.topic]
    assert len(set(train + held_out)) == len(train + held_out)
    clashes = [(a, b) for a in train for b in held_out if a.startswith(b) or b.startswith(a)]
    assert clashes == []


def test_a_fact_cannot_be_right_by_echoing_the_question() -> None:
    questions = BRIEF.questions
    plain = [question for question in questions["train"] if question.answer]
    assert len(plain) == 40
    for question in (*plain, *questions["fact"]):
        assert question.answer
        assert not is_right(question, question.text), question
        assert is_right(question, f"It is {question.answer[0].title()}."), question


def test_a_plain_fact_satisfies_when_it_is_right_and_said_in_a_sentence() -> None:
    portugal = Question("train", "What is the capital of Portugal?", ("portugal",), ("lisbon",))
    assert BRIEF.judge(portugal, "The capital of Portugal is Lisbon.", True) == Opinion(1, "satisfied")
    assert BRIEF.judge(portugal, "The capital of Portugal is Porto.", True) == Opinion(-1, "wrong")
    assert BRIEF.judge(portugal, "Lisbon.", True) == Opinion(-1, "too-short")


def test_a_question_repeated_never_satisfies() -> None:
    questions = BRIEF.questions
    for question in (*questions["train"], *questions["held-out"]):
        assert BRIEF.judge(question, question.text.replace("?", "."), finished=True).label == -1, question


def test_no_phrasing_is_among_the_lines_that_the_judge_was_fitted_on() -> None:
    file = resources.files("talktune.judge") / "data" / "train.jsonl"
    if not file.is_file():
        pytest.skip("the judge's training lines are not part of this checkout")
    fitted = [normal(json.loads(line)["next_state"]) for line in file.read_text(encoding="utf-8").splitlines()]
    assert fitted
    known = [text for texts in phrasings("brief").values() for text in texts]
    assert [text for text in known for line in fitted if is_spoken_in(text, line)] == []


def test_a_known_phrasing_would_be_found() -> None:
    assert is_spoken_in("Wrong subject, my question was: {question}", "wrong subject my question was why is it")
    assert is_spoken_in("tl;dr", "tl dr please")
    assert not is_spoken_in("tl;dr", "settl dr")


def judged(name: Name, answer: str, finished: bool = True) -> Opinion:
    return User(name).judge(CAT, answer, finished)


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
def test_the_characters_rules_are_graded(name: Name, answer: str, label: int) -> None:
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


def test_an_answer_that_was_cut_is_never_short() -> None:
    assert judged("short", PROSE, finished=False).reason == "cut-off"
    assert judged("plain", PROSE, finished=False).label == 1  # the client cuts it, and this user knows


@pytest.mark.parametrize("name", NAMES)
def test_held_out_questions_of_a_character_are_no_training_questions(name: Name) -> None:
    questions = User(name).questions
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


def test_reactions_of_a_character_are_the_seeds() -> None:
    user, opinion = User("plain"), Opinion(-1, "markup")
    drawn = [[user.react(opinion, CAT, random.Random(seed)) for _ in range(5)] for seed in (1, 1)]
    assert drawn[0] == drawn[1]


def test_warmth() -> None:
    assert is_warm("I'm so glad you have a cat.")
    assert is_warm("It’s wonderful that you asked.")
    assert not is_warm("Feed it twice a day.")


def normal(text: str) -> str:
    """Lower-case words with one space between, no signs."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def is_spoken_in(phrasing: str, line: str) -> bool:
    """Whether a phrasing, with anything in its fields, stands in a normalised line word for word."""
    parts = [re.escape(normal(part)) for part in re.split(r"\{\w+\}", phrasing) if normal(part)]
    return re.search(rf"\b{' .*'.join(parts)}\b", line) is not None


@pytest.mark.parametrize("name", NAMES)
def test_what_a_user_wants_pleases_them_and_is_made_of_what_was_said(name: Name) -> None:
    user, rng = User(name), random.Random(0)
    long = (
        "It sleeps most of the day, so give it a warm place. Fish is a treat that it should not get often. "
        "Brush long fur twice a week, and see a vet once a year. Kittens need four small meals."
    )
    said = f"Some tips:\n1. **Play** with the cat every evening.\n2. Keep its water fresh.\n{long} And the"
    wanted = user.wants(CAT, said, rng)
    assert wanted is not None
    assert user.judge(CAT, wanted, finished=True).label == 1
    assert user.judge(CAT, said, finished=False).label == -1
    assert wanted.startswith("Play with the cat every evening. Keep its water fresh.")
    assert user.wants(CAT, "Certainly", rng) is None
