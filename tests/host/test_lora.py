"""Adapters are read as PEFT reads them, and refused with a reason when the host could not apply them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from talktune.config import ModelConfig
from talktune.errors import UserError
from talktune.host.lora import LoraRows, load_lora
from talktune.policy.load import load_policy

IDS = torch.arange(3, 20)[None]


def model_of(tiny_model: Path) -> Any:
    return load_policy(ModelConfig(model=str(tiny_model), device="cpu")).model


def save(tiny_model: Path, path: Path, **options: Any) -> Any:
    """An adapter with random weights on disk; returns the PEFT model that it came from."""
    tuned = get_peft_model(model_of(tiny_model), LoraConfig(**{"r": 4, "target_modules": "all-linear"} | options))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.2, generator=generator)
    tuned.save_pretrained(str(path))
    return tuned.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3},
        {"alpha_pattern": {"q_proj": 32}, "rank_pattern": {"up_proj": 2}},
        {"target_modules": ["q_proj", "v_proj"]},
    ],
)
def test_logits_equal_pefts(tiny_model: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = save(tiny_model, tmp_path / "a", **options)
    model = model_of(tiny_model)
    lora = load_lora(model, "a", tmp_path / "a")
    rows = LoraRows(model)
    with torch.no_grad():
        bare = model(IDS).logits
        with rows.rows([lora]):
            torch.testing.assert_close(model(IDS).logits, theirs(IDS).logits, rtol=0, atol=1e-5)
        with rows.rows([None, lora, None]):
            mixed = model(IDS.expand(3, -1)).logits
        torch.testing.assert_close(mixed[1:2], theirs(IDS).logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(mixed[[0, 2]], bare.expand(2, -1, -1), rtol=0, atol=1e-5)
        assert torch.equal(model(IDS).logits, bare)


def test_two_adapters_on_different_layers_share_a_batch(tiny_model: Path, tmp_path: Path) -> None:
    theirs = [
        save(tiny_model, tmp_path / "a", target_modules=["q_proj", "up_proj"]),
        save(tiny_model, tmp_path / "b", target_modules=["q_proj", "v_proj"], r=2),
    ]
    model = model_of(tiny_model)
    one, other = (load_lora(model, name, tmp_path / name) for name in "ab")
    rows = LoraRows(model)
    with torch.no_grad(), rows.rows([other, one, other]):
        mixed = model(IDS.expand(3, -1)).logits
    for row, mine in zip(mixed, (theirs[1], theirs[0], theirs[1]), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(row, mine(IDS).logits[0], rtol=0, atol=1e-5)


def test_a_run_directory_will_do(tiny_model: Path, tmp_path: Path) -> None:
    save(tiny_model, tmp_path / "run" / "adapter")
    assert load_lora(model_of(tiny_model), "run", tmp_path / "run").layers


def test_what_cannot_be_applied_is_refused_by_name(tiny_model: Path, tmp_path: Path) -> None:
    model = model_of(tiny_model)
    with pytest.raises(UserError, match=r"adapter_config\.json is missing"):
        load_lora(model, "none", tmp_path / "none")
    for i, (options, reason) in enumerate(
        [
            ({"use_dora": True}, "use_dora"),
            ({"bias": "all"}, "bias"),
            ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ]
    ):
        save(tiny_model, tmp_path / str(i), target_modules=["q_proj"], **options)
        with pytest.raises(UserError, match=reason):
            load_lora(model, "x", tmp_path / str(i))


def test_broken_files_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = model_of(tiny_model)
    save(tiny_model, tmp_path, target_modules=["q_proj"])
    file = tmp_path / "adapter_model.safetensors"
    whole = load_file(file)
    name = next(iter(whole))
    for broken in (
        {},
        {key: value for key, value in whole.items() if key != name},
        whole | {name: torch.zeros(4, 5)},
        whole | {name.replace("layers.0", "layers.9"): whole[name].clone()},
        whole | {"base_model.model.model.norm.weight": torch.zeros(3)},
    ):
        save_file(broken, file)
        with pytest.raises(UserError, match="cannot be used"):
            load_lora(model, "x", tmp_path)
    file.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be used"):
        load_lora(model, "x", tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="cannot be used"):
        load_lora(model, "x", tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "IA3", "task_type": "CAUSAL_LM"}))
    with pytest.raises(UserError, match="not LoRA"):
        load_lora(model, "x", tmp_path)
