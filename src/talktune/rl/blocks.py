"""The attention of a pack, cut into blocks that see only what they need: no (N, N) mask, no work across branches.

Open it when packed attention is slow, or when a kernel needs other blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DENSE = 256
"""Nodes of subtrees that are small enough to be one masked block; they are not cut apart."""


@dataclass(frozen=True)
class Block:
    """Some consecutive nodes; each of them attends to all of `ancestors`' nodes and to its own within the block."""

    start: int
    stop: int
    ancestors: tuple[int, ...]
    """Earlier blocks, as positions in the list of blocks, root first: all of their nodes are seen."""
    chain: bool
    """True when the block is one path: plain causal attention within it."""


def cut_blocks(end: Sequence[int], dense: int = DENSE) -> list[Block]:
    """The blocks of a forest given by `end` (N,), one past each node's last descendant; they partition 0 … N in order.

    A path up to the first fork is a block, and so are neighbouring subtrees of at most `dense` nodes together;
    what is larger is cut at its forks, and each branch sees the path that led to it.
    """
    blocks: list[Block] = []
    waiting: list[tuple[int, int, tuple[int, ...]]] = [(0, len(end), ())]  # siblings: a row of whole subtrees
    while waiting:
        start, stop, ancestors = waiting.pop()
        if start == stop:
            continue
        first = together = end[start]
        while together < stop and end[together] - start <= dense:
            together = end[together]
        waiting.append((together, stop, ancestors))
        if together > first:
            blocks.append(Block(start, together, ancestors, chain=False))
            continue
        stop = first
        fork = start + 1
        while fork < stop and end[fork] == stop:
            fork += 1
        if fork == stop or stop - start <= dense:
            blocks.append(Block(start, stop, ancestors, chain=fork == stop))
            continue
        waiting.append((fork, stop, (*ancestors, len(blocks))))
        blocks.append(Block(start, fork, ancestors, chain=True))
    return blocks


def block_mask(block: Block, blocks: Sequence[Block], end: Tensor, positions: Tensor, window: int | None) -> Tensor:
    """(queries, keys) boolean: what each node of the block may see of its ancestors' nodes and of its own.

    With a sliding `window` a node sees only those fewer than `window` tokens before it in its own sequence:
    positions are depths, so their difference is the distance.
    """
    above = [torch.arange(blocks[i].start, blocks[i].stop, device=end.device) for i in block.ancestors]
    own = torch.arange(block.start, block.stop, device=end.device)
    keys = torch.cat([*above, own])
    mask = (keys[None, :] <= own[:, None]) & (own[:, None] < end[keys][None, :])
    if window is not None:
        mask &= positions[own][:, None] - positions[keys][None, :] < window
    return mask
