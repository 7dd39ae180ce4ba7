"""The loss head against log-softmax over full logits."""

import pytest
import torch
from torch import Tensor

from talktune.rl.head import selective_log_softmax, several_logprobs

K, H, V = 13, 8, 29


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(K, H, dtype=dtype), torch.randn(V, H, dtype=dtype), torch.randn(V, dtype=dtype)
    temperature = (0.5 + torch.rand(K)).to(dtype)
    return hidden, weight, bias, torch.randint(V, (K,)), temperature


def naive(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    scores = torch.log_softmax(torch.nn.functional.linear(hidden, weight, bias) / temperature[:, None], -1)
    return scores.gather(1, target[:, None]).squeeze(1), -(scores.exp() * scores).sum(-1)


@pytest.mark.parametrize("chunk", [1, V, 3 * V, 10_000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_values_and_every_gradient(chunk: int, with_bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, bias, target, temperature = inputs(dtype)
    factor = torch.randn(K, dtype=dtype)
    found: list[list[Tensor]] = []
    for ours in (True, False):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        b = leaves[2] if with_bias else None
        if ours:
            logprob, entropy = selective_log_softmax(leaves[0], leaves[1], target, temperature, bias=b, chunk=chunk)
            assert not entropy.requires_grad
        else:
            logprob, entropy = naive(leaves[0], leaves[1], b, target, temperature)
        (logprob * factor).sum().backward()
        grads = [x.grad for x in leaves if x.grad is not None]
        assert len(grads) == 2 + with_bias
        found.append([logprob.detach(), entropy.detach(), *grads])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


def test_frozen_weights_get_no_gradient_and_no_grad_saves_nothing() -> None:
    hidden, weight, _, target, temperature = inputs(torch.float32)
    hidden.requires_grad_()
    logprob, _ = selective_log_softmax(hidden, weight, target, temperature)
    logprob.sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None
    with torch.no_grad():
        logprob, _ = selective_log_softmax(hidden, weight, target, temperature)
    assert not logprob.requires_grad


def test_nothing_of_the_size_of_the_logits_is_kept() -> None:
    rows, vocabulary = 64, 5000
    hidden, weight = torch.randn(rows, H, requires_grad=True), torch.randn(vocabulary, H)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        selective_log_softmax(hidden, weight, torch.randint(vocabulary, (rows,)), torch.ones(rows))
        several_logprobs(hidden, weight, 20, torch.ones(rows))
    assert max(kept) <= max(rows, vocabulary) * H


def test_half_precision_sums_in_single() -> None:
    hidden, weight, _, target, temperature = inputs(torch.float32)
    logprob, entropy = selective_log_softmax(hidden.bfloat16(), weight.bfloat16(), target, temperature)
    assert logprob.dtype == entropy.dtype == torch.float32
    true, _ = naive(hidden, weight, None, target, temperature)
    assert (logprob - true).abs().max() < 0.1


def test_logits_far_apart_stay_finite() -> None:
    hidden, weight, _, target, temperature = inputs(torch.float32)
    logprob, entropy = selective_log_softmax((1000 * hidden).requires_grad_(), weight, target, temperature)
    assert torch.isfinite(logprob).all()
    assert torch.isfinite(entropy).all()


@pytest.mark.parametrize("chunk", [1, 3 * V, 10_000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_several_tokens_a_place(chunk: int, with_bias: bool, given: bool) -> None:
    """The likeliest, or given ones: values and every gradient against full logits."""
    hidden, weight, bias, _, temperature = inputs(torch.float64)
    which = torch.stack([torch.randperm(V)[:5] for _ in range(K)]) if given else 5
    factor = torch.randn(K, 5, dtype=torch.float64)
    found: list[list[Tensor]] = []
    for ours in (True, False):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        b = leaves[2] if with_bias else None
        if ours:
            logprob, ids = several_logprobs(leaves[0], leaves[1], which, temperature, bias=b, chunk=chunk)
        else:
            scores = torch.nn.functional.linear(leaves[0], leaves[1], b) / temperature[:, None]
            ids = scores.topk(5).indices if isinstance(which, int) else which
            logprob = scores.log_softmax(-1).gather(1, ids)
        (logprob * factor).sum().backward()
        grads = [x.grad for x in leaves if x.grad is not None]
        assert len(grads) == 2 + with_bias
        found.append([logprob.detach(), ids, *grads])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


def test_several_of_a_small_vocabulary_and_without_gradient() -> None:
    hidden, weight, _, target, temperature = inputs(torch.float32)
    with torch.no_grad():
        logprob, ids = several_logprobs(hidden.requires_grad_(), weight, 100, temperature)
    assert logprob.shape == ids.shape == (K, V)
    assert not logprob.requires_grad
    torch.testing.assert_close(logprob.exp().sum(1), torch.ones(K))
    one, _ = several_logprobs(hidden, weight, target[:, None], temperature)
    torch.testing.assert_close(one.squeeze(1), selective_log_softmax(hidden, weight, target, temperature)[0])
