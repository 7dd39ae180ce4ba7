"""Simulated votes, and how far an honest simulation may lie from the truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talktune.rl.votes import LABELS, majority_vote

Labels = NDArray[np.int64]
"""Labels −1, 0, +1."""
LEVEL = 0.99
"""How often an honest simulation lies in its band."""


@dataclass(frozen=True, slots=True)
class Check:
    """An exact accuracy beside a simulated one, as shares."""

    exact: float
    simulated: float
    low: float
    high: float
    """The band around `exact` in which `simulated` lies in 99 of 100 simulations."""

    @property
    def inside(self) -> bool:
        """Whether the simulation lies in its own band."""
        return self.low <= self.simulated <= self.high


def check(exact: float, right: NDArray[np.bool_]) -> Check:
    """Hold simulated cases (N,), each right or wrong, against the exact accuracy."""
    return Check(exact, float(right.mean()), *binomial_band(len(right), exact))


def draw_truths(rng: np.random.Generator, n: int) -> Labels:
    """True labels (N,), uniform over −1, 0, +1."""
    return rng.integers(-1, 2, size=n)


def draw_votes(rng: np.random.Generator, truths: Labels, accuracies: Sequence[float]) -> Labels:
    """Votes (N, M) on `truths` (N,): voter j is right with probability accuracies[j], else errs evenly."""
    shape = (len(truths), len(accuracies))
    right = rng.random(shape) < np.asarray(accuracies)
    step = np.where(right, 0, rng.integers(1, 3, size=shape))  # 1 or 2 further round the three labels
    return (truths[:, None] + 1 + step) % 3 - 1


def majorities(votes: Labels) -> Labels:
    """The majority (N,) of each row of votes (N, M), by `rl.votes.majority_vote`: called once for equal counts."""
    counts = np.stack([(votes == label).sum(axis=1) for label in LABELS], axis=1)
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    rewards = [
        majority_vote([label for label, n in zip(LABELS, numbers, strict=True) for _ in range(int(n))])
        for numbers in kinds
    ]
    return np.array([reward or 0 for reward in rewards], dtype=np.int64)[kind.reshape(-1)]


def binomial_band(n: int, p: float, level: float = LEVEL) -> tuple[float, float]:
    """Shares (low, high) between which k / n lies with probability of at least `level`, k ~ Binomial(n, p).

    Exact and central: low is the largest k with P(X < k) ≤ (1 − level) / 2, high the smallest with P(X > k) ≤
    the same; no normal approximation, so it holds near p = 0 and p = 1. ValueError for n < 1 or p outside [0, 1].
    """
    if n < 1 or not 0 <= p <= 1:
        raise ValueError(f"n is {n} and p is {p}: n must be at least 1 and p lie in [0, 1]")
    if p in (0, 1):
        return p, p
    k = np.arange(1, n + 1)
    # log P(k) = log P(k − 1) + log((n − k + 1) p / (k (1 − p)))
    log_pmf = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k) + np.log(p) - np.log1p(-p))])
    pmf = np.exp(log_pmf - log_pmf.max())
    pmf /= pmf.sum()
    tail = (1 - level) / 2
    below = np.concatenate([[0.0], np.cumsum(pmf)[:-1]])  # P(X < k)
    above = np.concatenate([np.cumsum(pmf[::-1])[-2::-1], [0.0]])  # P(X > k)
    return float(np.flatnonzero(below <= tail)[-1]) / n, float(np.flatnonzero(above <= tail)[0]) / n
