"""How far predictions of verdicts are to be believed: experts are mixed by what they foretold, and the gain is counted.

    w_k ∝ prior_k exp(−Σ past losses of expert k)        p = Σ w_k p_k        gain = loss of the base rate − loss of p

With log loss this is Bayes' rule over experts: over any sequence the mixture loses at most −log prior_k nats more than
expert k (Cesa-Bianchi & Lugosi 2006, Prediction, Learning, and Games, § 9.2). One expert is the base rate alone, so a
user who cannot be predicted costs a bounded sum, and the others fall silent.
"""

from math import sqrt

import torch
from torch import Tensor

BAND = 1.0
"""Standard errors that are taken off the mean gain."""
LEAST = 8
"""Fewer predictions than this prove nothing."""


def log_losses(probabilities: Tensor, classes: Tensor) -> Tensor:
    """−log p of what came true: (T, K, 3) and classes (T,) in 0…2 to (T, K)."""
    index = classes[:, None, None].expand(-1, probabilities.shape[1], 1)
    return -probabilities.gather(2, index).squeeze(2).log()


def expert_weights(losses: Tensor, prior: Tensor) -> Tensor:
    """w (T + 1, K) from losses (T, K) and a prior (K,): row t is known before prediction t, the last one afterwards."""
    past = torch.cat([losses.new_zeros(1, losses.shape[1]), losses.cumsum(0)])
    return (prior.to(losses).log() - past).softmax(dim=1)


def mixed(probabilities: Tensor, weights: Tensor) -> Tensor:
    """p (T, 3) of predictions (T, K, 3) and weights (T, K) or (K,)."""
    return (probabilities * weights[..., None]).sum(-2)


def earned_trust(gains: Tensor, base_losses: Tensor, band: float = BAND) -> float:
    """Trust in [0, 1] from the gains (T,) of the predictions over the base rate, whose losses are (T,), in nats.

    The share of the base rate's loss that the predictions save, its mean less `band` standard errors, is an explained
    variance; its square root is a correlation, the slope of the true standardised reward on the predicted one. Zero
    where the band reaches down to no gain, and with fewer than `LEAST` predictions.
    """
    n = len(gains)
    if n < LEAST:
        return 0.0
    low = float(gains.mean()) - band * float(gains.std()) / sqrt(n)
    loss = float(base_losses.mean())
    return sqrt(min(low / loss, 1.0)) if low > 0 and loss > 0 else 0.0
