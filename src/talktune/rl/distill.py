"""The self-distillation loss: the model that has read the reaction teaches the model that has not.

Open it to see what `--distill` adds to the loss.

For an answer y to a prompt x that was met with a reaction o: the student π reads x, the teacher π̄ (the frozen model)
reads x⊕o, x with o in it, and both score y token by token; y stands in no prompt. S_t are the K tokens that the
student finds likeliest after y_<t.

    g_t(v) = clip(log π̄(v | x⊕o, y_<t) − log π_old(v | x, y_<t), ±1)           the gap, v ∈ S_t
    Δ_t(v) = g_t(v) − Σ_{u∈S_t} π_old(u) g_t(u) / Σ_{u∈S_t} π_old(u)             centred at every token
    ρ_t(v) = π(v | x, y_<t) / π_old(v | x, y_<t)
    J      = Σ_t Σ_{v∈S_t} π_old(v) min(ρΔ, clip(ρ, 1 − ε_low, 1 + ε_high) Δ) / number of tokens,    loss = −J

**The gradient.** Let u_t(v) be 1 where the minimum is ρΔ (for Δ > 0: ρ ≤ 1 + ε_high; for Δ < 0: ρ ≥ 1 − ε_low), else
0. As π_old ρ = π and ∂ log π(v) / ∂z(w) = 1[v = w] − π(w) for logits z of temperature 1,

    ∂J/∂log π(v) = π(v) Δ(v) u(v) / N          ∂J/∂z(w) = π(w) (Δ(w) u(w) 1[w ∈ S] − Σ_{v∈S} π(v) Δ(v) u(v)) / N

On the first step π = π_old, the sum is zero by the centring, and π(w) Δ(w) / N is left for w ∈ S and nothing elsewhere.

**Which mean, and why.** Write g = c, the same for all of S_t. Without centring its gradient is c ∂P_t/∂z / N, where
P_t is what S_t holds of the probability: it says nothing of any token of S_t against another, but moves what lies
outside. The mean gap is −KL(π_old‖π̄) < 0 nearly always, so that each token of the answer would feed the tail, in which
the end of the turn stands in mid-sentence: a push to shorter answers that nobody asked for. One mean for the whole
answer leaves such a push at every token whose own mean differs from it, of both signs, also where the teacher has
nothing to say (g = 0). The mean at each token, weighted by π_old, leaves none: the end of the turn moves only where
it is among the candidates, and only by what the teacher says of it against them. The sum over the answer is then
zero, too, whatever its length. The loss then falls along P_t times the gradient of KL(p‖p̄), where p and p̄ are π and
π̄ on S_t alone (as far as no gap was clipped).

**The sampled token** is in S_t when it is likely, and not added when it is not. The sum over S_t is the expectation
over what might have been drawn; a token that came in because it was drawn would count with π·π, for no gain: what
happened to the token that was drawn is what the advantage of `rl.loss` is for.

Sources: SDPO, arXiv 2601.20802 (the self-teacher, the K likeliest tokens); arXiv 2603.12273 (the user's next message
as the context); OpenClaw-RL, arXiv 2603.10165 (the gap in the advantage's place in the clipped surrogate). The clip of
the gap and the centring are this project's own.

Shapes: B answers, T tokens of the longest, K candidates. Padding is taken out by selection, as in `rl.loss`.
"""

import torch
from torch import Tensor

from talktune.rl.loss import probability_ratio, surrogate

CANDIDATES = 20
"""K, candidates at each token."""
BOUND = 1.0
"""Largest gap that counts, in nats: so that no token on which the two are worlds apart outweighs all others."""


def centred_gaps(teacher: Tensor, old: Tensor, bound: float = BOUND) -> Tensor:
    """Δ (…, K) in nats from the teacher's and the student's log-probs (…, K) of the same candidates; no gradient.

    Δ = clip(teacher − old, ±bound), minus its mean over K weighted by exp(old). Σ exp(old) Δ over K is zero, and |Δ|
    at most 2·bound. ValueError for a bound that is not positive.
    """
    if not bound > 0:
        raise ValueError(f"bound is {bound}: it must be positive")
    old = old.detach()
    gap = (teacher.detach() - old).clamp(-bound, bound)
    return gap - (torch.softmax(old, dim=-1) * gap).sum(-1, keepdim=True)


def distill_loss(
    new: Tensor,
    old: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    eps_low: float = 0.2,
    eps_high: float = 0.28,
    bound: float = BOUND,
    total: int | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The scalar loss −J (module's docstring), which is minimised, and its metrics (`rl.metrics`).

    new, old, teacher: (B, T, K) log-probs in nats of the student's K likeliest tokens at each place of the answer,
    finite where valid; the gradient flows through `new` only. mask: (B, T), nonzero where valid. total: distilled
    tokens of the whole update, so that the losses of its micro-batches add up to the loss of the whole; by default
    those of this batch.

    Half-precision log-probs are computed with in float32. Without valid tokens the loss is 0 and there are no means.
    ValueError for shapes that do not fit.
    """
    if new.ndim != 3 or mask.shape != new.shape[:2]:
        raise ValueError(f"new has shape {tuple(new.shape)}, mask {tuple(mask.shape)}: must be (B, T, K) and (B, T)")
    for name, x in {"old": old, "teacher": teacher}.items():
        if x.shape != new.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: it must be that of new, {tuple(new.shape)}")
    valid = mask != 0
    dtype = torch.promote_types(new.dtype, torch.float32)
    new_n, old_n, teacher_n = (x[valid].to(dtype) for x in (new, old.detach(), teacher.detach()))  # (N, K)
    gains = surrogate(probability_ratio(new_n, old_n), centred_gaps(teacher_n, old_n, bound), eps_low, eps_high)
    loss = -(old_n.exp() * gains).sum() / max(len(new_n) if total is None else total, 1)
    metrics = {"distill_loss": loss.detach()}
    if len(new_n):
        gap, share = (teacher_n - old_n).abs(), torch.softmax(old_n, dim=-1)
        metrics["distill_gap"] = (share * gap).sum(-1).mean()
        metrics["distill_clipped"] = (share * (gap > bound)).sum(-1).mean()
    numbers = torch.stack(list(metrics.values())).tolist()  # one wait for the device
    return loss, {**dict(zip(metrics, numbers, strict=True)), "distill_tokens": float(len(new_n))}
