"""A demonstration's loss: golden numbers, the gradient derived by hand, its bound, padding, micro-batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from talktune.rl.demonstration import demonstration_loss
from talktune.rl.metrics import merge

V = 7
seeds = st.integers(0, 10_000)
lengths = st.lists(st.integers(0, 5), min_size=1, max_size=4)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_meets_the_golden_numbers() -> None:
    """Logits whose softmax is known exactly: (1/2, 1/3, 1/6), (1/4, 1/4, 1/2) and (1/10, 1/5, 7/10), tokens 1, 2, 0."""
    z = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 2.0], [1.0, 2.0, 7.0]], dtype=torch.float64).log().requires_grad_()
    new = z.log_softmax(-1).gather(1, torch.tensor([[1], [2], [0]]))
    loss, metrics = demonstration_loss(new.T, torch.ones(1, 3))
    loss.backward()
    # −(log 1/3 + log 1/2 + log 1/10) / 3 = log 60 / 3
    assert loss.item() == pytest.approx(1.3647815207407002, rel=0, abs=1e-15)
    assert metrics == {"wanted_loss": loss.item(), "wanted_tokens": 3.0}
    assert z.grad is not None
    close(z.grad, torch.tensor([[9, -12, 3], [4.5, 4.5, -9], [-16.2, 3.6, 12.6]], dtype=torch.float64) / 54)


@given(seeds, st.floats(0.1, 30))
def test_the_gradient_is_the_one_that_was_derived_by_hand_and_bounded(seed: int, spread: float) -> None:
    g = torch.Generator().manual_seed(seed)
    z = (spread * torch.randn(2, 5, V, generator=g, dtype=torch.float64)).requires_grad_()
    chosen = torch.randint(V, (2, 5, 1), generator=g)
    new = z.log_softmax(-1).gather(2, chosen)[..., 0]
    loss, _ = demonstration_loss(new, torch.ones(2, 5))
    (by_logprob, by_logit) = torch.autograd.grad(loss, (new, z))
    close(by_logprob, torch.full_like(new, -1 / 10))
    p = z.detach().softmax(-1)
    close(by_logit, (p - torch.zeros_like(p).scatter_(2, chosen, 1.0)) / 10)
    pull = by_logit.abs().sum(-1)
    close(pull, 2 * (1 - new.detach().exp()) / 10)
    assert float(pull.sum()) <= 2 + 1e-12, "however unlikely the tokens are"


@given(lengths, st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_padding_changes_nothing(lengths: list[int], wrong: float) -> None:
    g = torch.Generator().manual_seed(len(lengths))
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    clean = torch.where(mask, -torch.rand(len(lengths), 6, generator=g, dtype=torch.float64), 0.0)
    losses: list[float] = []
    for filled in (clean, torch.where(mask, clean, wrong)):
        new = filled.clone().requires_grad_()
        loss, metrics = demonstration_loss(new, mask)
        loss.backward()
        assert new.grad is not None
        assert (new.grad[~mask] == 0).all()
        assert metrics["wanted_tokens"] == sum(lengths)
        losses.append(loss.item())
    assert losses[0] == losses[1]


@given(lengths)
def test_micro_batches_add_up(lengths: list[int]) -> None:
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    new = -torch.rand(mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, metrics = demonstration_loss(new, mask)
    parts = [demonstration_loss(new[i : i + 1], mask[i : i + 1], total=sum(lengths)) for i in range(len(lengths))]
    close(sum((loss for loss, _ in parts), torch.tensor(0.0)), whole)
    assert merge(found for _, found in parts) == pytest.approx(metrics)


def test_half_precision_is_computed_in_float32_and_shapes_must_fit() -> None:
    loss, _ = demonstration_loss(torch.full((1, 3), -1.0, dtype=torch.bfloat16), torch.ones(1, 3))
    assert loss.dtype == torch.float32
    for new, mask in ((torch.zeros(3), torch.ones(3)), (torch.zeros(1, 3), torch.ones(1, 2))):
        with pytest.raises(ValueError, match="shape"):
            demonstration_loss(new, mask)
