"""One update of the policy: samples -> shaped rewards -> advantages -> packs -> loss -> AdamW step."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from talktune.config import AlgorithmConfig, Config
from talktune.errors import UserError
from talktune.learner.logprobs import Forward, make_reader
from talktune.learner.pieces import Pieces
from talktune.learner.probe import WEIGHT
from talktune.learner.ranks import ALONE, Ranks, shard, whole_tensor
from talktune.learner.recompute import recompute_layers
from talktune.policy.adapter import adapter_off
from talktune.policy.linear import fast_frozen_linears, frozen_linears
from talktune.policy.turnstile import Lane
from talktune.rl.advantage import RunningBaseline, advantages_for, zero_variance
from talktune.rl.dealing import deal
from talktune.rl.demonstration import demonstration_loss
from talktune.rl.distill import CANDIDATES, distill_loss
from talktune.rl.loss import grpo_tcr_loss, importance_weights
from talktune.rl.metrics import merge
from talktune.rl.packing import Pack, pack
from talktune.rl.reward import overlong_reward
from talktune.rl.schedule import eps_high_at
from talktune.types import Sample

_NOBODY = (Sample("", (0,), (0,), 0.0, ""),)
_IDLE = pack(_NOBODY)[0]
"""What a rank computes for the others' sake; every vocabulary has a token 0."""
SHOWN = 20
"""So many turns are named where an update cannot be taken."""


class NotFiniteError(UserError):
    """An update whose gradient is no number; it was not taken."""


