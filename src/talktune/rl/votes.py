"""The reward of a turn from m votes of a judge: −1 bad, 0 neutral, +1 good, or `None` for a turn that stays unscored.

Open it to see how votes are counted, and when no more of them are asked for.

The process reward model's majority vote of OpenClaw-RL (arXiv 2603.10165), with a quorum, so that a judge
that is down never looks like neutral feedback, and with the closed forms that make some of the votes
unnecessary.
"""

from collections.abc import Sequence
from math import exp, fsum, inf, isfinite, lgamma, log

from talktune.types import Label

LABELS: tuple[Label, ...] = (-1, 0, 1)
"""The classes, in the order of every distribution here: p(−1), p(0), p(+1)."""

_LEAST, _MOST = 1 / 3 + 1e-6, 1 - 1e-6  # a confidence at chance or at certainty would weigh 0 or infinity


def majority_vote(votes: Sequence[Label | None]) -> Label | None:
    """The mode of the valid votes; a tie for first place is 0; `None` without a quorum.

    `None` among the m = len(votes) votes is a vote that failed; fewer than m / 2 valid ones are no quorum.
    ValueError for a vote that is not −1, 0, +1 or `None`.

    >>> majority_vote([1, 1, -1, None]), majority_vote([1, -1]), majority_vote([1, None, None])
    (1, 0, None)
    """
    counts = _counts(votes)
    return _winner(counts) if _quorum(sum(counts), len(votes)) else None


def weighted_vote(votes: Sequence[Label | None], confidences: Sequence[float | None]) -> Label | None:
    """The class with the largest Σ log((K − 1) p / (1 − p)), K = 3; ties and quorum as in the majority vote.

    p in (0, 1] is each voter's confidence, clamped to [1/3 + 1e-6, 1 − 1e-6]; equal confidences give the
    majority. The weights are those of the Bayes-optimal vote of independent voters who are right with
    probability p and err evenly (Nitzan & Paroush 1982, for K = 2; SAMME, Zhu et al. 2009, for K classes).
    The confidence of a failed vote is not read. ValueError for another label, a confidence outside (0, 1],
    or lists of unequal length.

    >>> weighted_vote([1, -1, -1], [0.9, 0.5, 0.5])
    1
    """
    if len(votes) != len(confidences):
        raise ValueError(f"{len(votes)} votes came with {len(confidences)} confidences: give one for each vote")
    counts = _counts(votes)
    if not _quorum(sum(counts), len(votes)):
        return None
    weights: dict[Label, list[float]] = {label: [] for label in LABELS}
    for vote, p in zip(votes, confidences, strict=True):
        if vote is None:
            continue
        if p is None or not 0 < p <= 1:
            raise ValueError(f"the confidence of a vote is {p!r}: it must be in (0, 1]")
        p = min(max(p, _LEAST), _MOST)
        weights[vote].append(log(2 * p / (1 - p)))
    # fsum rounds once, so that a tie is a tie in whatever order the votes came.
    return _winner([fsum(weights[label]) for label in LABELS])


def decided(votes: Sequence[Label | None], m: int) -> bool:
    """True iff every outcome of the other m − len(votes) votes, failures included, gives the same reward.

    Exact, in closed form; the reward is then that of the votes so far filled up with `None`. ValueError when
    there are more than m votes already.
    """
    left = m - len(votes)
    if left < 0:
        raise ValueError(f"{len(votes)} votes were given of m = {m}: there cannot be more votes than m")
    counts = _counts(votes)
    if not _quorum(sum(counts), m):  # if the rest fails there is no reward: decided iff there can be none at all
        return not _quorum(sum(counts) + left, m)
    reward = _winner(counts)
    if reward == 0:  # neither other class may overtake, even with all votes that are left
        return all(counts[i] + left <= max(counts[1], counts[2 - i]) for i in (0, 2))
    first, second = sorted(counts, reverse=True)[:2]
    return first > second + left


def vote_distribution(probs: Sequence[float], m: int) -> tuple[float, float, float]:
    """The distribution (p(−1), p(0), p(+1)) of the majority of m independent votes, each drawn from `probs`.

    P(k) = Σ m! / (a! b! c!) p(−1)^a p(0)^b p(+1)^c over the counts a + b + c = m whose majority is k; ties
    count for 0. O(m²) terms, relative error about 1e-13 at m = 101. ValueError for m < 1 or when `probs` is
    not a distribution over −1, 0, +1 (to 1e-6; it is then normalised).

    >>> [round(p, 2) for p in vote_distribution((0.0, 0.3, 0.7), 3)]
    [0.0, 0.22, 0.78]
    """
    if m < 1:
        raise ValueError(f"m is {m}: a majority needs at least 1 vote")
    log_p = [log(p) if p > 0 else -inf for p in _distribution(probs)]
    log_factorial = [lgamma(n + 1) for n in range(m + 1)]
    # 0 · −inf is not a number, but p^0 is 1 for every p.
    power = [[n * lp - log_factorial[n] if n else 0.0 for n in range(m + 1)] for lp in log_p]
    terms: dict[Label, list[float]] = {label: [] for label in LABELS}
    for a in range(m + 1):
        for b in range(m + 1 - a):
            c = m - a - b
            terms[_winner((a, b, c))].append(exp(log_factorial[m] + power[0][a] + power[1][b] + power[2][c]))
    return fsum(terms[-1]), fsum(terms[0]), fsum(terms[1])


def exact_vote(probs: Sequence[float]) -> Label:
    """The reward of m → ∞ votes drawn from `probs`: their mode; a tie for first place is 0.

    `probs` is (p(−1), p(0), p(+1)); ValueError when that is not a distribution (to 1e-6).
    """
    return _winner(_distribution(probs))


def majority_accuracy(p: float, m: int) -> float:
    """How often the majority of m votes is right when each is right with probability p: the exact curve.

    The truth is uniform over −1, 0, +1 and errors go evenly to the two other labels. ValueError for p outside
    [0, 1] or m < 1.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}: a probability lies in [0, 1]")
    wrong = (1 - p) / 2
    signed = vote_distribution((wrong, wrong, p), m)[2]
    neutral = vote_distribution((wrong, p, wrong), m)[1]
    return (2 * signed + neutral) / 3


def _counts(votes: Sequence[Label | None]) -> list[int]:
    """How many valid votes each class has, in the order of LABELS."""
    counts = [0, 0, 0]
    for vote in votes:
        if vote is None:
            continue
        if vote not in LABELS:
            raise ValueError(f"a vote is {vote!r}: it must be -1, 0, 1 or None")
        counts[int(vote) + 1] += 1
    return counts


def _quorum(valid: int, m: int) -> bool:
    return valid > 0 and 2 * valid >= m


def _winner(scores: Sequence[float]) -> Label:
    """The class with the highest score; a tie for first place is 0."""
    best = max(scores)
    leaders: list[Label] = [label for label, score in zip(LABELS, scores, strict=True) if score == best]
    return leaders[0] if len(leaders) == 1 else 0


def _distribution(probs: Sequence[float]) -> list[float]:
    values = [float(p) for p in probs]
    total = fsum(values)
    if len(values) != 3 or not all(isfinite(p) and p >= 0 for p in values) or abs(total - 1) > 1e-6:
        raise ValueError(f"probs is {values}: it must be p(-1), p(0), p(+1), which sum to 1")
    return [p / total for p in values]
