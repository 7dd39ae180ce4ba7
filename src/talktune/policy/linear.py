"""Faster linear layers on a CPU through oneDNN: weights prepacked for decoding, frozen weights for learning.

Open it when talktune is slow on a CPU.

A step of decoding multiplies few rows by every weight. The general routine lays each weight out anew for every
product; oneDNN multiplies by a layout that it made before (as torch.compile does with frozen weights), two to four
times as fast for 8 to 32 rows.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from talktune.policy.adapter import adapter_merged, is_mergeable

FEWEST_ROWS = 4
"""With fewer rows a product only waits for memory, and the layout does not matter."""

FEWEST_WEIGHTS = 2**14
"""In a smaller layer the call costs more than the product."""


@contextmanager
def ready_to_decode(model: Any, rows: int) -> Generator[None]:
    """Merge the adapter inside, and make the linear layers fast for about `rows` rows.

    On exit everything is as before, bit for bit; meanwhile a second copy of the weights is held. Log-probs differ
    from those with the adapter beside the weights by rounding only.
    """
    layers = _layers(model) if rows >= FEWEST_ROWS else None
    if layers is None:
        with adapter_merged(model):
            yield
        return
    with forwards_kept([layer for layer, _ in layers]):
        for layer, adapted in layers:
            layer.forward = partial(_product, _prepacked(_merged(layer, adapted), rows), layer.bias)
        if isinstance(model, PeftModel):
            with model.disable_adapter():
                yield
        else:
            yield


def prepack(layers: Iterable[nn.Linear], rows: int) -> None:
    """Prepack frozen layers for about `rows` rows, for good, at the cost of a second copy of their weights.

    Does nothing where this machine cannot do it. Without gradients only; `fast_frozen_linears` is for those.
    """
    for layer in layers:
        if _can(layer.weight):
            layer.forward = partial(_product, _prepacked(layer.weight.detach(), rows), layer.bias)


def prepacked_bytes(layers: Iterable[nn.Linear]) -> int:
    """Memory that `prepack` takes; 0 where it does nothing."""
    return sum(layer.weight.numel() * layer.weight.element_size() for layer in layers if _can(layer.weight))


def frozen_linears(model: Any) -> list[nn.Linear]:
    """The linear layers that `fast_frozen_linears` can do: frozen, on a CPU, in float32."""
    return [m for m in model.modules() if type(m) is nn.Linear and _can(m.weight) and not m.weight.requires_grad]


@contextmanager
def fast_frozen_linears(layers: Sequence[nn.Linear]) -> Generator[None]:
    """Let these linear layers (`frozen_linears`) use oneDNN's product in both directions inside."""
    with forwards_kept(layers):
        for layer in layers:
            layer.forward = partial(_frozen, layer.weight, layer.bias)
        yield


@contextmanager
def forwards_kept(layers: Sequence[nn.Module]) -> Generator[None]:
    """On exit the layers compute as before, whatever `forward` they are given inside."""
    before = [layer.__dict__.get("forward") for layer in layers]
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.forward = forward


def _frozen(weight: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    return cast(Tensor, _Frozen.apply(input, weight, bias))


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.weight = weight
        return _product(weight, bias, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _product(ctx.weight.t(), None, grad), None, None


def _layers(model: Any) -> list[tuple[nn.Linear, lora.Linear | None]] | None:
    """Each linear layer, with the adapter's layer around it; None where this machine or model cannot do it."""
    linears = [m for m in model.modules() if type(m) is nn.Linear]
    if not linears or not _can(max((m.weight for m in linears), key=torch.numel)):
        return None
    adapters = [m for m in model.modules() if isinstance(m, LoraLayer)] if isinstance(model, PeftModel) else []
    if not all(map(is_mergeable, adapters)):
        return None
    around = {id(layer.get_base_layer()): cast(lora.Linear, layer) for layer in adapters}
    own = {id(m) for layer in adapters for m in layer.modules()} - around.keys()  # the adapter's matrices A and B
    return [(m, around.get(id(m))) for m in linears if id(m) not in own]


def _can(weight: Tensor) -> bool:
    large = weight.numel() >= FEWEST_WEIGHTS
    return large and weight.device.type == "cpu" and weight.dtype == torch.float32 and _has_onednn()


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _merged(layer: nn.Linear, adapted: lora.Linear | None) -> Tensor:
    weight = layer.weight.detach()
    for name in adapted.active_adapters if adapted is not None else ():
        weight = weight + cast(lora.Linear, adapted).get_delta_weight(name)
    return weight


def _prepacked(weight: Tensor, rows: int) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


def _product(weight: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:  # named as in nn.Linear
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
