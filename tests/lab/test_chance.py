from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.lab.chance import binomial_band, draw_truths, draw_votes, majorities
from talktune.rl.votes import majority_vote


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.sampled_from([0.9, 0.99]))
def test_a_band_holds_its_level_and_no_narrower_one_does(n: int, p: float, level: float) -> None:
    low, high = (round(n * share) for share in binomial_band(n, p, level))
    pmf = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    tail = (1 - level) / 2
    assert sum(pmf[:low]) <= tail + 1e-9
    assert sum(pmf[high + 1 :]) <= tail + 1e-9
    assert sum(pmf[: low + 1]) > tail - 1e-9
    assert sum(pmf[high:]) > tail - 1e-9


def test_certain_outcomes_have_no_band() -> None:
    assert binomial_band(10, 0.0) == (0.0, 0.0)
    assert binomial_band(10, 1.0) == (1.0, 1.0)


@pytest.mark.parametrize(("n", "p"), [(0, 0.5), (5, -0.1), (5, 1.1)])
def test_a_band_of_nothing(n: int, p: float) -> None:
    with pytest.raises(ValueError, match="n must be at least 1"):
        binomial_band(n, p)


def test_voters_err_as_told_and_evenly() -> None:
    rng = np.random.default_rng(0)
    truths = draw_truths(rng, 60_000)
    votes = draw_votes(rng, truths, [1.0, 0.7, 0.0])
    assert set(np.unique(votes)) == {-1, 0, 1}
    assert (votes[:, 0] == truths).all()
    assert not (votes[:, 2] == truths).any()
    low, high = binomial_band(60_000, 0.7)
    assert low <= (votes[:, 1] == truths).mean() <= high
    wrong = (votes[:, 1] - truths) % 3
    low, high = binomial_band(int((wrong > 0).sum()), 0.5)
    assert low <= (wrong == 1).sum() / (wrong > 0).sum() <= high


@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=4, max_size=4), min_size=1, max_size=20))
def test_majorities_are_majority_votes(rows: list[list[int]]) -> None:
    assert majorities(np.array(rows)).tolist() == [majority_vote(row) for row in rows]
