"""Two trees of modules over one set of weights."""

from pathlib import Path
from typing import Any

import torch

from talktune.config import ModelConfig
from talktune.policy.adapter import adapter_merged, attach_adapter
from talktune.policy.linear import prepack
from talktune.policy.load import load_policy
from talktune.policy.view import decoder_layers, view_of

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def bare(model: Path) -> Any:
    return load_policy(ModelConfig(str(model), device="cpu")).model


def test_a_view_holds_the_same_tensors_and_computes_the_same(tiny_model: Path) -> None:
    model = bare(tiny_model)
    view = view_of(model)
    assert view is not model
    assert all(a is b for a, b in zip(model.parameters(), view.parameters(), strict=True))
    assert all(a is b for a, b in zip(model.buffers(), view.buffers(), strict=True))
    assert torch.equal(model(IDS).logits, view(IDS).logits)


def test_what_is_put_on_one_does_not_show_in_the_other(tiny_model: Path) -> None:
    model = bare(tiny_model)
    before = model(IDS).logits
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    prepack(layers, 8)
    view = view_of(model)
    assert not any("forward" in module.__dict__ for module in view.modules())
    tuned = attach_adapter(view, ModelConfig(lora_rank=2), seed=0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.allclose(tuned(IDS).logits, before)
    tuned.config._attn_implementation = "eager"
    with torch.inference_mode():
        assert torch.allclose(model(IDS).logits, before, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"
    assert not any("lora" in name for name, _ in model.named_modules())


def test_an_adapter_is_merged_in_its_own_view_only(tiny_model: Path) -> None:
    model = bare(tiny_model)
    before = model(IDS).logits
    tuned = attach_adapter(view_of(model), ModelConfig(lora_rank=2), seed=0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    beside = tuned(IDS).logits
    with adapter_merged(tuned):
        assert torch.allclose(tuned(IDS).logits, beside, atol=1e-4)
        assert torch.equal(model(IDS).logits, before)
    assert torch.equal(tuned(IDS).logits, beside)


def test_the_decoder_layers_are_found_by_their_number(tiny_model: Path) -> None:
    model = bare(tiny_model)
    assert decoder_layers(model) is model.model.layers
    model.config.num_hidden_layers = 5
    assert decoder_layers(model) is None
