"""Log-probs and entropies from hidden states, without the (K, V) logits in memory at once.

Open it when the loss needs another number per token, or when its memory matters.

    log p = h·w_t / τ − log Σ_v exp(h·w_v / τ)        ∂ log p / ∂h = (w_t − Σ_v p_v w_v) / τ

The derivative for the hidden state needs nothing that comes later, so it is computed on the way, while a
chunk's probabilities are at hand, and the backward pass only scales it: as many matrix products as the
naive way takes; of several tokens at each place only the sum is kept, and each token's own part is added by the
backward pass. (Fused heads that learn from a loss known in advance do so too: Liger Kernel, arXiv
2410.10989; here the loss comes afterwards, and the chain rule through log p is all that it needs.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**25
"""Logits in memory at a time: 128 MiB in float32."""


def selective_log_softmax(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    temperature: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int = CHUNK,
    between: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probs (K,) of the tokens `target` under softmax((hidden·weightᵀ + bias) / temperature), and entropies (K,),
    in nats.

    hidden: (K, H). weight: (V, H). bias: (V,) or None. target: (K,) token ids. temperature: (K,).
    chunk: logits held at a time. between: called before each chunk, if given. Both results are float32 (float64
    for float64 input); sums are taken in that precision. Gradients flow to hidden, weight and bias; the entropy is a
    metric and carries none.
    """
    follow = hidden.requires_grad and torch.is_grad_enabled()
    return _Head.apply(hidden, weight, bias, target, temperature, max(chunk // len(weight), 1), follow, between)  # type: ignore[no-any-return]


def several_logprobs(
    hidden: Tensor,
    weight: Tensor,
    which: int | Tensor,
    temperature: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int = CHUNK,
    between: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probs (N, K) of several tokens at each of N places, in nats as above, and the ids (N, K) of these tokens.

    which: K, for the K likeliest at each place (all there are, where the vocabulary is smaller), the likeliest first;
    or their ids (N, K). The rest is as in `selective_log_softmax`, with N for K.
    """
    follow = hidden.requires_grad and torch.is_grad_enabled()
    rows = max(chunk // len(weight), 1)
    return _Several.apply(hidden, weight, bias, which, temperature, rows, follow, between)  # type: ignore[no-any-return]


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        temperature: Tensor,
        rows: int,
        follow: bool,
        between: Callable[[], None] | None,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprob = torch.empty(len(target), dtype=wide, device=hidden.device)
        entropy = torch.empty_like(logprob)
        slope = torch.empty_like(hidden) if follow else None
        for i in range(0, len(target), rows):
            if between is not None:
                between()
            part = slice(i, i + rows)
            probs, logprob[part], entropy[part] = _softmax(hidden[part], weight, bias, target[part], temperature[part])
            if slope is not None:
                mean = probs.to(weight.dtype) @ weight
                slope[part] = ((weight[target[part]] - mean) / temperature[part, None]).to(slope.dtype)
        ctx.save_for_backward(slope, hidden, weight, bias, target, temperature)
        ctx.rows = rows
        ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _entropy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        slope, hidden, weight, bias, target, temperature = ctx.saved_tensors
        for_hidden = None if slope is None else slope * grad[:, None].to(slope.dtype)
        for_weight = for_bias = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            # The weights' gradient mixes all tokens, each with its factor: this one needs a second look.
            for_weight, for_bias = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
            for i in range(0, len(target), ctx.rows):
                part = slice(i, i + ctx.rows)
                probs, _, _ = _softmax(hidden[part], weight, bias, target[part], temperature[part])
                factor = (grad[part] / temperature[part]).to(probs.dtype)
                error = probs.mul_(-factor[:, None])
                error[torch.arange(len(error)), target[part]] += factor
                for_weight.addmm_(error.T.to(weight.dtype), hidden[part])
                if for_bias is not None:
                    for_bias += error.sum(0)
        return for_hidden, for_weight, for_bias, None, None, None, None, None


class _Several(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        which: int | Tensor,
        temperature: Tensor,
        rows: int,
        follow: bool,
        between: Callable[[], None] | None,
    ) -> tuple[Tensor, Tensor]:
        k = min(which, len(weight)) if isinstance(which, int) else which.shape[1]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprob = torch.empty(len(hidden), k, dtype=wide, device=hidden.device)
        ids = torch.empty(len(hidden), k, dtype=torch.long, device=hidden.device)
        mean = torch.empty_like(hidden) if follow else None
        for i in range(0, len(hidden), rows):
            if between is not None:
                between()
            part = slice(i, i + rows)
            scores = _scores(hidden[part], weight, bias, temperature[part])
            ids[part] = scores.topk(k).indices if isinstance(which, int) else which[part]
            logprob[part] = scores.gather(1, ids[part]) - scores.logsumexp(1, keepdim=True)
            if mean is not None:
                mean[part] = scores.softmax(1).to(weight.dtype) @ weight
        ctx.save_for_backward(mean, hidden, weight, bias, ids, temperature)
        ctx.rows = rows
        ctx.mark_non_differentiable(ids)
        return logprob, ids

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _ids: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        mean, hidden, weight, bias, ids, temperature = ctx.saved_tensors
        factor = grad / temperature[:, None]  # (N, K)
        for_hidden = None if mean is None else torch.empty_like(hidden)
        for_weight = for_bias = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            for_weight, for_bias = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
        for i in range(0, len(hidden), ctx.rows):
            part = slice(i, i + ctx.rows)
            f = factor[part].to(weight.dtype)
            if for_hidden is not None and mean is not None:
                own = torch.bmm(f[:, None], weight[ids[part]]).squeeze(1)  # (n, K) · (n, K, H)
                for_hidden[part] = own - f.sum(1, keepdim=True) * mean[part]
            if for_weight is not None:
                probs = _scores(hidden[part], weight, bias, temperature[part]).softmax(1)
                error = probs.mul_(-factor[part].sum(1, keepdim=True)).scatter_add_(1, ids[part], factor[part])
                for_weight.addmm_(error.T.to(weight.dtype), hidden[part])
                if for_bias is not None:
                    for_bias += error.sum(0)
        return for_hidden, for_weight, for_bias, None, None, None, None, None


def _scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor) -> Tensor:
    """The scores (n, V) of one chunk: logits over the temperature, in float32 at least."""
    scores = torch.nn.functional.linear(hidden, weight, bias)
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).div_(temperature[:, None])


def _softmax(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (n, V), log-probs of the targets (n,) and entropies (n,) of one chunk."""
    scores = _scores(hidden, weight, bias, temperature)
    scores -= scores.amax(1, keepdim=True)
    chosen = scores.gather(1, target[:, None]).squeeze(1)
    probs = scores.exp()
    total = probs.sum(1)
    log_total = total.log()
    expected = torch.bmm(probs[:, None], scores[:, :, None]).flatten() / total  # no third (n, V)
    return probs.div_(total[:, None]), chosen - log_total, log_total - expected
