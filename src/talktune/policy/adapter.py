"""LoRA adapters in PEFT's format: attach, save, load, merge, disable.

Open it when an adapter from elsewhere is refused, or to see where the LoRA matrices sit.

LoRA: arXiv 2106.09685. Rank 0 means full fine-tuning: the model itself is trained.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from talktune.config import ModelConfig
from talktune.errors import UserError

UNDERSTOOD = frozenset(
    {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"),
        *("exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
        *("lora_dropout", "init_lora_weights", "eva_config"),
    }
)
"""Options of PEFT's LoRA under which an adapter is still W + B·A·scale; `fields(LoraConfig())` are all of them."""
STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin an adapter that leave the model's own weights as they are."""
UNUSABLE = (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError)
"""What reading an adapter may raise."""


def attach_adapter(model: PreTrainedModel, config: ModelConfig, seed: int) -> PeftModel:
    """Add a fresh LoRA adapter to every linear layer but the head; its first weights depend on `seed` only."""
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
    """Add a saved adapter to `model`; `path` is an adapter or a run directory that holds `adapter/`."""
    with _named(f"--adapter {path}"):
        found, _ = read_config(Path(path))
        tuned = PeftModel.from_pretrained(model, str(found), is_trainable=trainable)
        check_names(read_weights(found), get_peft_model_state_dict(tuned, save_embedding_layers=False))
        layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
        if others := [name for name, layer in layers.items() if not isinstance(layer, lora.Linear)]:
            raise ValueError(f"it changes {others[0]}, which is no linear layer")
        check_layers(model, layers)
        return tuned.eval()  # a dropout of its own would make log-probs a matter of chance


def copy_adapter(model: PeftModel, path: Path) -> None:
    """Copy a saved adapter's weights into the adapter that `model` has; UserError when they do not fit."""
    with _named(str(path)):
        found, config = read_config(path)
        own = model.peft_config["default"]
        for option in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"):
            theirs, ours = getattr(config, option), getattr(own, option)
            if theirs != ours:  # its matrices might fit, and would be scaled otherwise
                raise ValueError(f"its {option} is {theirs} and not {ours}; set --lora-rank and --lora-alpha")
        weights = read_weights(found)
        check_names(weights, get_peft_model_state_dict(model, save_embedding_layers=False))
        set_peft_model_state_dict(model, weights)


@contextmanager
def _named(what: str) -> Generator[None]:
    """Says in one sentence which adapter cannot be used, and why."""
    try:
        yield
    except UNUSABLE as error:
        lines = [line.strip() for line in str(error).splitlines() if not line.endswith(":")]
        reason = lines[0][:300].rstrip(".") if lines else type(error).__name__
        raise UserError(f"{what}: cannot be used ({reason}).") from error


def read_config(path: Path) -> tuple[Path, LoraConfig]:
    """The directory of an adapter, or of the one in a run directory, and its configuration.

    Raises ValueError where it is more than matrices beside linear layers: what sampling, training, the reference and
    the host do not all compute alike is refused by all of them.
    """
    found = path / "adapter" if (path / "adapter" / "adapter_config.json").exists() else path
    if not (found / "adapter_config.json").exists():
        raise ValueError("no adapter there: adapter_config.json is missing")
    config = PeftConfig.from_pretrained(str(found))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"its type is {config.peft_type}, not LoRA")
    plain = LoraConfig()
    for option in fields(plain):
        value = getattr(config, option.name)
        if option.name not in UNDERSTOOD and value and value != getattr(plain, option.name):
            raise ValueError(f"it uses {option.name}, which talktune does not apply; train it without, or merge it")
    if config.init_lora_weights not in STARTS:
        raise ValueError(
            f"its start was {config.init_lora_weights}, which changed the model's own weights, too; "
            "convert it with PEFT's path_initial_model_for_weight_conversion"
        )
    return found, config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The matrices of an adapter by their names; raises ValueError where they are pickled, which would be a program."""
    file = folder / "adapter_model.safetensors"
    if not file.exists() and (folder / "adapter_model.bin").exists():
        raise ValueError("its weights are pickled (adapter_model.bin); save them as adapter_model.safetensors")
    return load_file(file)


def check_names(theirs: Iterable[str], ours: Iterable[str]) -> None:
    """Raise ValueError when an adapter holds other matrices than the model has: PEFT would say nothing."""
    theirs, ours = set(theirs), {name for name in ours if "lora_" in name}
    if others := [name for name in theirs if "lora_" not in name]:
        raise ValueError(f"it has {min(others)}, which is no matrix of LoRA; save it with save_embedding_layers=False")
    if theirs != ours:
        raise ValueError(f"it has {len(theirs)} matrices where the model needs {len(ours)}")


def check_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Raise ValueError where an adapter sits on a layer whose weights are those of another layer, too.

    A head that is tied to the embedding: with a matrix of its own beside it the two would differ, and a merged one
    would change both.
    """
    by_id: dict[int, set[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        by_id.setdefault(id(weight), set()).add(name.replace(".base_layer.", ".").rpartition(".")[0])
    shared = {name: layers - {name} for layers in by_id.values() for name in layers if len(layers) > 1}
    for name in names:
        if others := shared.get(name):
            raise ValueError(f"it changes {name}, whose weights are also those of {min(others)}; train it without")


def save_adapter(model: PeftModel, path: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write the adapter as PEFT does: `adapter_config.json` and `adapter_model.safetensors`.

    `weights` by the model's names for its parameters, where the model itself holds but a share of each.
    """
    model.save_pretrained(str(path), safe_serialization=True, state_dict=weights)
    (path / "README.md").unlink(missing_ok=True)  # PEFT's unfilled model card


@contextmanager
def adapter_off(model: Any) -> Generator[None]:
    """Disable the adapter inside: the model computes as the frozen reference, at no extra memory."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    # PEFT's own switch goes through every module and parameter, a tenth of the time of a short pass.
    before = [layer.disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off  # pyright: ignore[reportPrivateUsage]


def is_mergeable(layer: LoraLayer) -> bool:
    """Whether an adapter's layer is switched on and sits on a plain linear layer, not on one in 4 bits."""
    plain = isinstance(layer, lora.Linear) and type(layer.get_base_layer()) is nn.Linear
    return plain and not layer.disable_adapters


@contextmanager
def merged_weights(model: Any) -> Generator[tuple[Any, dict[str, Tensor]]]:
    """Yield the bare model, and inside, its weights by their own names with the adapter merged into them."""
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    with adapter_merged(model):
        yield (
            bare,
            {
                name.replace(".base_layer.", "."): tensor
                for name, tensor in bare.state_dict().items()
                if ".lora_" not in name
            },
        )


@contextmanager
def adapter_merged(model: Any) -> Generator[None]:
    """Merge the adapter inside: W + B·A·alpha/r stands in for each weight W, so that sampling pays no extra products.

    The originals are set aside and put back bit for bit, at the cost of a second copy of the adapted weights
    meanwhile. Log-probs differ from those with the adapter beside the weights by rounding only. Where the
    adapter is switched off, or sits on anything but linear layers, nothing is merged.
    """
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)] if isinstance(model, PeftModel) else []
    if not layers or not all(map(is_mergeable, layers)):
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
