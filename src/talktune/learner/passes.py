"""Forward passes over packs while learning: the log-probs of answer tokens, and the way back from their gradients.

Open it to see how samples are cut into packs, and what one pass costs. A pack that is longer than `--piece-tokens` is
computed in pieces (`learner.pieces`); whoever reads a pack need not know which it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from talktune.config import TrainConfig
from talktune.learner.logprobs import Forward, Reader
from talktune.learner.pieces import Pieces
from talktune.policy.adapter import adapter_off
from talktune.rl.distill import CANDIDATES
from talktune.rl.packing import Pack, pack
from talktune.types import Sample

NOBODY = (Sample("", (0,), (0,), 0.0, ""),)
IDLE = pack(NOBODY)[0]
"""What a rank computes for the others' sake; every vocabulary has a token 0."""


@dataclass(frozen=True, eq=False)
class Student:
    """The result of a pass with a gradient for a pack's K answer tokens."""

    logprobs: Tensor
    """(K,) of the sampled tokens."""
    entropy: Tensor
    """(K,), without a gradient."""
    likely: Tensor | None
    """(N, `CANDIDATES`) log-probs of the likeliest tokens at the N places that were asked for."""
    ids: Tensor | None
    """(N, `CANDIDATES`) of these tokens."""
    back: Callable[[], None]
    """After `backward` of a loss: takes its gradient on to the weights, where the pass was in pieces."""


class Passes:
    """Runs one model over packs of samples."""

    def __init__(self, model: Any, train: TrainConfig, reader: Reader, fewest_packs: int) -> None:
        """What would fill fewer than `fewest_packs` packs is cut into smaller ones, so that no rank is idle."""
        self.model, self.train, self.reader, self.fewest_packs = model, train, reader, fewest_packs

    def packs(self, samples: Sequence[Sample]) -> list[Pack]:
        """Cut samples into packs of one pass each; without packing every sample is a pack."""
        if not samples:
            return []
        if self.train.no_packing:
            return [replace(pack([s])[0], samples=(i,)) for i, s in enumerate(samples)]
        packs = pack(samples, self.train.microbatch_tokens)
        if len(packs) < self.fewest_packs:
            packs = pack(samples, -(-sum(len(one.ids) for one in packs) // self.fewest_packs))
        return packs

    @torch.no_grad()
    def chosen(self, packed: Pack, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Log-probs (K,) of a pack's answer tokens, and the entropy (K,), without gradients."""
        pieces = self._pieces(packed, samples)
        if pieces is not None:
            logprobs, entropy = pieces.forward(lambda done, _: done.chosen())
            return logprobs, entropy
        return self.reader.inside(lambda: self._read(packed, samples).chosen())

    @torch.no_grad()
    def several(self, packed: Pack, samples: Sequence[Sample], ids: Tensor) -> Tensor:
        """Log-probs (K, C) of the tokens `ids` (K, C) at the places of a pack's answer tokens, without gradients."""
        return self.reader.inside(lambda: self._read(packed, samples).several(ids)[0])

    def student(self, packed: Pack, samples: Sequence[Sample], rows: Tensor | None = None) -> Student:
        """One pass with a gradient; for the answer tokens `rows` (N,) it also gives the likeliest tokens."""
        pieces = self._pieces(packed, samples)
        if pieces is None:
            read = partial(self._whole, packed, samples, rows)
            new, entropy, *likely = self.reader.inside(read)
            return Student(new, entropy, *(likely or (None, None)), back=lambda: None)
        if rows is None:
            new, entropy = pieces.forward(lambda done, _: done.chosen())
            new.requires_grad_()
            return Student(new, entropy, None, None, back=partial(_back, pieces, new))
        new, entropy, likely, ids = pieces.forward(lambda done, _: (*done.chosen(), *done.several(CANDIDATES)))
        new.requires_grad_()
        likely, ids = likely[rows].requires_grad_(), ids[rows]
        return Student(new, entropy, likely, ids, back=partial(_back_to_likely, pieces, new, likely, ids, rows))

    def idle(self, before: int = 0, after: int = 0) -> None:
        """On a rank that has no pack, run empty passes beside the others, in their order.

        That is, `before` passes without gradient, one with, `after` without, and back through the one with: the others
        gather every layer's weights from all ranks, and what they gather ahead of time depends on the order.
        """
        self._silent(before)
        student = self.student(IDLE, NOBODY)
        self._silent(after)
        (0 * student.logprobs.sum()).backward()

    def _silent(self, count: int) -> None:
        with adapter_off(self.model):
            for _ in range(count):
                self.chosen(IDLE, NOBODY)

    def _whole(self, packed: Pack, samples: Sequence[Sample], rows: Tensor | None) -> tuple[Tensor, ...]:
        done = self._read(packed, samples)
        if rows is None:
            return done.chosen()
        return *done.chosen(), *done.several(CANDIDATES, rows.to(done.target.device))

    def _read(self, packed: Pack, samples: Sequence[Sample]) -> Forward:
        """One forward pass over a pack, each answer at the temperature that its sample was sampled with."""
        packed = packed.to(self._device)
        return self.reader.read(packed, _temperatures(packed, samples))

    def _pieces(self, packed: Pack, samples: Sequence[Sample]) -> Pieces | None:
        """The pieces of a pack that is too long for one pass."""
        tokens = self.train.piece_tokens
        if tokens is None or len(packed.ids) <= tokens:
            return None
        packed = packed.to(self._device)
        return Pieces(self.reader, packed, _temperatures(packed, samples), tokens)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _back(pieces: Pieces, new: Tensor) -> None:
    """Without likely tokens."""
    pieces.backward(lambda done, _: (done.chosen()[0],), [_slope(new)])


def _back_to_likely(pieces: Pieces, new: Tensor, likely: Tensor, ids: Tensor, rows: Tensor) -> None:
    """With those at `rows`; the other places have tokens of their own too, whose gradient is zero."""
    slope, all_ids = (torch.zeros(len(new), one.shape[1], dtype=one.dtype, device=new.device) for one in (likely, ids))
    slope[rows], all_ids[rows] = _slope(likely), ids
    pieces.backward(lambda done, at: (done.chosen()[0], done.several(all_ids[at])[0]), [_slope(new), slope])


def _slope(value: Tensor) -> Tensor:
    """∂loss/∂value; zero where the loss does not depend on it."""
    return torch.zeros_like(value) if value.grad is None else value.grad


def _temperatures(packed: Pack, samples: Sequence[Sample]) -> Tensor:
    """(K,)."""
    rows = [torch.full((len(samples[i].answer_ids),), samples[i].temperature) for i in packed.samples]
    return torch.cat(rows).to(packed.ids.device)
