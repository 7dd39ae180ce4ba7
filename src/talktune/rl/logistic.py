"""A small classifier that says how features change a base rate: p = softmax(log π + W x), W drawn towards zero.

Open it to see how the preference model's experts are fitted.

The penalty |W|² / 2s² is a normal prior of deviation s on every weight, so that x with E|x|² = 1 moves a class's
score by about s. As s goes to zero, or where the features say nothing, p is the base rate π.
"""

import torch
from torch import Tensor

CLASSES = 3
_STEPS, _HALVINGS = 50, 30
_FLAT = 1e-9
"""Largest gradient at which the fit is done, and the share of the largest eigenvalue below which one counts as 0."""


def base_rate(classes: Tensor, weight: float = 0.5) -> Tensor:
    """π (3,): the shares of the classes 0…2 in (N,), with `weight` cases of each seen before (Krichevsky-Trofimov)."""
    counts = torch.bincount(classes, minlength=CLASSES).double() + weight
    return counts / counts.sum()


def fit_weight(features: Tensor, classes: Tensor, base: Tensor, deviation: float) -> Tensor:
    """W (D, 3) for features (N, D) in float64, classes (N,) in 0…2, base rate (3,) and prior deviation s.

    The minimum of Σ −log softmax(log π + x W)_y + |W|² / 2s², which is unique, by Newton's method with step halving.
    Where D > N it is sought in the span of the features, in which it lies.
    """
    if features.shape[1] > len(features):
        values, vectors = torch.linalg.eigh(features @ features.T)
        kept = values > _FLAT * values.max().clamp_min(1e-300)
        scale = values[kept].sqrt()
        coordinates = vectors[:, kept] * scale  # (N, r); the features are coordinates @ basis
        return features.T @ (vectors[:, kept] / scale) @ _newton(coordinates, classes, base, deviation)
    return _newton(features, classes, base, deviation)


def probabilities(features: Tensor, weight: Tensor, base: Tensor) -> Tensor:
    """p (N, 3) of features (N, D)."""
    return (base.log() + features @ weight).softmax(dim=-1)


def _newton(x: Tensor, classes: Tensor, base: Tensor, deviation: float) -> Tensor:
    rank, ridge = x.shape[1], deviation**-2
    wanted = torch.nn.functional.one_hot(classes, CLASSES).to(x)
    weight = torch.zeros(rank, CLASSES, dtype=x.dtype)

    def objective(weight: Tensor) -> Tensor:
        log_p = (base.log() + x @ weight).log_softmax(dim=-1)
        return -(log_p * wanted).sum() + ridge / 2 * weight.square().sum()

    value = objective(weight)
    for _ in range(_STEPS):
        p = probabilities(x, weight, base)
        slope = x.T @ (p - wanted) + ridge * weight
        if rank == 0 or slope.abs().max() < _FLAT:
            break
        spread = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]  # (N, 3, 3)
        curve = torch.einsum("nab,ni,nj->iajb", spread, x, x).reshape(rank * CLASSES, rank * CLASSES)
        curve += ridge * torch.eye(rank * CLASSES, dtype=x.dtype)
        step = torch.linalg.solve(curve, slope.reshape(-1)).reshape(rank, CLASSES)
        for _ in range(_HALVINGS):
            tried = objective(weight - step)
            if tried <= value:
                break
            step = step / 2
        else:  # no smaller value within rounding
            break
        weight, value = weight - step, tried
    return weight