def learned(metrics: Mapping[str, float]) -> bool:
    """Whether an update with these metrics had anything to learn from."""
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
        device: torch.device | None = None,
    ) -> None:
        """Train every parameter of `model` that requires a gradient; `total_updates` is for schedules.

        With a `lane` it computes in its turn only, and lets others compute first between two layers. Several `ranks`
        share the work and, on `device` of each, the weights; each of them has to be given the same samples.
        """
        self.model = model
        self.config = config
        self.ranks = ranks
        self.fewest_packs = ranks.count
        """What would fill fewer packs is cut into smaller ones, so that no rank is idle."""
        if config.train.piece_tokens is not None and (config.train.no_packing or ranks.count > 1):
            other = "--no-packing" if config.train.no_packing else "several ranks"
            raise UserError(f"--piece-tokens: not with {other}; leave one of them out.")
        if config.train.checkpoint_layers:
            recompute_layers(model)
        here = next(model.parameters()).device
        whole = shard(model, ranks, device or here) if ranks.count > 1 else None
        self.trained: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.reader = make_reader(
            model, packing=not config.train.no_packing, pass_by=None if lane is None else lane.pass_by, whole=whole
        )
        if config.train.piece_tokens is not None and not self.reader.fused_head:
            raise UserError("--piece-tokens: not with a head that is more than one matrix; leave it out.")
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
        """Start anew from these weights: a fresh optimizer, no update taken."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(weights[name])
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        self.running = RunningBaseline()
        self.update = 0

    def hear_probe(self, found: Mapping[str, float]) -> None:
        """With `--distill auto`, distil in the next update only where the metrics of its fresh answers say so."""
        if self.config.algorithm.distill == "auto":
            self.distill_weight = WEIGHT * found.get("complaints_help", 0.0)

    def step(self, samples: Sequence[Sample], fresh: Sequence[Sample] = ()) -> dict[str, float]:
        """One update over `samples`; returns its metrics (`rl.metrics.METRICS`).

        Samples that are too stale are left out. Groups without variance carry no gradient and are skipped
        before any forward pass, but for those samples of them that have a teacher; when none is left the weights
        stay as they are. `fresh` answers, whose rewards are advantages already, are a second term beside the first,
        averaged over its own tokens, and what people wanted to be answered a third. Raises NotFiniteError, and leaves
        all as it was, where the gradient is no number.
        """
        seconds = -time.perf_counter()
        running = self.running
        with self._lane:
            metrics = self.gradient(samples)
            if fresh:
                parts = self._gradients(fresh, torch.tensor([s.reward for s in fresh]), metrics["eps_high"])
                metrics |= {f"fresh_{name}": value for name, value in merge(parts).items()}
            if learned(metrics):
                clipped = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.config.train.max_grad_norm)
                norm = whole_tensor(clipped).item()
                if not isfinite(norm):
                    self.optimizer.zero_grad(set_to_none=True)
                    self.running = running
                    raise NotFiniteError(_not_finite(samples, self.update + 1))
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                metrics["grad_norm"] = norm
        self.update += 1
        seconds += time.perf_counter()
        metrics |= {"learning_rate": self.config.train.learning_rate, "seconds": seconds}
        metrics["tokens_per_second"] = metrics.get("tokens", 0.0) / seconds
        return metrics

    def gradient(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Add the gradient of the update over `samples` to the trained parameters, and take no step.

        Returns the metrics so far; `tokens` is among them when there was something to learn from.
        """
        algorithm = self.config.algorithm
        self.advantages = {}
        eps_high = eps_high_at(
            self.update, self.total_updates, algorithm.eps_high, algorithm.eps_high_end, algorithm.eps_high_schedule
        )
        fresh = [s for s in samples if self._staleness(s) <= algorithm.max_staleness]
        metrics = self._describe(fresh) | {"eps_high": eps_high}
        if fresh:
            advantages, skipped, penalty = self._advantages(fresh)
            self.advantages = dict(zip((s.id for s in fresh), advantages.tolist(), strict=True))
            keep = [i for i, out in enumerate(skipped.tolist()) if not out or self._is_taught(fresh[i])]
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
            for packed in self.packs(samples) if samples else ():
                logprobs, _ = self._chosen(packed, samples)
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
        a = self.config.algorithm
        counted = torch.ones(len(samples), dtype=torch.bool) if counted is None else counted
        lengths = torch.tensor([len(s.answer_ids) for s in samples])
        total = int(lengths[counted].sum() if a.aggregation == "token" else counted.sum())
        taught = sum(len(s.answer_ids) for s in samples if self._is_taught(s))
        packs = self.packs(samples)
        parts: list[tuple[int, dict[str, float]]] = []
        with fast_frozen_linears(self._frozen):
            for dealt in deal([len(packed.ids) for packed in packs], self.ranks.count):
                lessons = max(len(self.packs(self._pupils(packs[i], samples))) for i in dealt if i is not None)
                number = dealt[self.ranks.number]
                if number is None:
                    self._keep_step(lessons + (a.beta != 0))
                    continue
                packed = packs[number]
                ref = None
                if a.beta != 0:
                    with adapter_off(self.model), torch.no_grad():
                        ref, _ = self._chosen(packed, samples)
                pieces = self._pieces(packed, samples)
                if pieces is None:
                    new, entropy, *likely = self.reader.inside(partial(self._student, packed, samples))
                else:
                    new, entropy, *likely = self._student_in_pieces(pieces, packed, samples)
                loss, metrics = self._loss(packed, samples, new, entropy, ref, advantages, eps_high, total, counted)
                lesson, found = self._lesson(packed, samples, likely, eps_high, taught, lessons)
                if lesson is not None:
                    loss = loss + self.distill_weight * lesson
                    metrics |= found | {"loss": loss.item()}
                loss.backward()
                if pieces is not None:
                    self._pieces_back(pieces, packed, samples, new, likely)
                parts.append((number, metrics))
                del new, likely, lesson, loss, pieces  # before the next pack needs the memory
        return self._in_order(parts)

    def _in_order(self, parts: Sequence[tuple[int, dict[str, float]]]) -> list[dict[str, float]]:
        """The metrics of all ranks' packs, in the order of their numbers, whoever had them."""
        return [metrics for _, metrics in sorted(self.ranks.gather(parts), key=lambda part: part[0])]

    def _keep_step(self, silent: int = 0) -> None:
        """The passes of a rank that has no pack, `silent` ones without gradient, then one with.

        The others gather every layer's weights from all ranks.
        """

        def idle() -> Tensor:
            return self._chosen(_IDLE, _NOBODY)[0]

        with adapter_off(self.model), torch.no_grad():
            for _ in range(silent):
                idle()
        (0 * idle().sum()).backward()

    def _demonstrate(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Add the gradient of the answers that were wanted in place of these; returns its metrics, none without one.

        Each of them counts as much as a real turn whose advantage is the weight.
        """
        shown = [
            replace(s, answer_ids=s.wanted_ids, rollout_logprobs=None, teacher_prompt_ids=None)
            for s in samples
            if s.wanted_ids
        ]
        weight = self.config.algorithm.wanted * len(shown) / len(samples)
        packs = self.packs(shown) if weight else []
        total = sum(len(s.answer_ids) for s in shown)
        numbered: list[tuple[int, dict[str, float]]] = []
        with fast_frozen_linears(self._frozen):
            for dealt in deal([len(packed.ids) for packed in packs], self.ranks.count):
                number = dealt[self.ranks.number]
                if number is None:
                    self._keep_step()
                    continue
                pieces = self._pieces(packs[number], shown)
                if pieces is None:
                    new, _ = self._chosen(packs[number], shown)
                else:
                    new, _ = self._student_in_pieces(pieces, packs[number], shown)
                loss, metrics = demonstration_loss(new[None], torch.ones_like(new[None]), total=total)
                (weight * loss).backward()
                if pieces is not None:
                    self._pieces_back(pieces, packs[number], shown, new, ())
                numbered.append((number, metrics))
                del new, loss, pieces  # before the next pack needs the memory
        parts = self._in_order(numbered)
        return merge(parts) | ({"wanted_answers": float(len(shown))} if parts else {})

    def _read(self, packed: Pack, samples: Sequence[Sample]) -> Forward:
        """One forward pass over a pack, each answer at the temperature that its sample was sampled with."""
        packed = packed.to(next(self.model.parameters()).device)
        return self.reader.read(packed, _temperatures(packed, samples))

    def _chosen(self, packed: Pack, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Log-probs (K,) of a pack's answer tokens, and the entropy (K,)."""
        pieces = None if torch.is_grad_enabled() else self._pieces(packed, samples)
        if pieces is not None:
            logprobs, entropy = pieces.forward(lambda done, _: done.chosen())
            return logprobs, entropy
        return self.reader.inside(lambda: self._read(packed, samples).chosen())

    def _student(self, packed: Pack, samples: Sequence[Sample]) -> tuple[Tensor, ...]:
        """The same with a gradient; then, where some have a teacher, (N, K) of what is likely there, and its ids."""
        done = self._read(packed, samples)
        rows = self._taught_rows(packed, samples)
        if rows is None:
            return done.chosen()
        return *done.chosen(), *done.several(CANDIDATES, rows.to(done.target.device))

    def _pieces(self, packed: Pack, samples: Sequence[Sample]) -> Pieces | None:
        """The pieces of a pack that is too long for one pass."""
        tokens = self.config.train.piece_tokens
        if tokens is None or len(packed.ids) <= tokens:
            return None
        packed = packed.to(next(self.model.parameters()).device)
        return Pieces(self.reader, packed, _temperatures(packed, samples), tokens)

    def _student_in_pieces(self, pieces: Pieces, packed: Pack, samples: Sequence[Sample]) -> tuple[Tensor, ...]:
        """As `_student`, but whose gradient stops there: `_pieces_back` takes it on."""
        rows = self._taught_rows(packed, samples)
        if rows is None:
            new, entropy = pieces.forward(lambda done, _: done.chosen())
            return new.requires_grad_(), entropy
        new, entropy, likely, ids = pieces.forward(lambda done, _: (*done.chosen(), *done.several(CANDIDATES)))
        return new.requires_grad_(), entropy, likely[rows].requires_grad_(), ids[rows]

    def _pieces_back(
        self, pieces: Pieces, packed: Pack, samples: Sequence[Sample], new: Tensor, likely: Sequence[Tensor]
    ) -> None:
        """The rest of the way back from the gradient for what `_student_in_pieces` gave."""
        slopes = [torch.zeros_like(new) if new.grad is None else new.grad]
        rows = self._taught_rows(packed, samples)
        if rows is None:
            pieces.backward(lambda done, _: (done.chosen()[0],), slopes)
            return
        slope, ids = (torch.zeros(len(new), one.shape[1], dtype=one.dtype, device=new.device) for one in likely)
        slope[rows], ids[rows] = likely[0].grad if likely[0].grad is not None else 0.0, likely[1]
        pieces.backward(lambda done, at: (done.chosen()[0], done.several(ids[at])[0]), [*slopes, slope])

    def _taught_rows(self, packed: Pack, samples: Sequence[Sample]) -> Tensor | None:
        """Which of a pack's answer tokens belong to samples that have a teacher; None where none has."""
        taught = [i for i in packed.samples if self._is_taught(samples[i])]
        places = torch.arange(len(packed.target)).split(list(packed.lengths))
        return torch.cat([places[packed.samples.index(i)] for i in taught]) if taught else None

    def _is_taught(self, sample: Sample) -> bool:
        return self.distill_weight > 0 and sample.teacher_prompt_ids is not None

    def _pupils(self, packed: Pack, samples: Sequence[Sample]) -> list[Sample]:
        """The samples of a pack that have a teacher, as it reads them."""
        taught = (samples[i] for i in packed.samples if self._is_taught(samples[i]))
        return [replace(s, prompt_ids=s.teacher_prompt_ids or ()) for s in taught]

    def _lesson(
        self,
        packed: Pack,
        samples: Sequence[Sample],
        likely: Sequence[Tensor],
        eps_high: float,
        total: int,
        lessons: int,
    ) -> tuple[Tensor | None, dict[str, float]]:
        """The loss of a pack's answers that have a teacher, which is the bare model on a prompt that tells more.

        Old log-probs are those of this pass, as with `old="recomputed"`: nobody captured those of tokens that were
        not sampled. Only the log-probs of the candidates outlive a chunk of the loss head. Some rank needs `lessons`
        passes of the teacher: who needs fewer keeps step.
        """
        pupils = self._pupils(packed, samples)
        pieces = self.packs(pupils)
        mine = torch.arange(sum(len(s.answer_ids) for s in pupils)).split([len(s.answer_ids) for s in pupils])
        new, ids = likely or (None, None)
        teacher: Tensor | None = None if new is None else torch.empty_like(new)
        with adapter_off(self.model), torch.no_grad():
            for piece in pieces:
                assert teacher is not None
                assert ids is not None
                at = torch.cat([mine[i] for i in piece.samples]).to(ids.device)
                teacher[at], _ = self.reader.inside(lambda p=piece, at=at: self._read(p, pupils).several(ids[at]))
            for _ in range(lessons - len(pieces)):
                self._chosen(_IDLE, _NOBODY)
        if new is None or teacher is None:
            return None, {}
        a = self.config.algorithm
        return distill_loss(
            new[None],
            new[None],
            teacher[None],
            torch.ones_like(new[None, :, 0]),
            eps_low=a.eps_low,
            eps_high=eps_high,
            total=total,
        )

    def packs(self, samples: Sequence[Sample]) -> list[Pack]:
        """Cut samples into packs of one pass each; without packing every sample is one."""
        train = self.config.train
        if not samples:
            return []
        if train.no_packing:
            return [replace(pack([s])[0], samples=(i,)) for i, s in enumerate(samples)]
        packs = pack(samples, train.microbatch_tokens)
        if len(packs) < self.fewest_packs:
            packs = pack(samples, -(-sum(len(one.ids) for one in packs) // self.fewest_packs))
        return packs

    def _loss(
        self,
        packed: Pack,
        samples: Sequence[Sample],
        new_flat: Tensor,
        entropy: Tensor,
        ref_flat: Tensor | None,
        advantages: Tensor,
        eps_high: float,
        total: int,
        counted: Tensor,
    ) -> tuple[Tensor, dict[str, float]]:
        a = self.config.algorithm
        mine = [samples[i] for i in packed.samples]

        def padded(flat: Tensor) -> Tensor:  # (K,) -> (B, T)
            return pad_sequence(packed.rows(flat), batch_first=True)

        ref = None if ref_flat is None else padded(ref_flat)
        new = padded(new_flat)
        old, weights = _old(new.detach(), [s.rollout_logprobs for s in mine], a)
        return grpo_tcr_loss(
            new,
            old,
            ref,
            advantages[list(packed.samples)].to(new),
            padded(torch.ones_like(new_flat)) * counted[list(packed.samples), None].to(new),
            eps_low=a.eps_low,
            eps_high=eps_high,
            beta=a.beta,
            kl=a.kl,
            aggregation=a.aggregation,
            dual_clip=a.dual_clip,
            weights=weights,
            total=total,
            entropy=padded(entropy),
        )


def _old(
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


def _not_finite(samples: Sequence[Sample], number: int) -> str:
    """What to do about an update whose gradient is no number."""
    names = ", ".join(sample.id for sample in samples[:SHOWN]) + (", …" if len(samples) > SHOWN else "")
    return (
        f"Update {number} is not taken: its gradient is not finite. Look at the {len(samples)} turns that it was to be "
        f"made of ({names}); if there is nothing odd about them, lower --learning-rate or leave out half precision."
    )


def _temperatures(packed: Pack, samples: Sequence[Sample]) -> Tensor:
    """(K,)."""
    rows = [torch.full((len(samples[i].answer_ids),), samples[i].temperature) for i in packed.samples]
    return torch.cat(rows).to(packed.ids.device)


def _count_groups(samples: Sequence[Sample], skipped: Tensor, algorithm: AlgorithmConfig) -> int:
    if algorithm.group == "batch":
        return int(bool(skipped.any()))
    return len({s.group for s, out in zip(samples, skipped.tolist(), strict=True) if out})
