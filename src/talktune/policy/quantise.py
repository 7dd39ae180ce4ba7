"""QLoRA: the frozen base in 4 bits (NF4, bitsandbytes) beside an adapter that is trained (arXiv 2305.14314).

Open it to see which layers `--base-4bit` changes.
"""

import importlib
from typing import Any

from peft import PeftModel
from torch import nn

from talktune.errors import UserError
from talktune.policy.view import decoder_layers


def quantise_base(model: PeftModel) -> None:
    """Hold the frozen linear layers of the decoder in 4 bits, in place; embedding, head and adapter stay as they are.

    What is computed is that of the rounded weights, and so is the gradient. UserError without bitsandbytes, or for a
    model that has no list of its layers.
    """
    try:
        bnb: Any = importlib.import_module("bitsandbytes").nn
    except ImportError as error:
        raise UserError("--base-4bit needs bitsandbytes: pip install bitsandbytes.") from error
    layers = decoder_layers(model)
    if layers is None:
        raise UserError(f"{type(model).__name__}: it has no list of layers; leave out --base-4bit.")
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and not child.weight.requires_grad:
                setattr(parent, name, _rounded(bnb, child))


def _rounded(bnb: Any, layer: nn.Linear) -> Any:
    weight = layer.weight.detach()
    sizes = (layer.in_features, layer.out_features)
    new = bnb.Linear4bit(*sizes, bias=False, compute_dtype=weight.dtype, quant_type="nf4")
    new.weight = bnb.Params4bit(weight, requires_grad=False, quant_type="nf4")
    new.bias = layer.bias
    return new.to(weight.device)  # which is what rounds it
