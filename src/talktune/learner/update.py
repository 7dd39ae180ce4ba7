"""One update of the policy: samples → shaped rewards → advantages → packs → loss → AdamW step.

Open it to see the whole pipeline of learning in one place: `Learner.step`.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from talktune.config import AlgorithmConfig, Config
from talktune.errors import UserError
from talktune.learner.lesson import is_taught, lesson, pupils, taught_rows, untaught
from talktune.learner.logprobs import make_reader
from talktune.learner.pack_loss import pack_loss
from talktune.learner.passes import Passes
from talktune.learner.probe import WEIGHT
from talktune.learner.ranks import ALONE, Ranks, shard, whole_tensor
from talktune.learner.recompute import recompute_layers
from talktune.policy.adapter import adapter_off
from talktune.policy.linear import fast_frozen_linears, frozen_linears
from talktune.policy.turnstile import Lane
from talktune.rl.advantage import RunningBaseline, advantages_for, zero_variance
from talktune.rl.dealing import deal
from talktune.rl.demonstration import demonstration_loss
from talktune.rl.metrics import merge
from talktune.rl.reward import overlong_reward
from talktune.rl.schedule import eps_high_at
from talktune.types import Sample

SHOWN = 20
"""So many turns are named where an update cannot be taken."""


class NotFiniteError(UserError):
    """An update was not taken, because its gradient is not a finite number."""


def learned(metrics: Mapping[str, float]) -> bool:
    """Whether an update with these metrics had a gradient to learn from."""
    return any(name in metrics for name in ("tokens", "fresh_tokens", "wanted_tokens"))


class Learner:
    """The policy in training: its weights, the optimizer's state, the running baseline, the update count."""

    def __init__(
        self,
        model: Any,
        config: Config,
        total_updates: int,
        *,
        lane: Lane | None = None,
        ranks: Ranks = ALONE,
        copies: Ranks = ALONE,
        device: torch.device | None = None,
    ) -> None:
        """Train every parameter of `model` that requires a gradient; `total_updates` is for schedules.

        With a `lane` it computes in its turn only, and lets others compute first between two layers. Several `ranks`
        share the work and, on `device` of each, the weights; `copies` share the work only, each has all of the weights
        where they are. All of them have to be given the same samples.
        """
        self.model = model
        self.config = config
        self.ranks = ranks
        self._copies = copies
        self._workers = ranks if ranks.count > 1 else copies
        if config.train.piece_tokens is not None and (config.train.no_packing or ranks.count > 1):
            other = "--no-packing" if config.train.no_packing else "several ranks"
            raise UserError(f"--piece-tokens: not with {other}; leave one of them out.")
        if config.train.checkpoint_layers:
            recompute_layers(model)
        here = next(model.parameters()).device
        whole = shard(model, ranks, device or here) if ranks.count > 1 else None
        self.trained: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        reader = make_reader(
            model, packing=not config.train.no_packing, pass_by=None if lane is None else lane.pass_by, whole=whole
        )
        if config.train.piece_tokens is not None and not reader.fused_head:
            raise UserError("--piece-tokens: not with a head that is more than one matrix; leave it out.")
        self.passes = Passes(model, config.train, reader, self._workers.count)
        self.total_updates = total_updates
        self.distill_weight = 0.0 if isinstance(config.algorithm.distill, str) else config.algorithm.distill
        """λ; with `auto` it is 0 until a probe is heard."""
        self._lane = nullcontext() if lane is None else lane
        if lane is not None:
            lane.stop_between_layers(model)
        self.update = 0
        self.advantages: dict[str, float] = {}
        """Of the last update's samples, by their ids."""
        self.running = RunningBaseline()
        self._frozen = frozen_linears(model) if whole is None else []
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=config.train.learning_rate, weight_decay=config.train.weight_decay
        )

    def reset(self, weights: Mapping[str, Tensor]) -> None:
        """Start over from the present weights: a fresh optimizer, no update taken."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(weights[name])
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        self.running = RunningBaseline()
        self.update = 0

    def hear_probe(self, found: Mapping[str, float]) -> None:
        """With `--distill auto`, distil in the next update only where the metrics of its fresh answers allow it."""
        if self.config.algorithm.distill == "auto":
            self.distill_weight = WEIGHT * found.get("complaints_help", 0.0)

    def step(self, samples: Sequence[Sample], fresh: Sequence[Sample] = (), pace: float = 1.0) -> dict[str, float]:
        """One update over `samples`; returns its metrics (`rl.metrics.METRICS`).

        Samples that are too stale are left out. Groups without variance carry no gradient and are skipped
        before any forward pass, but for those samples of them that have a teacher; when none is left the weights
        stay as they are. `fresh` answers, whose rewards are advantages already, are a second term beside the first,
        averaged over its own tokens, and what people wanted to be answered a third. `pace` is the share of the learning
        rate that this step takes. Raises NotFiniteError, and leaves all as it was, where the gradient is no number.
        """
        seconds = -time.perf_counter()
        running, rate = self.running, pace * self.config.train.learning_rate
        with self._lane:
            metrics = self.gradient(samples)
            if fresh:
                parts = self._gradients(fresh, torch.tensor([s.reward for s in fresh]), metrics["eps_high"])
                metrics |= {f"fresh_{name}": value for name, value in merge(parts).items()}
            if learned(metrics):
                self._add_up()
                clipped = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.config.train.max_grad_norm)
                norm = whole_tensor(clipped).item()
                if not isfinite(norm):
                    self.optimizer.zero_grad(set_to_none=True)
                    self.running = running
                    raise NotFiniteError(_not_finite(samples, self.update + 1))
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                metrics["grad_norm"] = norm
        self.update += 1
        seconds += time.perf_counter()
        metrics |= {"learning_rate": rate, "seconds": seconds}
        metrics["tokens_per_second"] = metrics.get("tokens", 0.0) / seconds
        return metrics

    def gradient(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Add the gradient of the update over `samples` to the trained parameters, and take no step.

        Each of several copies adds that of its packs. Returns the metrics so far; `tokens` is among them when there
        was something to learn from.
        """
        algorithm = self.config.algorithm
        self.advantages = {}
        eps_high = eps_high_at(
            self.update, self.total_updates, algorithm.eps_high, algorithm.eps_high_end, algorithm.eps_high_schedule
        )
        fresh = [s for s in samples if self._staleness(s) <= algorithm.max_staleness]
        if self.distill_weight == 0:
            fresh = untaught(fresh)
        metrics = self._describe(fresh) | {"eps_high": eps_high}
        if fresh:
            advantages, skipped, penalty = self._advantages(fresh)
            self.advantages = dict(zip((s.id for s in fresh), advantages.tolist(), strict=True))
            keep = [i for i, out in enumerate(skipped.tolist()) if not out or is_taught(fresh[i])]
            metrics |= {
                "advantage_mean": float(advantages.mean()),
                "length_penalty_mean": penalty,
                "skipped_groups": float(_count_groups(fresh, skipped, algorithm)),
            }
            if keep:
                counted = ~skipped[keep]
                metrics |= merge(self._gradients([fresh[i] for i in keep], advantages[keep], eps_high, counted))
            metrics |= self._demonstrate(fresh)
        return metrics

    @torch.no_grad()
    def answer_logprobs(self, samples: Sequence[Sample], *, bare: bool = False) -> list[list[float]]:
        """Log-probs of each sample's answer under the weights as they are; `bare` is without the adapter."""
        rows: list[list[float]] = [[] for _ in samples]
        with self._lane, adapter_off(self.model) if bare else nullcontext(), fast_frozen_linears(self._frozen):
            for packed in self.passes.packs(samples):
                logprobs, _ = self.passes.chosen(packed, samples)
                for i, row in zip(packed.samples, packed.rows(logprobs.cpu()), strict=True):
                    rows[i] = row.tolist()
        return rows

    def _staleness(self, sample: Sample) -> int:
        return 0 if sample.policy_version is None else self.update - sample.policy_version

    def _describe(self, samples: Sequence[Sample]) -> dict[str, float]:
        """What the samples alone tell."""
        if not samples:
            return {}
        rewards = torch.tensor([s.reward for s in samples], dtype=torch.float64)
        return {
            "reward_mean": rewards.mean().item(),
            "reward_std": rewards.std().item() if len(samples) > 1 else 0.0,
            "response_length": sum(len(s.answer_ids) for s in samples) / len(samples),
            "staleness": sum(self._staleness(s) for s in samples) / len(samples),
        }

    def _advantages(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor, float]:
        """Advantages (B,), which of them belong to a skipped group (B,), and the mean length penalty."""
        a = self.config.algorithm
        penalties = [overlong_reward(len(s.answer_ids), a.L_max, a.L_cache, a.penalty_shape) for s in samples]
        shaped = [s.reward + float(penalty) for s, penalty in zip(samples, penalties, strict=True)]
        groups = [s.group for s in samples]
        advantages = advantages_for(shaped, groups, a.group, scale=a.scale, baseline=a.baseline, running=self.running)
        if a.group == "running":
            self.running = self.running.update(shaped)
        if a.group in ("running", "none"):
            skipped = torch.zeros(len(samples), dtype=torch.bool)
        else:
            skipped = zero_variance(shaped, None if a.group == "batch" else groups)
        return advantages, skipped, sum(map(float, penalties)) / len(penalties)

    def _gradients(
        self, samples: Sequence[Sample], advantages: Tensor, eps_high: float, counted: Tensor | None = None
    ) -> list[dict[str, float]]:
        """Add the gradient of the whole update, pack by pack; returns the metrics of each pack.

        `counted` (B,) are those samples that the advantages' loss is made of, by default all: the others are taught.
        """
        a, passes = self.config.algorithm, self.passes
        counted = torch.ones(len(samples), dtype=torch.bool) if counted is None else counted
        lengths = torch.tensor([len(s.answer_ids) for s in samples])
        total = int(lengths[counted].sum() if a.aggregation == "token" else counted.sum())
        taught_tokens = sum(len(s.answer_ids) for s in samples if is_taught(s))
        packs = passes.packs(samples)
        parts: list[tuple[int, dict[str, float]]] = []
        with fast_frozen_linears(self._frozen):
            for dealt in deal([len(packed.ids) for packed in packs], self._workers.count):
                lessons = max(len(passes.packs(pupils(packs[i], samples))) for i in dealt if i is not None)
                number = dealt[self._workers.number]
                if number is None:
                    self._keep_step(int(a.beta != 0), lessons)
                    continue
                packed = packs[number]
                reference = None
                if a.beta != 0:
                    with adapter_off(self.model):
                        reference, _ = passes.chosen(packed, samples)
                student = passes.student(packed, samples, taught_rows(packed, samples))
                loss, metrics = pack_loss(packed, samples, student, reference, advantages, counted, total, eps_high, a)
                taught = pupils(packed, samples)
                gap, found = lesson(
                    passes, taught, student, taught_tokens, lessons if self.ranks.count > 1 else 0,
                    eps_low=a.eps_low, eps_high=eps_high,
                )  # fmt: skip
                if gap is not None:
                    loss = loss + self.distill_weight * gap
                    metrics |= found | {"loss": loss.item()}
                loss.backward()
                student.back()
                parts.append((number, metrics))
                del student, gap, loss  # before the next pack needs the memory
        return self._in_order(parts)

    def _keep_step(self, before: int = 0, after: int = 0) -> None:
        """What a rank without a pack computes where the others need its share of the weights."""
        if self.ranks.count > 1:
            self.passes.idle(before, after)

    def _add_up(self) -> None:
        """Let the gradient be that of all copies; what none of them has stays without."""
        if self._copies.count == 1:
            return
        found = set(self._copies.gather([name for name, p in self.trained.items() if p.grad is not None]))
        for name, parameter in self.trained.items():
            if name in found:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                self._copies.add(parameter.grad)

    def _in_order(self, parts: Sequence[tuple[int, dict[str, float]]]) -> list[dict[str, float]]:
        """The metrics of all ranks' packs, in the order of their numbers, whoever had them."""
        return [metrics for _, metrics in sorted(self._workers.gather(parts), key=lambda part: part[0])]

    def _demonstrate(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Add the gradient of the answers that were wanted in place of these; returns its metrics, none without one.

        Each of them counts as much as a real turn whose advantage is the weight.
        """
        shown = [replace(s, answer_ids=s.wanted_ids, rollout_logprobs=None) for s in untaught(samples) if s.wanted_ids]
        weight = self.config.algorithm.wanted * len(shown) / len(samples)
        packs = self.passes.packs(shown) if weight else []
        total = sum(len(s.answer_ids) for s in shown)
        numbered: list[tuple[int, dict[str, float]]] = []
        with fast_frozen_linears(self._frozen):
            for dealt in deal([len(packed.ids) for packed in packs], self._workers.count):
                number = dealt[self._workers.number]
                if number is None:
                    self._keep_step()
                    continue
                student = self.passes.student(packs[number], shown)
                new = student.logprobs[None]
                loss, metrics = demonstration_loss(new, torch.ones_like(new), total=total)
                (weight * loss).backward()
                student.back()
                numbered.append((number, metrics))
                del student, new, loss  # before the next pack needs the memory
        parts = self._in_order(numbered)
        return merge(parts) | ({"wanted_answers": float(len(shown))} if parts else {})


def _not_finite(samples: Sequence[Sample], number: int) -> str:
    """What to do about an update whose gradient is no number."""
    names = ", ".join(sample.id for sample in samples[:SHOWN]) + (", …" if len(samples) > SHOWN else "")
    return (
        f"Update {number} is not taken: its gradient is not finite. Look at the {len(samples)} turns that it was to be "
        f"made of ({names}); if there is nothing odd about them, lower --learning-rate or leave out half precision."
    )


def _count_groups(samples: Sequence[Sample], skipped: Tensor, algorithm: AlgorithmConfig) -> int:
    if algorithm.group == "batch":
        return int(bool(skipped.any()))
    return len({s.group for s, out in zip(samples, skipped.tolist(), strict=True) if out})
