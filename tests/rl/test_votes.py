"""Votes to reward: golden numbers, the closed forms against enumeration, early stop for every sequence."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.rl.votes import (
    LABELS,
    decided,
    exact_vote,
    majority_accuracy,
    majority_vote,
    vote_distribution,
    weighted_vote,
)
from talktune.types import Label

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
OUTCOMES: tuple[Label | None, ...] = (-1, 0, 1, None)

labels = st.sampled_from(LABELS)
outcomes = st.sampled_from(OUTCOMES)
weights = st.tuples(*[st.integers(0, 20)] * 3).filter(any)


def spelled_out(votes: Sequence[Label | None]) -> Label | None:
    """The majority as the rules say it, slowly."""
    valid = [v for v in votes if v is not None]
    if not valid or len(valid) < len(votes) / 2:
        return None
    most = max(valid.count(k) for k in LABELS)
    first = [k for k in LABELS if valid.count(k) == most]
    return first[0] if len(first) == 1 else 0


@pytest.mark.parametrize("case", GOLDEN["majority"])
def test_majority_meets_the_golden_numbers(case: dict[str, Any]) -> None:
    assert majority_vote(case["votes"]) == case["reward"]


@pytest.mark.parametrize("case", GOLDEN["weighted"])
def test_weighted_meets_the_golden_numbers(case: dict[str, Any]) -> None:
    assert weighted_vote(case["votes"], case["confidences"]) == case["reward"]


@pytest.mark.parametrize("case", GOLDEN["vote_distribution"])
def test_distribution_meets_the_golden_numbers(case: dict[str, Any]) -> None:
    expected = (case["minus"], case["zero"], case["plus"])
    assert vote_distribution(case["probs"], case["m"]) == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize(("key", "expected"), GOLDEN["majority_accuracy"].items())
def test_accuracy_meets_the_golden_numbers(key: str, expected: float) -> None:
    p, m = (part.split("=")[1] for part in key.split(","))
    assert majority_accuracy(float(p), int(m)) == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("m", range(1, 8))
def test_majority_follows_the_rules_for_every_sequence(m: int) -> None:
    for votes in itertools.product(OUTCOMES, repeat=m):
        assert majority_vote(votes) == spelled_out(votes), votes


def test_no_votes_give_no_reward() -> None:
    assert majority_vote([]) is None
    assert weighted_vote([], []) is None


@pytest.mark.parametrize("m", range(1, 8))
def test_decided_means_that_all_completions_agree(m: int) -> None:
    for n in range(m + 1):
        for votes in itertools.product(OUTCOMES, repeat=n):
            rewards = {
                spelled_out([*votes, *rest]) for rest in itertools.combinations_with_replacement(OUTCOMES, m - n)
            }
            assert decided(votes, m) == (len(rewards) == 1), votes


@pytest.mark.parametrize("m", range(1, 8))
def test_early_stop_gives_the_reward_of_all_votes_for_every_sequence(m: int) -> None:
    for votes in itertools.product(OUTCOMES, repeat=m):
        asked = next(n for n in range(m + 1) if decided(votes[:n], m))
        stopped = [*votes[:asked], *[None] * (m - asked)]
        assert majority_vote(stopped) == spelled_out(votes), votes


def test_early_stop_saves_calls() -> None:
    assert decided([1, 1, 1], 5)
    assert not decided([1, 1], 5)
    assert not decided([1, 1, -1], 5)
    assert decided([None, None, None], 5)
    assert decided([0, 0, 1], 4)  # the best that +1 can still do is a tie, which is 0 as well


@given(st.lists(outcomes, min_size=1, max_size=15), st.floats(1e-3, 1))
def test_equal_confidences_give_the_majority(votes: list[Label | None], p: float) -> None:
    assert weighted_vote(votes, [p] * len(votes)) == majority_vote(votes)


@given(st.data(), st.lists(st.tuples(labels, st.floats(0.01, 1)), min_size=1, max_size=9))
def test_weighted_vote_does_not_depend_on_the_order(data: st.DataObject, votes: list[tuple[Label, float]]) -> None:
    shuffled = data.draw(st.permutations(votes))
    assert weighted_vote(*zip(*votes, strict=True)) == weighted_vote(*zip(*shuffled, strict=True))


def test_weighted_vote_does_not_read_the_confidence_of_a_failed_vote() -> None:
    assert weighted_vote([1, None, 1], [0.9, None, 0.8]) == 1
    assert weighted_vote([1, None, None], [0.9, None, None]) is None


def test_certainty_outweighs_but_stays_finite() -> None:
    assert weighted_vote([1, -1, -1], [1.0, 0.9, 0.9]) == 1
    assert weighted_vote([1, *[-1] * 7], [1.0, *[0.9] * 7]) == -1


@given(weights, st.integers(1, 6))
def test_distribution_equals_enumeration(w: tuple[int, int, int], m: int) -> None:
    probs = [x / sum(w) for x in w]
    expected = dict.fromkeys(LABELS, 0.0)
    for votes in itertools.product(LABELS, repeat=m):
        winner = spelled_out(votes)
        assert winner is not None
        expected[winner] += math.prod(probs[v + 1] for v in votes)
    assert vote_distribution(probs, m) == pytest.approx(tuple(expected.values()), rel=1e-12, abs=1e-15)


@given(weights, st.sampled_from([11, 51, 101]))
def test_distribution_of_many_votes_sums_to_one(w: tuple[int, int, int], m: int) -> None:
    probs = [x / sum(w) for x in w]
    result = vote_distribution(probs, m)
    assert math.fsum(result) == pytest.approx(1, rel=0, abs=1e-12)
    mirrored = vote_distribution(probs[::-1], m)
    assert mirrored == pytest.approx(result[::-1], rel=1e-12, abs=1e-300)


def test_many_votes_tend_to_the_exact_vote() -> None:
    for probs in [(0.2, 0.3, 0.5), (0.6, 0.1, 0.3), (0.2, 0.6, 0.2)]:
        assert vote_distribution(probs, 401)[exact_vote(probs) + 1] > 0.99


def test_a_tie_of_the_exact_vote_is_neutral() -> None:
    assert exact_vote((0.4, 0.2, 0.4)) == 0
    assert exact_vote((0.4, 0.4, 0.2)) == 0
    assert exact_vote((0.1, 0.2, 0.7)) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: majority_vote([1, 2]), "a vote is 2"),  # pyright: ignore[reportArgumentType]
        (lambda: weighted_vote([1], []), "1 votes came with 0 confidences"),
        (lambda: weighted_vote([1], [0.0]), "confidence of a vote is 0.0"),
        (lambda: weighted_vote([1], [None]), "confidence of a vote is None"),
        (lambda: decided([1, 1], 1), "more votes than m"),
        (lambda: vote_distribution((0.2, 0.3, 0.5), 0), "m is 0"),
        (lambda: vote_distribution((0.2, 0.3), 3), "probs is"),
        (lambda: exact_vote((0.2, 0.3, 0.6)), "probs is"),
        (lambda: exact_vote((-0.2, 0.6, 0.6)), "probs is"),
        (lambda: majority_accuracy(1.1, 3), "p is 1.1"),
    ],
)
def test_wrong_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_a_confidence_over_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        weighted_vote([1], [1.5])


def test_a_vote_weighs_its_log_odds_against_two_labels() -> None:
    # log(2p / (1 − p)) against twice log 2: equal at p = 2/3; with another number of labels elsewhere.
    assert weighted_vote([1, -1, -1], [0.7, 0.5, 0.5]) == 1
    assert weighted_vote([1, -1, -1], [0.6, 0.5, 0.5]) == -1


def test_who_is_never_right_and_who_always_is() -> None:
    assert majority_accuracy(0.0, 1) == 0.0
    assert majority_accuracy(1.0, 5) == 1.0
