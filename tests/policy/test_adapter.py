"""LoRA adapters: the start is the bare model, PEFT's format on disk, off means the bare model again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from talktune.config import ModelConfig
from talktune.errors import UserError
from talktune.policy.adapter import adapter_off, attach_adapter, load_adapter, save_adapter
from talktune.policy.load import load_policy

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def bare(model: Path) -> Any:
    return load_policy(ModelConfig(str(model))).model


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


def changed(model: Path) -> Any:
    """A policy whose adapter does something."""
    tuned = attach_adapter(bare(model), ModelConfig(lora_rank=2, lora_alpha=4.0), seed=0)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    return tuned


def test_a_fresh_adapter_changes_nothing_and_comes_from_the_seed(tiny_model: Path) -> None:
    state = torch.random.get_rng_state()
    first, second, other = (attach_adapter(bare(tiny_model), ModelConfig(lora_rank=2), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(logits(first), logits(bare(tiny_model)))
    weights = [{n: p for n, p in m.named_parameters() if p.requires_grad} for m in (first, second, other)]
    assert all("lora_" in name for name in weights[0])
    assert all(torch.equal(p, weights[1][n]) for n, p in weights[0].items())
    assert any(not torch.equal(p, weights[2][n]) for n, p in weights[0].items())


def test_off_is_the_bare_model(tiny_model: Path) -> None:
    tuned = changed(tiny_model)
    before = logits(tuned)
    with adapter_off(tuned):
        assert torch.equal(logits(tuned), logits(bare(tiny_model)))
    assert torch.equal(logits(tuned), before)
    plain = bare(tiny_model)
    with adapter_off(plain):
        assert torch.equal(logits(plain), logits(bare(tiny_model)))


def test_off_is_off_for_layers_that_were_on(tiny_model: Path) -> None:
    tuned = changed(tiny_model)
    [first, *_] = [m for m in tuned.modules() if isinstance(m, LoraLayer)]
    first.enable_adapters(False)
    with adapter_off(tuned):
        assert torch.equal(logits(tuned), logits(bare(tiny_model)))


def test_saved_and_loaded_it_is_the_same(tiny_model: Path, tmp_path: Path) -> None:
    tuned = changed(tiny_model)
    save_adapter(tuned, tmp_path / "run" / "adapter")
    assert {p.name for p in (tmp_path / "run" / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (2, 4.0, "CAUSAL_LM")
    for path in (tmp_path / "run", tmp_path / "run" / "adapter"):
        again = load_adapter(bare(tiny_model), path, trainable=True)
        assert torch.equal(logits(again), logits(tuned))
        assert any(p.requires_grad for p in again.parameters())
    assert not any(p.requires_grad for p in load_adapter(bare(tiny_model), path).parameters())


def test_what_is_no_adapter_is_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    save_adapter(changed(tiny_model), tmp_path)
    for name, text in (("adapter_model.safetensors", "torn"), ("adapter_config.json", "{")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="cannot be used") as error:
            load_adapter(bare(tiny_model), tmp_path)
        assert "\n" not in str(error.value)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="no adapter there"):
        load_adapter(bare(tiny_model), tmp_path)
