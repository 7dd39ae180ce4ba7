"""Attention over packed prefix trees: a token sees the path that led to it, and nothing of other branches.

Open it when a model cannot train on packed samples.

transformers calls it by name for every layer of a model (its attention interface). On a GPU one block-sparse
kernel does it (FlexAttention, pytorch.org/docs/stable/nn.attention.flex_attention.html), on a CPU one call of
scaled-dot-product attention a block (`rl.blocks`).
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from talktune.rl.blocks import Block, block_mask, cut_blocks
from talktune.rl.packing import Pack

NAME = "talktune_trees"
KNOWN = {
    "sliding_window",
    "trees",
    "pieces",
    "position_ids",
    "use_cache",
    "cache_position",
    "is_causal",
    "output_attentions",
}
"""What a layer may ask of its attention. Anything else (a soft cap, sinks) changes the arithmetic: not packed."""


class Trees:
    """How the nodes of one pack see each other; the masks are made once and serve every layer."""

    def __init__(self, pack: Pack) -> None:
        """Cut the pack's trees into blocks."""
        self.end, self.positions = pack.end, pack.positions
        self.blocks = cut_blocks(pack.end.tolist())
        self.depth = int(pack.positions.max()) + 1
        self.masks: dict[tuple[int, int | None], Tensor] = {}
        self.block_masks: dict[int | None, Any] = {}

    def mask(self, index: int, window: int | None) -> Tensor:
        """The mask of one block, (queries, keys)."""
        key = (index, window)
        if key not in self.masks:
            self.masks[key] = block_mask(self.blocks[index], self.blocks, self.end, self.positions, window)
        return self.masks[key]

    def sparse(self, window: int | None) -> Any:
        """FlexAttention's block mask of the whole pack."""
        if window not in self.block_masks:
            from torch.nn.attention.flex_attention import create_block_mask

            end, positions = self.end, self.positions

            def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                seen = (key <= query) & (query < end[key])
                return seen if window is None else seen & (positions[query] - positions[key] < window)

            n = len(end)
            self.block_masks[window] = create_block_mask(sees, None, None, n, n, device=str(end.device))
        return self.block_masks[window]


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    trees: Trees | None = None,
    sliding_window: int | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """One layer's attention over a pack: query (1, heads, N, D), key and value (1, kv heads, N, D) -> (1, N, heads, D).

    Raises TypeError when the layer asks for what is not known here, or for a pack that was not given.
    """
    check_asked(other, trees is not None and attention_mask is None and not (dropout and module.training))
    assert trees is not None
    window = None if sliding_window is None or sliding_window >= trees.depth else sliding_window
    if query.is_cuda:
        out = _flex()(query, key, value, block_mask=trees.sparse(window), scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    sizes = [block.stop - block.start for block in trees.blocks]
    parts = (query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2))
    out = [_attend(i, trees, parts, window, scaling) for i in range(len(sizes))]
    return torch.cat(out, 2).transpose(1, 2), None


def check_asked(other: Mapping[str, Any], complete: bool) -> None:
    """Raise TypeError when a layer asks for an attention that is not known here, or leaves something out."""
    strange = sorted(name for name, given in other.items() if given is not None and name not in KNOWN)
    if strange or not complete:
        raise TypeError(f"attention over trees cannot do {', '.join(strange) or 'without the trees'}")


def _attend(
    index: int, trees: Trees, parts: tuple[tuple[Tensor, ...], ...], window: int | None, scaling: float | None
) -> Tensor:
    """One block: (1, heads, n, D)."""
    queries, keys, values = parts
    block: Block = trees.blocks[index]
    seen = (*block.ancestors, index)
    above = sum(trees.blocks[i].stop - trees.blocks[i].start for i in block.ancestors)
    key, value = _joined(keys, seen), _joined(values, seen)
    if block.chain and window is None and 2 * above <= block.stop - block.start:
        # A little that is computed twice costs less than a mask, which the kernel cannot skip.
        return sdpa(_joined(queries, seen), key, value, is_causal=True, scale=scaling)[:, :, above:]
    return sdpa(queries[index], key, value, attn_mask=trees.mask(index, window)[None, None], scale=scaling)


def _joined(parts: tuple[Tensor, ...], which: tuple[int, ...]) -> Tensor:
    return parts[which[0]] if len(which) == 1 else torch.cat([parts[i] for i in which], 2)


@cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@contextmanager
def attention_is(model: Any, name: str = NAME) -> Generator[None]:
    """Let the model's layers call the attention of that name inside, `tree_attention` by default."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(NAME, tree_attention)
