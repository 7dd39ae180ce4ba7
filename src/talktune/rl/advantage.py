"""Advantages from rewards: how much better an answer was than the others of its group (GRPO, arXiv 2402.03300).

Open it to see what a group is, and how its mean and deviation enter the update. The option `--group` chooses it:
`batch` by default, `prompt` for `talktune demo`; fresh answers are always grouped by prompt (`pooled_advantages`).

What a group is is an explicit choice, because live talk yields one answer for each prompt. Variants: without
the standard deviation (Dr. GRPO, arXiv 2503.20783), and the mean of the others as baseline (RLOO, arXiv
2402.14740).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import expm1, isfinite, log, sqrt
from typing import Literal

import torch
from torch import Tensor

Groups = Sequence[Hashable] | Tensor
"""One label for each reward: any hashable, or an integer tensor (B,)."""

_NO_SPREAD = 1e-8


def compute_grpo_advantages(
    rewards: Sequence[float] | Tensor,
    groups: Groups | None = None,
    *,
    scale: Literal["std", "none"] = "std",
    baseline: Literal["mean", "leave-one-out"] = "mean",
) -> Tensor:
    """A = (r − mean) / std within each group, with the unbiased standard deviation; (B,) rewards to (B,).

    Without `groups` all rewards are one group. `scale="none"` leaves the division out;
    `baseline="leave-one-out"` subtracts the mean of the group's other rewards. A group with std < 1e-8, or
    of one reward, gives zeros, never NaN. Computed in float64; the result has the dtype and device of a
    float tensor of rewards, torch's default dtype for an integer one, and is float64 for a list. ValueError
    for rewards that are not finite (leave unscored turns out), a wrong shape, or an unknown option.

    >>> compute_grpo_advantages([1, 0, -1, 1, 1], groups=["a", "a", "a", "b", "b"]).tolist()
    [1.0, 0.0, -1.0, 0.0, 0.0]
    """
    if scale not in ("std", "none"):
        raise ValueError(f"scale is {scale!r}: it must be 'std' or 'none'")
    if baseline not in ("mean", "leave-one-out"):
        raise ValueError(f"baseline is {baseline!r}: it must be 'mean' or 'leave-one-out'")
    deviation, std, size = _deviations(rewards, groups)
    if baseline == "leave-one-out":
        deviation = deviation * size / (size - 1).clamp(min=1)  # r − mean of others = (r − mean) n / (n − 1)
    advantages = deviation / std.clamp(min=_NO_SPREAD) if scale == "std" else deviation
    return _like(torch.where(std < _NO_SPREAD, 0.0, advantages), rewards)


def pooled_advantages(rewards: Sequence[float] | Tensor, groups: Groups) -> Tensor:
    """A = (r − mean of the group) / √(mean squared deviation of all rewards from their groups' means), (B,) to (B,).

    For predicted rewards: a group whose answers are foretold alike is not blown up to the spread of the others.
    Zeros where that root is under 1e-8. dtype and errors as in `compute_grpo_advantages`.
    """
    deviation, _, _ = _deviations(rewards, groups)
    spread = deviation.square().mean().sqrt() if len(deviation) else deviation.sum()
    return _like(torch.zeros_like(deviation) if spread < _NO_SPREAD else deviation / spread, rewards)


def zero_variance(rewards: Sequence[float] | Tensor, groups: Groups | None = None) -> Tensor:
    """(B,) boolean: True where a reward's group has std < 1e-8 or one reward, and so carries no gradient.

    Meant for groups whose baseline is their own mean; `running` and `none` have no such groups. Errors as
    above.
    """
    _, std, _ = _deviations(rewards, groups)
    return std < _NO_SPREAD


@dataclass(frozen=True)
class RunningBaseline:
    """Exponential mean and variance of the rewards seen so far, for updates too small to be their own group.

    The reward k steps back weighs decay^k; weights are normalised to sum to 1, which is the bias correction
    of Adam (arXiv 1412.6980), so that early values are right too. Four numbers: `dataclasses.asdict` gives
    JSON, `RunningBaseline(**json)` brings it back exactly.
    """

    mean: float = 0.0
    """Weighted mean of the rewards, already bias-corrected."""
    var: float = 0.0
    """Weighted mean of the squared deviations from that mean."""
    count: int = 0
    """Rewards seen."""
    decay: float = 0.99
    """Weight of the past at each reward, in (0, 1): 0.99 remembers about the last 100."""

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ValueError(f"decay is {self.decay}: it must lie between 0 and 1")

    @property
    def std(self) -> float:
        """Unbiased deviation √(var / (1 − Σw²)), w the normalised weights; 0 for fewer than two rewards."""
        if self.count < 2:
            return 0.0
        d, n = self.decay, self.count
        squares = (1 - d) * (1 + d**n) / ((1 + d) * -expm1(n * log(d)))
        return sqrt(self.var / (1 - squares))

    def update(self, rewards: Sequence[float] | Tensor) -> "RunningBaseline":
        """The statistics after these rewards too, in their order. ValueError for one that is not finite."""
        mean, var, count = self.mean, self.var, self.count
        for reward in _float64(rewards).tolist():
            count += 1
            weight = (1 - self.decay) / -expm1(count * log(self.decay))
            step = reward - mean
            mean += weight * step
            var = (1 - weight) * (var + weight * step**2)
        return RunningBaseline(mean, var, count, self.decay)

    def advantages(self, rewards: Sequence[float] | Tensor, *, scale: Literal["std", "none"] = "std") -> Tensor:
        """A = (r − mean) / std with the statistics of *past* rewards: call `update` afterwards. (B,) to (B,).

        With nothing in the past there is nothing to compare with: zeros. When past rewards were all alike
        (std < 1e-8) the difference is left undivided, so that the first reward that differs counts and stays
        finite. dtype and errors as in `compute_grpo_advantages`.
        """
        values = _float64(rewards)
        if self.count == 0:
            return _like(torch.zeros_like(values), rewards)
        divisor = self.std if scale == "std" and self.std >= _NO_SPREAD else 1.0
        return _like((values - self.mean) / divisor, rewards)


def advantages_for(
    rewards: Sequence[float] | Tensor,
    sample_groups: Groups,
    group: Literal["prompt", "conversation", "batch", "running", "none"],
    *,
    scale: Literal["std", "none"] = "std",
    baseline: Literal["mean", "leave-one-out"] = "mean",
    running: RunningBaseline | None = None,
) -> Tensor:
    """Advantages (B,) of one update's rewards (B,), for each meaning of *group*.

    `prompt` and `conversation` group by `sample_groups`, `batch` makes all one group, `running` compares
    with the past rewards in `running` (which it leaves as it is; `baseline` has no meaning there), `none` is
    A = r, as in OpenClaw-RL. ValueError for another group, and for `running` without the statistics.
    """
    if group in ("prompt", "conversation"):
        return compute_grpo_advantages(rewards, sample_groups, scale=scale, baseline=baseline)
    if group == "batch":
        return compute_grpo_advantages(rewards, scale=scale, baseline=baseline)
    if group == "running":
        if running is None:
            raise ValueError("group is 'running': give the statistics of past rewards as `running`")
        return running.advantages(rewards, scale=scale)
    if group == "none":
        return _like(_float64(rewards), rewards)
    raise ValueError(f"group is {group!r}: it must be 'prompt', 'conversation', 'batch', 'running' or 'none'")


def _deviations(rewards: Sequence[float] | Tensor, groups: Groups | None) -> tuple[Tensor, Tensor, Tensor]:
    """For each reward: r − mean, the unbiased std and the size of its group; all (B,) float64."""
    values = _float64(rewards)
    index = _group_index(groups, len(values))
    n_groups = int(index.max()) + 1 if len(values) else 0

    def per_group(x: Tensor) -> Tensor:
        return torch.zeros(n_groups, dtype=torch.float64).index_add(0, index, x)

    size = per_group(torch.ones_like(values))
    deviation = values - (per_group(values) / size)[index]
    std = (per_group(deviation**2) / (size - 1).clamp(min=1)).sqrt()
    return deviation, std[index], size[index]


def _group_index(groups: Groups | None, n: int) -> Tensor:
    """Labels as numbers 0, 1, … in order of appearance, (B,)."""
    if groups is None:
        return torch.zeros(n, dtype=torch.long)
    labels: Sequence[Hashable] = groups.tolist() if isinstance(groups, Tensor) else groups
    if len(labels) != n:
        raise ValueError(f"{n} rewards came with {len(labels)} group labels: give one for each reward")
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels], dtype=torch.long)


def _float64(rewards: Sequence[float] | Tensor) -> Tensor:
    """(B,) float64 on the CPU: in float32 the rounding of a mean alone would pass for a spread of 1e-8."""
    if isinstance(rewards, Tensor):
        values = rewards.detach().cpu().double()
    else:
        values = torch.tensor(list(rewards), dtype=torch.float64)
    if values.ndim != 1:
        raise ValueError(f"rewards have shape {tuple(values.shape)}: they must be (B,)")
    if not all(isfinite(value) for value in values.tolist()):
        raise ValueError("a reward is not finite: leave unscored turns out before advantages")
    return values


def _like(advantages: Tensor, rewards: Sequence[float] | Tensor) -> Tensor:
    if not isinstance(rewards, Tensor):
        return advantages
    dtype = rewards.dtype if rewards.is_floating_point() else torch.get_default_dtype()
    return advantages.to(rewards.device, dtype)
