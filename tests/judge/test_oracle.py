"""The oracle errs as often as it should, evenly, and the same way in every order of calls."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.errors import UserError
from talktune.judge.oracle import OracleJudge
from talktune.judge.panel import judge_turns
from talktune.types import Label, Message, Turn


def turns_of(n: int) -> list[Turn]:
    prompt, reaction = (Message("user", "q"),), (Message("user", "thanks"),)
    return [Turn(f"c{i}", 1, prompt, Message("assistant", f"a{i}"), reaction) for i in range(n)]


@pytest.mark.parametrize("truth", [-1, 0, 1])
def test_it_errs_at_its_rate_evenly_into_the_other_labels(truth: Label) -> None:
    n = 6000
    votes = OracleJudge(lambda _: truth, accuracy=0.7).vote([(turn, 0) for turn in turns_of(n)])
    counts = Counter(vote.label for vote in votes)
    for label in (-1, 0, 1):
        p = 0.7 if label == truth else 0.15
        assert abs(counts[label] / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_the_majority_of_five_is_right_as_often_as_the_exact_curve_says() -> None:
    n, exact = 3000, 0.8735387500000001
    truths: list[Label] = [-1, 0, 1]
    judge = OracleJudge(lambda turn: truths[int(turn.conversation_id[1:]) % 3], accuracy=0.7, seed=3)
    verdicts = judge_turns(judge, turns_of(n), 5)
    right = sum(verdict.reward == truths[i % 3] for i, verdict in enumerate(verdicts)) / n
    assert abs(right - exact) < 4 * math.sqrt(exact * (1 - exact) / n)


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_a_vote_does_not_depend_on_the_order_of_calls(seed: int, rng: random.Random) -> None:
    asks = [(turn, k) for turn in turns_of(5) for k in range(3)]
    order = list(range(len(asks)))
    rng.shuffle(order)
    judge = OracleJudge(lambda _: 1, accuracy=0.5, seed=seed)
    straight = judge.vote(asks)
    shuffled = OracleJudge(lambda _: 1, accuracy=0.5, seed=seed).vote([asks[i] for i in order])
    assert [straight[i] for i in order] == shuffled


def test_seed_turn_answer_and_vote_number_each_change_the_draw() -> None:
    turn, other = turns_of(2)

    def draws(seed: int, turn: Turn, start: int = 0) -> list[Label | None]:
        judge = OracleJudge(lambda _: 1, accuracy=0.5, seed=seed)
        return [vote.label for vote in judge.vote([(turn, start + k) for k in range(64)])]

    base = draws(0, turn)
    assert base == draws(0, turn)
    assert base != draws(1, turn)
    assert base != draws(0, turn, start=64)
    assert base != draws(0, other)


def test_perfect_and_never_right() -> None:
    asks = [(turn, k) for turn in turns_of(50) for k in range(3)]
    assert {vote.label for vote in OracleJudge(lambda _: 0, 1.0).vote(asks)} == {0}
    assert {vote.label for vote in OracleJudge(lambda _: 0, 0.0).vote(asks)} == {-1, 1}


def test_its_distribution_is_that_of_its_votes() -> None:
    turn = turns_of(1)
    assert OracleJudge(lambda _: -1, 0.5).distribution(turn) == [(0.5, 0.25, 0.25)]
    assert OracleJudge(lambda _: 1, 0.5).distribution(turn) == [(0.25, 0.25, 0.5)]


def test_a_turn_of_unknown_truth_stays_unscored() -> None:
    judge = OracleJudge(lambda _: None)
    (verdict,) = judge_turns(judge, turns_of(1), 5)
    assert verdict.reward is None
    assert "not known" in verdict.votes[0].reason
    assert judge_turns(judge, turns_of(1), 5, exact=True)[0].reward is None


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, math.nan])
def test_an_accuracy_is_a_share(accuracy: float) -> None:
    with pytest.raises(UserError, match="judge_accuracy"):
        OracleJudge(lambda _: 1, accuracy)
