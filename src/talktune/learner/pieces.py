"""A pack that is too long for one pass, computed in pieces whose keys and values are kept.

Open it to see how `--piece-tokens` gives the same gradient with less memory.

    there:  piece by piece without gradients: log-probs ℓ, and of each layer the keys and values k, v
    loss:   of all ℓ at once, and with it ∂loss/∂ℓ
    back:   the last piece first, again and with gradients: from ∂loss/∂ℓ of its own answers, and from ∂loss/∂k and
            ∂loss/∂v, to which all later pieces have added by now

The chain rule in another order: the gradient is that of one pass, up to rounding, for one more pass forward. In memory
are the activations of one piece, and of every token its keys and values and their gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from talktune.learner.attention import attention_is, check_asked
from talktune.learner.logprobs import Forward, Reader
from talktune.rl.blocks import Block, block_mask
from talktune.rl.packing import Pack

NAME = "talktune_pieces"

Heads = Callable[[Forward, Tensor], Sequence[Tensor]]
"""What is wanted of a piece: from its forward pass and the numbers of its answer tokens among all, (k, …) tensors."""


class Pieces:
    """The pieces of one pack under one model."""

    def __init__(self, reader: Reader, pack: Pack, temperature: Tensor, tokens: int) -> None:
        """At most `tokens` nodes each; `temperature` is (K,)."""
        self._reader, self._pack, self._temperature = reader, pack, temperature
        n = len(pack.ids)
        starts = range(0, n, tokens)
        self._blocks = [
            Block(start, min(start + tokens, n), tuple(range(i)), chain=False) for i, start in enumerate(starts)
        ]
        self._kept: list[dict[Any, tuple[Tensor, Tensor]]] = []
        """Of each piece that was computed, the keys and values of each layer."""
        self._own: dict[Any, tuple[Tensor, Tensor]] = {}
        """Of the piece that is being computed."""
        self._number = 0
        self._masks: dict[int | None, Tensor] = {}

    @torch.no_grad()
    def forward(self, wanted: Heads) -> list[Tensor]:
        """Compute what is wanted of all answer tokens, (K, …) each, without gradients; keep keys and values."""
        parts: list[tuple[Tensor, Sequence[Tensor]]] = []
        self._kept.clear()
        for number in range(len(self._blocks)):
            done, rows = self._compute(number)
            parts.append((rows, wanted(done, rows)))
            self._kept.append(dict(self._own))
        order = torch.cat([rows for rows, _ in parts]).argsort()
        return [torch.cat(column)[order] for column in zip(*(found for _, found in parts), strict=True)]

    def backward(self, wanted: Heads, slopes: Sequence[Tensor]) -> None:
        """Add the weights' gradient from the gradients of what `forward` gave; call it after `forward`."""
        for kept in self._kept:
            for key, value in kept.values():
                key.requires_grad_()
                value.requires_grad_()
        for number in reversed(range(len(self._blocks))):
            done, rows = self._compute(number)
            ends = [
                (out, slope[rows]) for out, slope in zip(wanted(done, rows), slopes, strict=True) if out.requires_grad
            ]
            for layer, made in self._own.items():
                for out, kept in zip(made, self._kept[number][layer], strict=True):
                    if kept.grad is not None and out.requires_grad:
                        ends.append((out, kept.grad))
            self._kept[number] = {}
            torch.autograd.backward([out for out, _ in ends], [slope for _, slope in ends])
            self._own.clear()

    def _compute(self, number: int) -> tuple[Forward, Tensor]:
        """One piece's forward pass, and which of the answer tokens it predicts, (k,)."""
        block, pack = self._blocks[number], self._pack
        self._number = number
        self._own.clear()
        self._masks.clear()
        rows = ((pack.source >= block.start) & (pack.source < block.stop)).nonzero().squeeze(1)
        inside = slice(block.start, block.stop)
        with attention_is(self._reader.model, NAME):
            done = self._reader.states(
                pack.ids[inside], pack.positions[inside], pack.source[rows] - block.start, pieces=self
            )
        return self._reader.head(done, pack.target[rows], self._temperature[rows]), rows

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        """The attention of one layer: the piece's queries over the layer's kept keys and values, and its own."""
        self._own[module] = (key, value)
        before = [kept[module] for kept in self._kept[: self._number]]
        keys = torch.cat([*(k for k, _ in before), key], 2)
        values = torch.cat([*(v for _, v in before), value], 2)
        groups = query.shape[1] // keys.shape[1]
        if groups > 1:
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        if window not in self._masks:
            block, pack = self._blocks[self._number], self._pack
            self._masks[window] = block_mask(block, self._blocks, pack.end, pack.positions, window)
        return sdpa(query, keys, values, attn_mask=self._masks[window][None, None], scale=scaling)


def piece_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pieces: Pieces | None = None,
    sliding_window: int | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """One layer's attention for one piece: queries (1, heads, n, D), keys and values (1, kv heads, n, D).

    Returns (1, n, heads, D).

    Raises TypeError when the layer asks for what is not known here.
    """
    check_asked(other, pieces is not None and attention_mask is None and not (dropout and module.training))
    assert pieces is not None
    return pieces.attend(module, query, key, value, scaling, sliding_window).transpose(1, 2), None


AttentionInterface.register(NAME, piece_attention)
