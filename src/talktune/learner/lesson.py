"""Self-distillation within an update: the frozen model that has read the reaction teaches the policy.

Open it to see which tokens have a teacher; the loss itself is `rl.distill`.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from talktune.learner.passes import IDLE, NOBODY, Passes, Student
from talktune.policy.adapter import adapter_off
from talktune.rl.distill import distill_loss
from talktune.rl.packing import Pack
from talktune.types import Sample


def is_taught(sample: Sample) -> bool:
    """Whether the sample has a teacher's prompt."""
    return sample.teacher_prompt_ids is not None


def untaught(samples: Sequence[Sample]) -> list[Sample]:
    """The samples without their teachers' prompts."""
    return [replace(sample, teacher_prompt_ids=None) for sample in samples]


def taught_rows(packed: Pack, samples: Sequence[Sample]) -> Tensor | None:
    """Which of a pack's answer tokens belong to samples that have a teacher (N,); None where none has."""
    taught = [i for i in packed.samples if is_taught(samples[i])]
    places = torch.arange(len(packed.target)).split(list(packed.lengths))
    return torch.cat([places[packed.samples.index(i)] for i in taught]) if taught else None


def pupils(packed: Pack, samples: Sequence[Sample]) -> list[Sample]:
    """The samples of a pack that have a teacher, each behind the teacher's longer prompt."""
    taught = (samples[i] for i in packed.samples if is_taught(samples[i]))
    return [replace(s, prompt_ids=s.teacher_prompt_ids or ()) for s in taught]


def lesson(
    passes: Passes,
    taught: Sequence[Sample],
    student: Student,
    total: int,
    keep_step: int,
    *,
    eps_low: float,
    eps_high: float,
) -> tuple[Tensor | None, dict[str, float]]:
    """`rl.distill.distill_loss` of a pack's `pupils`, and its metrics; nothing where it has none.

    Old log-probs are those of this pass, as with `old="recomputed"`: nobody captured those of tokens that were
    not sampled. Only the log-probs of the candidates outlive a chunk of the loss head. Some rank needs `keep_step`
    passes of the teacher: who needs fewer keeps step.
    """
    packs = passes.packs(taught)
    lengths = [len(s.answer_ids) for s in taught]
    places = torch.arange(sum(lengths)).split(lengths)
    new, ids = student.likely, student.ids
    teacher = None if new is None else torch.empty_like(new)
    with adapter_off(passes.model):
        for packed in packs:
            assert teacher is not None
            assert ids is not None
            at = torch.cat([places[i] for i in packed.samples]).to(ids.device)
            teacher[at] = passes.several(packed, taught, ids[at])
        for _ in range(keep_step - len(packs)):
            passes.chosen(IDLE, NOBODY)
    if new is None or teacher is None:
        return None, {}
    mask = torch.ones_like(new[None, :, 0])
    return distill_loss(new[None], new[None], teacher[None], mask, eps_low=eps_low, eps_high=eps_high, total=total)
