"""Weights laid out for decoding: the same numbers to rounding, and nothing is left of it afterwards."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from talktune.config import ModelConfig
from talktune.policy import linear
from talktune.policy.adapter import attach_adapter
from talktune.policy.linear import FEWEST_ROWS, ready_to_decode


def small(**more: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, bos_token_id=None, eos_token_id=0, pad_token_id=0, **more,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def adapted() -> Any:
    model = attach_adapter(small(attention_bias=True), ModelConfig(lora_rank=3), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(autouse=True)
def _whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "FEWEST_WEIGHTS", 0)


IDS = torch.randint(50, (5, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [small, adapted])
@pytest.mark.parametrize("rows", [1, FEWEST_ROWS, 32])
def test_the_same_logits_inside_and_the_same_bits_outside(make: Any, rows: int) -> None:
    model = make()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.inference_mode():
        true = model(IDS).logits
        with ready_to_decode(model, rows):
            inside = model(IDS).logits
        after = model(IDS).logits
    torch.testing.assert_close(inside, true, atol=1e-4, rtol=1e-4)
    assert torch.equal(after, true)
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())
    assert not any("forward" in module.__dict__ for module in model.modules() if isinstance(module, nn.Linear))


def test_an_error_inside_leaves_nothing_behind() -> None:
    model = adapted()
    with pytest.raises(RuntimeError, match="stop"), ready_to_decode(model, 32):
        raise RuntimeError("stop")
    assert not any("forward" in module.__dict__ for module in model.modules() if isinstance(module, nn.Linear))


def test_an_adapter_that_is_switched_off_stays_off() -> None:
    model = adapted()
    with torch.inference_mode(), model.disable_adapter():
        true = model(IDS).logits
        with ready_to_decode(model, 32):
            torch.testing.assert_close(model(IDS).logits, true, atol=1e-4, rtol=1e-4)


def test_where_onednn_is_missing_the_adapter_is_merged_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_has_onednn", lambda: False)
    model = adapted()
    with torch.inference_mode():
        true = model(IDS).logits
        with ready_to_decode(model, 32):
            assert all(layer.disable_adapters for layer in model.modules() if hasattr(layer, "disable_adapters"))
            torch.testing.assert_close(model(IDS).logits, true, atol=1e-4, rtol=1e-4)


def test_half_precision_keeps_its_own_products() -> None:
    model = small().to(torch.bfloat16)
    with torch.inference_mode():
        true = model(IDS).logits
        with ready_to_decode(model, 32):
            assert torch.equal(model(IDS).logits, true)


@pytest.mark.parametrize("make", [small, adapted])
def test_frozen_layers_give_the_same_gradients(make: Any) -> None:
    found: list[dict[str, torch.Tensor]] = []
    for fast in (False, True):
        model = make()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora" in name or "embed" in name)
        if fast:
            with linear.fast_frozen_linears(linear.frozen_linears(model)):
                assert any("forward" in module.__dict__ for module in model.modules())
                model(IDS, labels=IDS).loss.backward()
        else:
            model(IDS, labels=IDS).loss.backward()
        assert not any("forward" in module.__dict__ for module in model.modules() if isinstance(module, nn.Linear))
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() != set()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=1e-5, rtol=1e-4)


def test_trained_layers_are_left_alone() -> None:
    model = small()
    with linear.fast_frozen_linears(linear.frozen_linears(model)):
        assert not any("forward" in module.__dict__ for module in model.modules() if isinstance(module, nn.Linear))
