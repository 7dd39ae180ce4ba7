"""The loss of one pack from its samples' advantages, and the old log-probs that it compares with.

Open it to see what `--old recomputed` changes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from talktune.config import AlgorithmConfig
from talktune.learner.passes import Student
from talktune.rl.loss import grpo_tcr_loss, importance_weights
from talktune.rl.packing import Pack
from talktune.types import Sample


def pack_loss(
    packed: Pack,
    samples: Sequence[Sample],
    student: Student,
    reference: Tensor | None,
    advantages: Tensor,
    counted: Tensor,
    total: int,
    eps_high: float,
    algorithm: AlgorithmConfig,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a pack, `rl.loss.grpo_tcr_loss`, and its metrics.

    `advantages` and `counted` (which samples the loss is made of) are (B,) over all `samples`; `reference` (K,) are the
    frozen model's log-probs of the pack's answer tokens; `total` is what the whole update's sum is divided by.
    """

    def padded(flat: Tensor) -> Tensor:  # (K,) -> (B, T)
        return pad_sequence(packed.rows(flat), batch_first=True)

    mine = list(packed.samples)
    new = padded(student.logprobs)
    old, weights = old_logprobs(new.detach(), [samples[i].rollout_logprobs for i in mine], algorithm)
    return grpo_tcr_loss(
        new,
        old,
        None if reference is None else padded(reference),
        advantages[mine].to(new),
        padded(torch.ones_like(student.logprobs)) * counted[mine, None].to(new),
        eps_low=algorithm.eps_low,
        eps_high=eps_high,
        beta=algorithm.beta,
        kl=algorithm.kl,
        aggregation=algorithm.aggregation,
        dual_clip=algorithm.dual_clip,
        weights=weights,
        total=total,
        entropy=padded(student.entropy),
    )


def old_logprobs(
    now: Tensor, rollout: Sequence[tuple[float, ...] | None], algorithm: AlgorithmConfig
) -> tuple[Tensor, Tensor | None]:
    """Old log-probs (B, T), and the weights (B, T) that correct for the sampler where they are recomputed.

    One update takes one optimizer step, so the forward pass that trains is also the one "at the start of
    the update": its values, detached, are the recomputed ones.
    """
    if algorithm.old == "rollout" and all(row is not None for row in rollout):
        rows = [torch.tensor(row) for row in rollout if row is not None]
        return pad_sequence(rows, batch_first=True).to(now), None
    captured = now.clone()
    for i, row in enumerate(rollout):
        if row is not None:
            captured[i, : len(row)] = torch.tensor(row).to(now)
    if algorithm.old == "rollout":
        return captured, None  # only rows that were never captured are recomputed
    return now, importance_weights(now, captured)
