"""Gradient checkpointing: each layer keeps only its input, and the rest is computed again on the way back.

Open it to see what `--checkpoint-layers` does.

Activations then grow by one hidden state a token and layer (arXiv 1604.06174), and a backward pass takes as long as a
forward pass more.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from talktune.errors import UserError
from talktune.learner.attention import attention_is
from talktune.policy.view import decoder_layers


def recompute_layers(model: Any) -> None:
    """Let every decoder layer of `model` keep only its input; UserError where the model has no list of layers."""
    layers = decoder_layers(model)
    if layers is None:
        raise UserError(f"{type(model).__name__}: it has no list of layers; leave out --checkpoint-layers.")
    config = model.config.get_text_config()

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), attention_is(model, config._attn_implementation)

    for layer in layers:
        layer.forward = partial(_kept_small, layer.forward, contexts)


def _kept_small(forward: Callable[..., Any], contexts: Callable[[], Any], *given: Any, **more: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*given, **more)
    # Nothing is drawn in a layer: the model is in eval mode.
    return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **more)
