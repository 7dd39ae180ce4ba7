"""Sequence packing: samples as prefix trees, whose shared beginning is computed once, with the same gradients.

Open it to see what one forward pass holds.

Answers to one prompt, turns of one conversation, forks: as token sequences they are paths in a trie. A pack
holds one or more tries in depth-first order, one node a token; a token attends to its ancestors only, and its
position is its depth. Same idea as Tree Training (arXiv 2511.00413).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from talktune.types import Sample


@dataclass(frozen=True)
class Pack:
    """Some samples as one sequence of N nodes, with K answer tokens to score among them."""

    ids: Tensor
    """(N,) token of each node."""
    positions: Tensor
    """(N,) depth of each node in its tree, from 0."""
    end: Tensor
    """(N,) one past the last descendant; node j is an ancestor of i (or i itself) iff j <= i < end[j]."""
    source: Tensor
    """(K,) node whose hidden state predicts an answer token; nodes repeat where answers share a prefix."""
    target: Tensor
    """(K,) the answer tokens, sample after sample."""
    samples: tuple[int, ...]
    """Which samples, as positions in the list that was packed."""
    lengths: tuple[int, ...]
    """Answer tokens of each of them; they add up to K."""

    def attention_mask(self) -> Tensor:
        """(N, N) boolean: row i may attend to column j."""
        node = torch.arange(len(self.ids), device=self.ids.device)
        return (node[None, :] <= node[:, None]) & (node[:, None] < self.end[None, :])

    def to(self, device: torch.device) -> "Pack":
        """The same pack with its tensors on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("ids", "positions", "end", "source", "target")}
        return replace(self, **moved)

    def rows(self, flat: Tensor) -> list[Tensor]:
        """Cut a (K,) tensor into one part for each sample."""
        return list(torch.split(flat, list(self.lengths)))


def pack(samples: Sequence[Sample], budget: int = 1024) -> list[Pack]:
    """Pack samples into tries of at most `budget` nodes each, or as many as the longest sample has.

    Samples are sorted by their tokens, so that those with a common prefix lie side by side; a trie that would
    outgrow the budget ends there and the next begins (it repeats the shared prefix, which costs time, never
    exactness). Small tries then share a pack.
    """
    paths = [sample.prompt_ids + sample.answer_ids for sample in samples]
    budget = max(budget, *map(len, paths), 1)  # the longest has to be held anyway, and others may share it
    order = sorted(range(len(samples)), key=lambda i: paths[i])
    groups: list[list[int]] = []
    size = 0
    previous: tuple[int, ...] = ()
    for i in order:
        shared = common_length(previous, paths[i])
        fresh = len(paths[i]) - shared
        if not groups or size + fresh > budget:
            groups.append([])
            fresh, size = len(paths[i]), 0
        groups[-1].append(i)
        size += fresh
        previous = paths[i]
    return [_build(samples, group) for group in groups]


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def _build(samples: Sequence[Sample], group: Sequence[int]) -> Pack:
    """Lay sorted samples out depth first: each adds the nodes after what it shares with the one before."""
    ids: list[int] = []
    positions: list[int] = []
    end: list[int] = []
    source: list[int] = []
    target: list[int] = []
    path: list[int] = []  # nodes of the previous sample, from its root
    tokens: tuple[int, ...] = ()
    for i in group:
        sample = samples[i]
        previous, tokens = tokens, sample.prompt_ids + sample.answer_ids
        shared = common_length(previous, tokens)
        for node in path[shared:]:
            end[node] = len(ids)
        path = path[:shared] + list(range(len(ids), len(ids) + len(tokens) - shared))
        ids += tokens[shared:]
        positions += range(shared, len(tokens))
        end += [0] * (len(tokens) - shared)
        first = len(sample.prompt_ids)
        source += path[first - 1 : -1]
        target += sample.answer_ids
    for node in path:
        end[node] = len(ids)
    return Pack(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        end=torch.tensor(end),
        source=torch.tensor(source),
        target=torch.tensor(target),
        samples=tuple(group),
        lengths=tuple(len(samples[i].answer_ids) for i in group),
    )
