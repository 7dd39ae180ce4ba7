"""The demonstration loss: the answer that a person wanted becomes likelier, token by token.

Open it to see what `better` in a feedback does to the weights.

    L = −Σ_t log π(y_t | x, y_<t) / N                          N tokens of the wanted answers of the whole update

**The gradient.** With ∂ log π(y) / ∂z(v) = 1[v = y] − π(v) for logits z of temperature 1,

    ∂L/∂log π(y_t) = −1/N     ∂L/∂z_t(v) = (π(v) − 1[v = y_t]) / N     Σ_v |∂L/∂z_t(v)| = 2 (1 − π(y_t)) / N

**Why it is bounded.** However unlikely what somebody typed is to the policy, the sums of the last line over the N
tokens are at most 2: the loss has no upper bound, its pull at the logits has. With weight w, and n of the |B| turns
of an update having a wanted answer, w n / |B| · L pulls with at most 2 w n / |B| ≤ 2 w; a real turn of advantage A
pulls with at most 2 |A| / |B| on average. A token that is as likely as can be pulls no more.

It is maximum likelihood (supervised fine-tuning) as a small term beside a policy gradient, as in DAPG (arXiv
1709.10087). There is no ratio to clip: nobody sampled these tokens.

Shapes: B answers, T tokens of the longest. Padding is taken out by selection, as in `rl.loss`.
"""

import torch
from torch import Tensor


def demonstration_loss(new: Tensor, mask: Tensor, *, total: int | None = None) -> tuple[Tensor, dict[str, float]]:
    """The scalar loss L (module's docstring), which is minimised, and its metrics (`rl.metrics`).

    new: (B, T) log-probs in nats of the wanted answers' tokens, through which the gradient flows. mask: (B, T),
    nonzero where valid. total: N of the whole update, so that the losses of its micro-batches add up to the loss of
    the whole; by default that of this batch.

    Half-precision log-probs are computed with in float32. Without valid tokens the loss is 0. ValueError for shapes
    that do not fit.
    """
    if new.ndim != 2 or mask.shape != new.shape:
        raise ValueError(f"new has shape {tuple(new.shape)}, mask {tuple(mask.shape)}: both must be (B, T)")
    valid = new[mask != 0].to(torch.promote_types(new.dtype, torch.float32))
    loss = -valid.sum() / max(len(valid) if total is None else total, 1)
    return loss, {"wanted_loss": loss.item(), "wanted_tokens": float(len(valid))}
