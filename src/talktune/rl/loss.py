"""The GRPO-TCR loss: Token-level mean and Clip-higher (the recipe: arXiv 2510.11701; DAPO, arXiv 2503.14476).

Open it first: this is what learning minimises; fresh answers, wanted ones and distillation add terms of their own.

    ρ = exp(new − old)    s = min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high) A)    J = mean over tokens of s − β·kl

Shapes: B sequences, T tokens of the longest, N valid tokens. Padding is taken out by selection before
anything is computed, so that whatever stands there, NaN and infinities included, reaches neither the loss
nor a gradient.
"""

from typing import Literal

import torch
from torch import Tensor

Kl = Literal["k1", "k2", "k3", "k3xratio"]

MAX_KL_RATIO = 10.0
"""Bound of ρ in the KL term: without it, a log-prob that is wrong by thousands of nats is all that counts."""
MAX_LOG = 20.0  # nats; exp of more would overflow float32, and its gradient become NaN even where it is clipped


def grpo_tcr_loss(
    new: Tensor,
    old: Tensor,
    ref: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    eps_low: float = 0.2,
    eps_high: float = 0.28,
    beta: float = 0.0,
    kl: Kl = "k3xratio",
    aggregation: Literal["token", "sequence"] = "token",
    dual_clip: float | None = None,
    weights: Tensor | None = None,
    total: int | None = None,
    entropy: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The scalar loss −J, which is minimised, and its metrics (names, units and meanings: `rl.metrics`).

    new, old, ref: (B, T) log-probs in nats; the gradient flows through `new` only. `ref` may be `None` when
    beta is 0; when it is given its KL is a metric. advantages: (B,) or (B, T). mask: (B, T), nonzero where
    valid.

    aggregation: `token` is J = Σ over valid tokens / their number; `sequence` averages each sequence first,
    then the sequences that have a valid token (GRPO, arXiv 2402.03300).
    dual_clip: bound c > 1; for A < 0 the surrogate is max(s, c·A) (arXiv 1912.09729).
    weights: (B, T) factors on each token's surrogate, such as `importance_weights`; the KL term has none.
    total: valid tokens (`token`) or sequences (`sequence`) of the whole update, so that the losses of its
    micro-batches add up to the loss of the whole; by default those of this batch.
    entropy: (B, T) in nats, for the metric only.

    Half-precision log-probs are computed with in float32. A batch without valid tokens has loss 0 and no
    means. ValueError for shapes that do not fit and unknown options.

    Two answers of two and of one token, at ρ = 1: J = (1 + 1 − 1) / 3.

    >>> logprobs = torch.zeros(2, 2)
    >>> mask = torch.tensor([[1, 1], [1, 0]])
    >>> loss, _ = grpo_tcr_loss(logprobs, logprobs, None, torch.tensor([1.0, -1.0]), mask)
    >>> round(loss.item(), 4)
    -0.3333
    """
    _check(new, old, ref, advantages, mask, weights, entropy)
    if beta != 0 and ref is None:
        raise ValueError(f"beta is {beta} but ref is None: give the reference's log-probs, or beta=0")
    valid = mask != 0
    dtype = torch.promote_types(new.dtype, torch.float32)

    def select(x: Tensor) -> Tensor:  # (B, T) -> (N,)
        return x[valid].to(dtype)

    a = advantages[:, None].expand_as(valid) if advantages.ndim == 1 else advantages
    new_n, old_n, a_n = select(new), select(old.detach()), select(a.detach())
    ratio = probability_ratio(new_n, old_n)
    gain = surrogate(ratio, a_n, eps_low, eps_high, dual_clip)
    if weights is not None:
        gain = gain * select(weights.detach())
    ref_n = None if ref is None else select(ref.detach())
    value = gain
    if ref_n is not None and beta != 0:
        value = gain - beta * kl_estimate(new_n, ref_n, kl, old_n)

    share, count = _shares(valid, aggregation, dtype)
    divisor = max(count if total is None else total, 1)
    loss = -(value * share).sum() / divisor

    metrics = {"loss": loss, "objective": (gain * share).sum() / divisor}
    if len(new_n):
        metrics |= {
            "ratio_mean": ratio.mean(),
            "ratio_max": ratio.max(),
            "clipped_low": ((a_n < 0) & (ratio < 1 - eps_low)).to(dtype).mean(),
            "clipped_high": ((a_n > 0) & (ratio > 1 + eps_high)).to(dtype).mean(),
        }
        if ref_n is not None:
            metrics["kl_ref"] = kl_estimate(new_n, ref_n, "k3").mean()
        if entropy is not None:
            metrics["entropy"] = select(entropy).mean()
    numbers = torch.stack([x.detach() for x in metrics.values()]).tolist()  # one wait for the device
    return loss, {**dict(zip(metrics, numbers, strict=True)), "tokens": float(len(new_n))}


def clip_higher(ratio: Tensor, eps_low: float = 0.2, eps_high: float = 0.28) -> Tensor:
    """The ratio ρ clipped to [1 − ε_low, 1 + ε_high], elementwise (DAPO: the upper range is wider).

    >>> clip_higher(torch.tensor([0.5, 1.1, 2.0]))
    tensor([0.8000, 1.1000, 1.2800])
    """
    return ratio.clamp(1 - eps_low, 1 + eps_high)


def surrogate(
    ratio: Tensor,
    advantages: Tensor,
    eps_low: float = 0.2,
    eps_high: float = 0.28,
    dual_clip: float | None = None,
) -> Tensor:
    """s = min(ρA, clip(ρ) A), elementwise; with `dual_clip` c, max(s, c·A) where A < 0 (arXiv 1912.09729).

    ratio and advantages have one shape, and so has s; it is to be maximised. ValueError for c <= 1.
    """
    s = torch.minimum(ratio * advantages, clip_higher(ratio, eps_low, eps_high) * advantages)
    if dual_clip is None:
        return s
    if dual_clip <= 1:
        raise ValueError(f"dual_clip is {dual_clip}: it must be greater than 1 (3 is usual)")
    return torch.where(advantages < 0, torch.maximum(s, dual_clip * advantages), s)


def kl_estimate(new: Tensor, ref: Tensor, kind: Kl, old: Tensor | None = None) -> Tensor:
    """Estimate in nats of KL(new ‖ ref) from each sampled token's log-probs, elementwise, any one shape.

    With d = new − ref: k1 = d, k2 = d² / 2, k3 = e^(−d) − 1 + d (http://joschu.net/blog/kl-approx.html), and
    k3xratio = ρ·k3, ρ = exp(new − old) ≤ 10, whose expected gradient is that of the exact reverse KL; the
    expected gradient of k1 is zero on policy, that of k3 is another divergence's. `old` is read by k3xratio
    only; without it the samples are taken to be the policy's own, ρ = 1 in value. ValueError for another
    kind.
    """
    d = new - ref
    if kind == "k1":
        return d
    if kind == "k2":
        return d**2 / 2
    if kind not in ("k3", "k3xratio"):
        raise ValueError(f"kl is {kind!r}: it must be 'k1', 'k2', 'k3' or 'k3xratio'")
    d = d.clamp(min=-MAX_LOG)
    k3 = torch.expm1(-d) + d
    if kind == "k3":
        return k3
    return probability_ratio(new, new.detach() if old is None else old).clamp(max=MAX_KL_RATIO) * k3


def importance_weights(old: Tensor, rollout: Tensor, cap: float = 2.0) -> Tensor:
    """Truncated importance weights min(exp(old − rollout), cap), elementwise and without gradient.

    They correct for a sampler whose numerics differ from the trainer's own (log-probs in nats, any one
    shape).
    """
    return (old - rollout).detach().exp().clamp(max=cap)


def probability_ratio(new: Tensor, old: Tensor) -> Tensor:
    """ρ = exp(new − old), elementwise, from log-probs in nats of any one shape; at most e^20, which float32 holds."""
    return (new - old).clamp(max=MAX_LOG).exp()


def _shares(valid: Tensor, aggregation: str, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Each valid token's weight in the sum (N,), and how many tokens or sequences it is divided by."""
    lengths = valid.sum(dim=1, keepdim=True)  # (B, 1)
    if aggregation == "token":
        n_tokens = int(lengths.sum())
        return torch.ones(n_tokens, dtype=dtype, device=valid.device), n_tokens
    if aggregation == "sequence":
        return (1 / lengths.to(dtype)).expand_as(valid)[valid], int((lengths > 0).sum())
    raise ValueError(f"aggregation is {aggregation!r}: it must be 'token' or 'sequence'")


def _check(
    new: Tensor,
    old: Tensor,
    ref: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor | None,
    entropy: Tensor | None,
) -> None:
    if new.ndim != 2:
        raise ValueError(f"new has shape {tuple(new.shape)}: it must be (B, T)")
    named = {"old": old, "ref": ref, "mask": mask, "weights": weights, "entropy": entropy}
    for name, x in named.items():
        if x is not None and x.shape != new.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: it must be that of new, {tuple(new.shape)}")
    if advantages.shape not in (new.shape, new.shape[:1]):
        raise ValueError(f"advantages have shape {tuple(advantages.shape)}: they must be (B,) or (B, T)")
