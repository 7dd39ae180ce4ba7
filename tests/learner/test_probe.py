"""The probe: on only beyond chance, bounded, the same for the same seed."""

from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from talktune.learner.probe import LEVEL, compare, probe
from talktune.policy.tokens import render_prompt
from talktune.types import Message, Sampled, Turn, Verdict, Vote


def disliked(n: int) -> list[Turn]:
    return [
        Turn(
            conversation_id=str(i),
            index=1,
            prompt=(Message("user", f"Question {i}?"),),
            answer=Message("assistant", "So."),
            next_state=(Message("user", "Too short!"),),
            verdict=Verdict((Vote(-1),), -1.0),
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


def length(turns: Sequence[Turn], answers: Sequence[Sampled]) -> list[float]:
    return [float(len(answer.answer_ids)) for answer in answers]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 4))
def test_the_chance_is_that_of_the_sign_test(better: int, worse: int, even: int) -> None:
    plain = [[0.0, 1.0]] * (better + worse + even)
    guided = [[1.0]] * better + [[-5.0, 1.0]] * worse + [[0.5]] * even
    found = compare(plain, guided)
    n = better + worse
    assert (found.better, found.worse, found.turns) == (better, worse, n + even)
    assert found.chance == pytest.approx(sum(comb(n, k) for k in range(better, n + 1)) * 0.5**n)
    assert found.helps == (found.chance <= LEVEL and found.guided > found.plain)


def test_five_turns_are_the_fewest_that_turn_it_on() -> None:
    assert not compare([[0.0]] * 4, [[1.0]] * 4).helps
    assert compare([[0.0]] * 5, [[1.0]] * 5).helps
    assert not compare((), ()).helps
    rare = compare([[0.0]] * 10, [[0.1]] * 9 + [[-9.0]])  # mostly a little better, once far worse
    assert rare.chance < LEVEL
    assert not rare.helps
    assert str(compare([[0.0]] * 5, [[1.0]] * 5)) == (
        "self-distillation on: with the reaction 5 of 5 disliked turns are answered better and 0 worse "
        "(score +0.00 → +1.00, chance 0.031)"
    )


def test_a_reaction_that_changes_nothing_is_hardly_ever_believed() -> None:
    wrong = sum(compare([[0.0]] * n, [[(-1.0) ** (i >> k)] for k in range(n)]).helps for n in (8,) for i in range(2**n))
    assert wrong / 2**8 <= LEVEL


def test_turns_are_asked_a_bounded_number_of_times(tokenizer: PreTrainedTokenizerBase) -> None:
    asked: list[tuple[int, ...]] = []

    def sample(prompts: Sequence[tuple[int, ...]]) -> list[Sampled]:
        asked.extend(prompts)
        return [Sampled(p, (7,) * (1 + ("Too" in tokenizer.decode(p))), None, 1.0) for p in prompts]

    liked = replace(disliked(1)[0], verdict=Verdict((Vote(1),), 1.0))
    shown: list[Sampled] = []

    def score(turns: Sequence[Turn], answers: Sequence[Sampled]) -> list[float]:
        assert all(
            a.prompt_ids == tuple(render_prompt(tokenizer, t.prompt)) for t, a in zip(turns, answers, strict=True)
        )
        shown.extend(answers)
        return length(turns, answers)

    found = probe([liked, *disliked(20)], tokenizer, sample, score, seed=3, most=6, copies=2)
    assert (found.turns, found.better, found.plain, found.guided) == (6, 6, 1.0, 2.0)
    assert found.helps
    assert len(asked) == len(shown) == 6 * 2 * 2
    first = list(asked)
    asked.clear()
    assert probe([liked, *disliked(20)], tokenizer, sample, score, seed=3, most=6, copies=2) == found
    assert asked == first
    assert probe([liked], tokenizer, sample, score, seed=3).turns == 0
    assert probe(disliked(3), tokenizer, sample, score, seed=3, longest=5).turns == 0
