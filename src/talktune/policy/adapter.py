"""LoRA adapters in PEFT's format: attach, save, load, switch off for the reference.

LoRA: arXiv 2106.09685. Rank 0 means full fine-tuning: the model itself is trained.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from talktune.config import ModelConfig
from talktune.errors import UserError


def attach_adapter(model: PreTrainedModel, config: ModelConfig, seed: int) -> PeftModel:
    """Put a fresh LoRA adapter on every linear layer but the head; the start depends on `seed` only."""
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType]  # peft says int, and divides as float
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, lora)
        except ValueError as error:
            raise UserError(
                f"{type(model).__name__}: no LoRA adapter can be put on it ({error}); --lora-rank 0 trains all weights."
            ) from error


def load_adapter(model: PreTrainedModel, path: Path, *, trainable: bool = False) -> PeftModel:
    """Put a saved adapter on `model`; `path` is an adapter or a run directory that holds `adapter/`."""
    path = Path(path)
    found = path / "adapter" if (path / "adapter" / "adapter_config.json").exists() else path
    if not (found / "adapter_config.json").exists():
        raise UserError(f"--adapter {path}: no adapter there (adapter_config.json is missing).")
    try:
        tuned = PeftModel.from_pretrained(model, str(found), is_trainable=trainable)
        _check_layers(tuned, found / "adapter_model.safetensors")
        return tuned
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if not line.endswith(":")]
        reason = lines[0][:200].rstrip(".") if lines else type(error).__name__
        raise UserError(f"--adapter {path}: does not fit this model ({reason}).") from error


def _check_layers(model: PeftModel, file: Path) -> None:
    """Raise ValueError when the file holds other matrices than the model has: PEFT would say nothing."""
    if not file.exists():
        return
    with safe_open(file, framework="pt") as saved:
        theirs = {name for name in saved.keys() if "lora_" in name}  # noqa: SIM118
    ours = {name for name in get_peft_model_state_dict(model, save_embedding_layers=False) if "lora_" in name}
    if theirs != ours:
        raise ValueError(f"it has {len(theirs)} matrices where the model needs {len(ours)}")


def copy_adapter(model: PeftModel, path: Path) -> None:
    """Copy a saved adapter's weights into the adapter that `model` has; UserError when they do not fit."""
    try:
        _check_layers(model, path / "adapter_model.safetensors")
        set_peft_model_state_dict(model, load_file(path / "adapter_model.safetensors"))
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        raise UserError(f"{path}: the adapter cannot be used ({error}).") from error


def save_adapter(model: PeftModel, path: Path) -> None:
    """Write the adapter as PEFT does: `adapter_config.json` and `adapter_model.safetensors`."""
    model.save_pretrained(str(path), safe_serialization=True)
    (path / "README.md").unlink(missing_ok=True)  # PEFT's unfilled model card


@contextmanager
def adapter_off(model: Any) -> Generator[None]:
    """Inside, the model computes without its adapter: the frozen reference, at no extra memory."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if isinstance(model, PeftModel) and not layers:  # another kind of adapter, say a learned prompt
        with model.disable_adapter():
            yield
        return
    # PEFT's own switch goes through every module and parameter, a tenth of the time of a short pass.
    before = [layer.disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off  # pyright: ignore[reportPrivateUsage]


@contextmanager
def adapter_merged(model: Any) -> Generator[None]:
    """Inside, W + B·A·alpha/r stands in for each weight W, so that sampling pays no extra products.

    The originals are set aside and put back bit for bit, at the cost of a second copy of the adapted weights
    meanwhile. Log-probs differ from those with the adapter beside the weights by rounding only. Where the
    adapter is switched off, or sits on anything but linear layers, nothing is merged.
    """
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)] if isinstance(model, PeftModel) else []
    if not layers or any(layer.disable_adapters or not isinstance(layer, lora.Linear) for layer in layers):
        yield
        return
    linears = [cast(nn.Linear, layer.get_base_layer()) for layer in layers]
    originals = [linear.weight for linear in linears]
    try:
        with torch.no_grad():
            for layer, linear, weight in zip(layers, linears, originals, strict=True):
                merged = weight.data
                for name in layer.active_adapters:
                    merged = merged + cast(lora.Linear, layer).get_delta_weight(name)
                # A parameter of this module alone: other views of the model hold the original.
                linear.weight = nn.Parameter(merged, requires_grad=False)
        with model.disable_adapter():
            yield
    finally:
        for linear, original in zip(linears, originals, strict=True):
            linear.weight = original
