"""Several module trees over one set of weights: one samples, one judges, one learns, and none disturbs another.

Open it to see how one copy of the base model serves them all.
"""

import copy
from typing import Any

from torch import nn


def view_of(model: Any) -> Any:
    """A second tree of modules that holds the very tensors of `model`: its weights are in memory once.

    What is put on one tree (adapters, hooks, another way of attention) does not show in the other. Make views before
    anything is put on the model; only a `forward` of a module's own (`prepack`) is left behind.
    """
    own = [module.__dict__["forward"] for module in model.modules() if "forward" in module.__dict__]
    view = copy.deepcopy(model, {id(kept): kept for kept in (*model.parameters(), *model.buffers(), *own)})
    for module in view.modules():
        module.__dict__.pop("forward", None)
    return view


def decoder_layers(model: Any) -> nn.ModuleList | None:
    """The model's decoder layers, found by their number; None for a model that is built otherwise."""
    wanted = model.config.get_text_config().num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == wanted)
    return next(lists, None)
