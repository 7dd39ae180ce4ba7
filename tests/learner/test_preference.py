"""The preference model on synthetic readings: their states carry a wish, or nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talktune.config import ModelConfig
from talktune.learner.preference import (
    Answer,
    Reading,
    folds_of,
    foretell,
    foretold,
    learn_preference,
    marked_words,
    read_answers,
    words,
)
from talktune.policy.load import load_policy

WIDTH = 12
WORDS = [f"w{i}" for i in range(30)]


def readings(n: int, seed: int, *, prompts: int = 10) -> tuple[list[Reading], list[int]]:
    """Readings, and the verdict of a user who likes what `late` states and one word say."""
    made = torch.Generator().manual_seed(seed)
    found: list[Reading] = []
    wish: list[float] = []
    for i in range(n):
        states = torch.randn(4, 2 * WIDTH, generator=made, dtype=torch.float64)
        said = frozenset(w for w in WORDS if float(torch.rand(1, generator=made)) < 0.3)
        shape = tuple(torch.randn(4, generator=made, dtype=torch.float64).tolist())
        found.append(Reading((i % prompts,), said, shape, states))
        wish.append(shape[0] + 0.5 * ("w1" in said))
    order = sorted(wish)
    cuts = order[n // 2], order[3 * n // 4]
    return found, [-1 + (w > cuts[0]) + (w > cuts[1]) for w in wish]


def drawn(n: int, seed: int, shares: Sequence[float] = (0.5, 0.25, 0.25)) -> list[int]:
    return (
        torch.multinomial(torch.tensor(shares), n, True, generator=torch.Generator().manual_seed(seed)) - 1
    ).tolist()


def test_a_user_who_can_be_foretold_earns_trust_for_it():
    for seed in range(5):
        found, labels = readings(96, seed)
        early, late = (learn_preference(found[:n], labels[:n]).trust for n in (16, 96))
        assert late > 0.3
        assert late > early


def test_a_user_who_says_nothing_hardly_ever_earns_any():
    trusts = [
        learn_preference(readings(n, seed)[0], drawn(n, 100 + seed)).trust for seed in range(20) for n in (32, 64)
    ]
    assert sum(trust > 0 for trust in trusts) <= 0.3 * len(trusts)  # a sixth is to be expected
    assert sum(trusts) / len(trusts) < 0.04


def test_trust_is_earned_without_a_liked_answer_too():
    found, labels = readings(96, 3)
    assert learn_preference(found, [min(label, 0) for label in labels]).trust > 0.3


def test_one_verdict_only_earns_nothing():
    found, _ = readings(32, 0)
    assert learn_preference(found, [-1] * 32).trust == 0.0


def test_no_turn_is_foretold_from_its_own_verdict_or_from_an_answer_to_its_prompt():
    found, labels = readings(40, 5)
    classes = torch.tensor(labels) + 1
    folds = folds_of(found)
    told = foretold(found, classes, folds)
    mine = [i for i, reading in enumerate(found) if reading.prompt == found[7].prompt]
    changed = classes.clone()
    changed[mine] = (changed[mine] + 1) % 3
    assert torch.equal(foretold(found, changed, folds)[mine], told[mine])
    assert not torch.equal(foretold(found, changed, folds), told)


def test_what_is_foretold_does_not_hang_on_the_order_of_known_turns_nor_on_others_beside_it():
    found, labels = readings(40, 1)
    known, others = found[:30], found[30:]
    classes = torch.tensor(labels[:30]) + 1
    told = foretell(known, classes, others)
    turned = foretell(known[::-1], classes.flip(0), others)
    assert torch.allclose(told, turned, atol=1e-7)
    alone = torch.cat([foretell(known, classes, [other]) for other in others])
    assert torch.allclose(told, alone, atol=1e-7)


def test_the_same_turns_give_the_same_bits():
    found, labels = readings(40, 2)
    one, two = (learn_preference(found[:30], labels[:30]) for _ in range(2))
    assert one.trust == two.trust
    assert one.rewards(found[30:]) == two.rewards(found[30:])


def test_rewards_follow_the_wish():
    found, labels = readings(120, 4)
    rewards = learn_preference(found[:80], labels[:80]).rewards(found[80:])
    liked = [r for r, label in zip(rewards, labels[80:], strict=True) if label == 1]
    other = [r for r, label in zip(rewards, labels[80:], strict=True) if label == -1]
    assert sum(liked) / len(liked) > sum(other) / len(other) + 0.3


def test_without_turns_there_is_no_trust():
    assert learn_preference([], []).trust == 0.0


def test_words_and_signs_and_line_ends():
    assert words("Don't stop!\n* Two") == ["don't", "stop", "!", "\n", "*", "two"]


def test_words_of_the_first_and_of_the_last_sentence_are_marked():
    assert marked_words("Oh, hi! It is. Bye") == {
        "oh",
        ",",
        "hi",
        "!",
        "it",
        "is",
        ".",
        "bye",
        "^oh",
        "^,",
        "^hi",
        "^!",
        "$bye",
    }
    assert marked_words("") == set()


@pytest.fixture(scope="module")
def tiny(tiny_model: Path):
    return load_policy(ModelConfig(model=str(tiny_model), device="cpu"))


def test_a_reading_does_not_hang_on_others(tiny):
    def answer(question: str, text: str) -> Answer:
        ids = [tuple(tiny.tokenizer.encode(x)) for x in (question, text)]
        return Answer(*ids, question, text, ended=True)

    answers = [
        answer("Why is the sky blue?", "The sky scatters light."),
        answer("And grass?", "Green."),
        answer("A", "B"),
    ]
    together = read_answers(tiny.model, answers)
    for one, reading in zip(answers, together, strict=True):
        alone = read_answers(tiny.model, [one])[0]
        assert torch.allclose(alone.states, reading.states, atol=1e-5)
        assert alone.shape == pytest.approx(reading.shape, abs=1e-5)
    assert together[0].shape[2] == 0.0  # no content word of four letters is shared: "blue" is missing
    assert read_answers(tiny.model, []) == []


def test_wanted_answers_are_fitted_and_earn_no_trust():
    found, labels = readings(40, 6)
    judged = learn_preference(found, labels)
    told = [replace(found[i], shape=(9.0, *found[i].shape[1:])) for i in range(10)]
    both = learn_preference(found, labels, wanted=told)
    assert both.judged == 40
    assert len(both.readings) == 50
    likes = [sum(one.rewards(told)) for one in (judged, both)]
    assert likes[1] > likes[0]
    # Where no verdict differs from another, nothing earns trust; what is wanted still says what is better.
    never = learn_preference(found, [-1] * 40, wanted=told)
    assert never.trust == 0.0
    good, bad = never.rewards([told[0], replace(told[0], shape=(-1.0, *told[0].shape[1:]))])
    assert good > bad


def test_no_turn_is_foretold_from_what_was_wanted_in_its_place():
    found, labels = readings(40, 5)
    classes = torch.tensor([*(label + 1 for label in labels), 2])
    folds = folds_of([*found, found[7]])
    assert folds[-1] == folds[7]
    mine = folds[:40] == folds[7]
    told = [
        foretold([*found, replace(found[7], shape=(x, *found[7].shape[1:]))], classes, folds, judged=40)
        for x in (0.0, 5.0)
    ]
    assert torch.equal(told[0][mine], told[1][mine])
    assert not torch.equal(told[0][~mine], told[1][~mine])


def test_without_wanted_answers_nothing_is_changed():
    found, labels = readings(40, 5)
    one, two = learn_preference(found, labels), learn_preference(found, labels, wanted=[])
    assert (one.trust, one.gain, one.rewards(found)) == (two.trust, two.gain, two.rewards(found))
