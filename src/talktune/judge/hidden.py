"""Features of an exchange: a language model's hidden states, pooled over the tokens of the next state.

Open it to see what the verdict head reads.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from talktune.errors import UserError
from talktune.judge.exchange import Exchange, head_tokens
from talktune.policy.adapter import adapter_off
from talktune.policy.view import decoder_layers

BATCH_TOKENS = 1024
"""Padded tokens of one forward pass: about 16 exchanges."""

Progress = Callable[[int, int], None]
"""Told how many of how many exchanges are read."""


class _EnoughError(Exception):
    """Leaves the forward pass: no layer above is needed."""


def pooled_states(
    model: Any,
    tokenizer: Any,
    exchanges: Sequence[Exchange],
    layers: Sequence[int],
    progress: Progress | None = None,
) -> Tensor:
    """(N, number of layers, 2 H) in float32 on the CPU: mean and last hidden state over the next state's tokens.

    Layer l is the output of the l-th block, from 1. The bare model reads (an adapter is switched off), and only
    as far up as the highest layer asked for. Rows are padded on the right, where a causal model cannot look, so
    a row does not depend on its batch beyond float noise.
    """
    return pooled_rows(model, [head_tokens(tokenizer, exchange) for exchange in exchanges], layers, progress)


def pooled_rows(
    model: Any, rows: Sequence[tuple[list[int], int]], layers: Sequence[int], progress: Progress | None = None
) -> Tensor:
    """As `pooled_states`, of any rows (N): token ids, and the place from which on they are pooled."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # alike lengths together: little padding
    features: list[Tensor] = [torch.empty(0)] * len(rows)
    done = 0
    while done < len(order):
        batch = [order[done]]
        for i in order[done + 1 :]:
            if len(rows[i][0]) * (len(batch) + 1) > BATCH_TOKENS:
                break
            batch.append(i)
        pooled = _pool_batch(model, [rows[i] for i in batch], layers)
        for i, row in zip(batch, pooled, strict=True):
            features[i] = row
        done += len(batch)
        if progress is not None:
            progress(done, len(order))
    return torch.stack(features)


def blocks(model: Any) -> nn.ModuleList:
    """The model's blocks; raises UserError for a model that is built otherwise."""
    found = decoder_layers(model)
    if found is None:
        raise UserError(f"The model {type(model).__name__} has no list of its layers: take another judge model.")
    return found


@torch.inference_mode()
def _pool_batch(model: Any, rows: Sequence[tuple[list[int], int]], layers: Sequence[int]) -> Tensor:
    device = next(model.parameters()).device
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    reaction = torch.zeros(len(rows), longest)
    for row, (tokens, start) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        reaction[row, start : len(tokens)] = 1.0
    states = _states(model, ids.to(device), mask.to(device), layers)
    last = (mask.sum(1) - 1).to(device)
    weight = (reaction / reaction.sum(1, keepdim=True)).to(device)  # (B, T)
    pooled: list[Tensor] = []
    for layer in layers:
        state = states[layer].float()  # (B, T, H)
        # Selected, not multiplied: whatever stands in a padded place stays out.
        state = state.masked_fill(weight[:, :, None] == 0.0, 0.0)
        mean = (state * weight[:, :, None]).sum(1)
        pooled.append(torch.cat([mean, state[torch.arange(len(rows), device=device), last]], dim=1))
    return torch.stack(pooled, dim=1).cpu()


def _states(model: Any, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Outputs (B, T, H) of the wanted blocks; the blocks above the highest of them do not run."""
    states: dict[int, Tensor] = {}
    top = max(layers)

    def keep(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output
            if layer == top:
                raise _EnoughError

        return hook

    found = blocks(model)
    handles = [found[layer - 1].register_forward_hook(keep(layer)) for layer in set(layers)]
    try:
        with adapter_off(model), suppress(_EnoughError):
            model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return states
