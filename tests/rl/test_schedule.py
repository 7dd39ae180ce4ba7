"""The schedule of the upper clip range: its ends, its middle, its monotony; the pace of live steps."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.rl.schedule import LEAST_PACE, eps_high_at, headroom


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_goes_from_start_to_end(kind: Literal["linear", "cosine"]) -> None:
    assert eps_high_at(0, 11, 0.2, 0.4, kind) == 0.2
    assert eps_high_at(5, 11, 0.2, 0.4, kind) == pytest.approx(0.3)
    assert eps_high_at(10, 11, 0.2, 0.4, kind) == pytest.approx(0.4)
    assert eps_high_at(99, 11, 0.2, 0.4, kind) == pytest.approx(0.4)


def test_the_cosine_is_flat_at_both_ends() -> None:
    assert eps_high_at(1, 11, 0.2, 0.4, "linear") == pytest.approx(0.22)
    assert eps_high_at(1, 11, 0.2, 0.4, "cosine") == pytest.approx(0.2048943483704847)


@pytest.mark.parametrize("step", [0, 3, 10])
def test_constant_stays(step: int) -> None:
    assert eps_high_at(step, 11, 0.28, 0.4) == 0.28
    assert eps_high_at(step, 11, 0.28, None, "linear") == 0.28
    assert eps_high_at(step, 1, 0.28, 0.4, "linear") == 0.28


@given(st.integers(0, 50), st.integers(2, 50), st.sampled_from(["linear", "cosine"]))
def test_never_turns_back(step: int, total: int, kind: Any) -> None:
    values = [eps_high_at(s, total, 0.2, 0.6, kind) for s in (step, step + 1)]
    assert 0.2 <= values[0] <= values[1] <= 0.6


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="kind is 'step'"):
        eps_high_at(0, 10, 0.2, 0.4, "step")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("rewards", "pace"), [([], 1.0), ([-1, -1], 1.0), ([1, -1], 1.0), ([1, 1, -1, 0], 0.75), ([1, 1], LEAST_PACE)]
)
def test_who_likes_most_answers_has_little_to_teach(rewards: list[float], pace: float) -> None:
    assert headroom(rewards) == pytest.approx(pace)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1))
def test_the_pace_never_stops_and_falls_with_each_answer_that_is_liked(rewards: list[float]) -> None:
    assert LEAST_PACE <= headroom(rewards) <= 1.0
    assert headroom([*rewards, 1.0]) <= headroom(rewards) + 1e-12


def test_two_updates_are_both_ends() -> None:
    assert [eps_high_at(step, 2, 0.2, 0.4, "linear") for step in (0, 1)] == [0.2, 0.4]
