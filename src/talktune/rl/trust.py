"""How far predicted verdicts are to be believed: experts are weighed by what they predicted right so far.

Open it to see why fresh answers count for much, little or nothing.

    w_k ∝ prior_k exp(−Σ losses of expert k)        p = Σ w_k p_k
    trust = max(0, D − se² / D)       D = (pairs in order − pairs in disorder) / pairs with different verdicts

With log losses of predictions that were made without their verdicts, the weights are those of Bayes' rule over experts
(pseudo-BMA, Yao et al. 2018, arXiv 1704.02030). Trust goes by ranks (Somers' D, 2 AUC − 1 over all three verdicts), not
by the loss: what is learned from is the order of answers alone, and a few dozen verdicts show an order long before they
show probabilities. It needs no liked answer, and only two verdicts. D is shrunk as the positive part of James and Stein
shrinks a mean with a known error: nothing is left of a D within one error, three quarters of one of two.
"""

from math import sqrt

from torch import Tensor

LEAST = 12
"""Fewer predictions than this prove nothing."""


def log_losses(probabilities: Tensor, classes: Tensor) -> Tensor:
    """The loss −log p of each prediction: (T, K, 3) and the classes (T,) in 0…2 that came true, to (T, K)."""
    index = classes[:, None, None].expand(-1, probabilities.shape[1], 1)
    return -probabilities.gather(2, index).squeeze(2).log()


def expert_weights(losses: Tensor, prior: Tensor) -> Tensor:
    """w (…, K) from the summed losses of the experts (…, K) and a prior (K,)."""
    return (prior.to(losses).log() - losses).softmax(dim=-1)


def mixed(probabilities: Tensor, weights: Tensor) -> Tensor:
    """Mix the experts' predictions (T, K, 3) by weights (T, K) or (K,), to p (T, 3)."""
    return (probabilities * weights[..., None]).sum(-2)


def earned_trust(scores: Tensor, classes: Tensor) -> float:
    """Trust in [0, 1] from scores (T,) that were made without their classes (T,): D shrunk by its error.

    Zero with fewer than `LEAST` predictions, or where all classes or all scores are alike.
    """
    if len(scores) < LEAST:
        return 0.0
    order, error = concordance(scores, classes)
    return max(0.0, order - error**2 / order) if order > 0 else 0.0


def concordance(scores: Tensor, classes: Tensor) -> tuple[float, float]:
    """Somers' D of the scores (T,) given the classes (T,), and its standard error where the scores say nothing.

    The error is Kendall's, with ties in both (Kendall & Gibbons 1990, Rank Correlation Methods, ch. 4). Zeros where
    no two classes, or no two scores, differ.
    """
    ahead = (scores[:, None] - scores[None, :]).sign()
    wanted = (classes[:, None] - classes[None, :]).sign()
    pairs = float(wanted.abs().sum()) / 2
    if pairs == 0 or not bool(ahead.any()):
        return 0.0, 0.0
    n = len(scores)
    (x1, x2, x3), (y1, y2, y3) = (_ties(values) for values in (scores, classes))
    variance = (n * (n - 1) * (2 * n + 5) - x1 - y1) / 18 + x2 * y2 / (2 * n * (n - 1))
    if n > 2:
        variance += x3 * y3 / (9 * n * (n - 1) * (n - 2))
    return float((ahead * wanted).sum()) / 2 / pairs, sqrt(max(variance, 0.0)) / pairs


def _ties(values: Tensor) -> tuple[float, float, float]:
    """Over groups of t equal values: Σ t(t − 1)(2t + 5), Σ t(t − 1), Σ t(t − 1)(t − 2)."""
    t = values.unique(return_counts=True)[1].double()
    pairs = t * (t - 1)
    return float((pairs * (2 * t + 5)).sum()), float(pairs.sum()), float((pairs * (t - 2)).sum())
