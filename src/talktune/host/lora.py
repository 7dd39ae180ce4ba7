"""Several LoRA adapters beside one base model: each row of a batch gets its own, in two products a layer.

Open it to see how answers of different versions share a batch.

The matrices of all adapters in a batch are stacked, and a mask keeps each row to its own part (the idea of
S-LoRA, arXiv 2311.03285):  y = W x + B_all (mask ⊙ (A_all x)).  With one adapter there is no mask, and rows
of the bare model cost nothing.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from torch.nn.functional import linear

from talktune.errors import UserError
from talktune.policy.adapter import UNUSABLE, check_layers, read_config, read_weights

PREFIX, SUFFIX_A, SUFFIX_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"  # PEFT's file format


@dataclass(frozen=True, eq=False)
class Lora:
    """One adapter in memory. It never changes, so an answer is finished with the adapter that it began with."""

    name: str
    path: Path
    layers: dict[str, tuple[Tensor, Tensor]]
    """For each linear layer A (r, in) and B (out, r), B already times alpha / r."""


def load_lora(model: nn.Module, name: str, path: Path) -> Lora:
    """Read an adapter in PEFT's format, or the one inside a run directory.

    Raises UserError when it is missing, does not fit `model`, or is more than plain LoRA on linear layers.
    """
    try:
        found, config = read_config(path)
        return Lora(name, path, _pair_up(model, config, read_weights(found)))
    except UNUSABLE as error:
        raise UserError(f"adapter {path}: cannot be used ({str(error).rstrip('.')}).") from error


def _pair_up(model: nn.Module, config: LoraConfig, weights: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    modules = linear_layers(model)
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    for key in weights:
        layer = key.removeprefix(PREFIX).removesuffix(SUFFIX_A).removesuffix(SUFFIX_B)
        if key not in (PREFIX + layer + SUFFIX_A, PREFIX + layer + SUFFIX_B):
            raise ValueError(f"it has {key}, which is no LoRA matrix of a linear layer")
        module = modules.get(layer)
        if module is None:
            raise ValueError(f"the model has no linear layer {layer}")
        a, b = weights[PREFIX + layer + SUFFIX_A], weights[PREFIX + layer + SUFFIX_B]
        if (a.shape[1], b.shape[0]) != (module.in_features, module.out_features) or a.shape[0] != b.shape[1]:
            raise ValueError(f"its matrices for {layer} have another shape")
        rank = a.shape[0]
        own = config.alpha_pattern or {}
        alpha = own.get(get_pattern_key(list(own), layer), config.lora_alpha)
        scale = alpha / (rank**0.5 if config.use_rslora else rank)
        like = module.weight
        layers[layer] = (a.to(like.device, like.dtype), (b * scale).to(like.device, like.dtype))
    if not layers:
        raise ValueError("it holds no matrices")
    check_layers(model, layers)
    return layers


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The model's linear layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


class LoraRows:
    """Hooks on a model's linear layers that add each row's adapter to the layer's output, inside `rows(…)`.

    A layer is hooked when an adapter first needs it; outside of `rows(…)` the hooks do nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self._stacked: dict[str, tuple[Tensor, Tensor, tuple[int, ...]]] = {}
        self._of: tuple[Lora, ...] = ()
        self._owner: Tensor | None = None
        self._masks: dict[tuple[int, ...], Tensor] = {}
        self._on = False
        self._linear = linear_layers(model)
        self._hooked: set[str] = set()

    @contextmanager
    def rows(self, loras: Sequence[Lora | None]) -> Generator[None]:
        """Use `loras[i]` (None: the bare model) for row i of a batch, inside."""
        used = tuple(dict.fromkeys(lora for lora in loras if lora is not None))
        if not used:
            yield
            return
        if used != self._of:
            self._of, self._stacked = used, _stack(used)
            for name in self._stacked.keys() - self._hooked:
                self._linear[name].register_forward_hook(self._hook(name))
                self._hooked.add(name)
        if len(used) > 1 or None in loras:
            self._owner = torch.tensor([[lora is mine for mine in used] for lora in loras])
        self._on = True
        try:
            yield
        finally:
            self._on, self._owner = False, None
            self._masks.clear()

    def forget(self, lora: Lora) -> None:
        """Drop what is cached of an adapter that was unloaded."""
        if lora in self._of:
            self._of, self._stacked = (), {}

    def _hook(self, name: str) -> Any:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self._on or name not in self._stacked:
                return None
            a, b, ranks = self._stacked[name]
            low = linear(inputs[0], a)  # (rows, width, ranks of all adapters)
            if self._owner is not None:
                low = low * self._mask(ranks, low)
            return output + linear(low, b)

        return add

    def _mask(self, ranks: tuple[int, ...], like: Tensor) -> Tensor:
        if ranks not in self._masks:
            assert self._owner is not None
            wide = self._owner.repeat_interleave(torch.tensor(ranks), dim=1)
            self._masks[ranks] = wide[:, None].to(device=like.device, dtype=like.dtype)
        return self._masks[ranks]


def _stack(loras: tuple[Lora, ...]) -> dict[str, tuple[Tensor, Tensor, tuple[int, ...]]]:
    """A (Σr, in), B (out, Σr) and the ranks for every layer that an adapter touches; rank 0 where one does not."""
    names = dict.fromkeys(name for lora in loras for name in lora.layers)
    stacked: dict[str, tuple[Tensor, Tensor, tuple[int, ...]]] = {}
    for name in names:
        pairs = [lora.layers.get(name) for lora in loras]
        there = [pair for pair in pairs if pair is not None]
        ranks = tuple(0 if pair is None else len(pair[0]) for pair in pairs)
        if len(there) == 1:
            stacked[name] = (*there[0], ranks)
        else:
            stacked[name] = (torch.cat([a for a, _ in there]), torch.cat([b for _, b in there], dim=1), ranks)
    return stacked
