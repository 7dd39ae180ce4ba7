"""The smallest policy that can talk: a table of logits over a few answers to a few prompts, whose users are known.

    verdicts on real turns        -> advantages in the batch                  -> loss +
    predictions on fresh answers  -> advantages by prompt, times K and trust  -> loss   -> a step of a set length

Only the policy is this small: advantages, trust and loss are those of real models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from talktune.rl.advantage import compute_grpo_advantages, pooled_advantages
from talktune.rl.loss import grpo_tcr_loss
from talktune.rl.trust import earned_trust

TURNS, FRESH = 16, 6
"""n, judged turns of one update; K, fresh answers to each of their prompts."""
STEP = 0.5
"""Length of a step in logits, times the root of the prompts; the same for every gradient: the direction counts."""
_TINY = 1e-12
WINDOW = 64
"""Judged turns, the latest ones, by which a prediction is trusted."""


@dataclass(frozen=True)
class World:
    """What is asked, what can be answered, and what the user thinks of it."""

    opinions: Tensor
    """(C, A): the mean verdict on each answer to each prompt, −1 … 1; every verdict is +1 or −1."""
    start: Tensor
    """(C, A) logits of the first policy."""


@dataclass(frozen=True)
class Judged:
    """Real turns, oldest first; every field is (T,)."""

    prompts: Tensor
    answers: Tensor
    verdicts: Tensor
    foretold: Tensor
    """What was predicted before the verdict was known; NaN where nothing was."""


Predictor = Callable[[Judged], Tensor | None]
"""From the turns so far to a predicted reward of every answer (C, A), or None where nothing can be said yet."""


@dataclass(frozen=True)
class Arm:
    """One way to learn."""

    predictor: Predictor | None = None
    """What rewards the fresh answers; None goes without them."""
    trusted: bool = True
    """Fresh answers weigh by the trust that the predictor earned; False believes it fully."""
    beta: float = 0.0
    """Weight of the KL to the first policy."""
    within: bool = False
    """Trust goes by how much better a turn was foretold to be than the policy's other answers to its prompt."""


@dataclass(frozen=True)
class Curve:
    """What one run recorded, before the first update and after each: what the user thinks, what is predicted, trust."""

    opinion: list[float]
    predicted: list[float]
    """Under the policy as it is; NaN where nothing is predicted."""
    trust: list[float]
    """Of each update."""


def run(world: World, arm: Arm, updates: int, seed: int) -> Curve:
    """Learn for some updates. The seed decides all that is drawn."""
    rng = torch.Generator().manual_seed(seed)
    logits = world.start.clone().requires_grad_()
    nothing = torch.zeros(0, dtype=torch.float64)
    judged = Judged(nothing.long(), nothing.long(), nothing, nothing)
    table = arm.predictor(judged) if arm.predictor else None
    curve = Curve([mean_of(world.opinions, logits)], [mean_of(table, logits)], [])
    for _ in range(updates):
        prompts = torch.randint(len(logits), (TURNS,), generator=rng)
        judged = _judged(judged, world, logits, prompts, _scores(table, logits, within=arm.within), rng)
        table = arm.predictor(judged) if arm.predictor else None
        trust = _trust(judged) if arm.trusted else float(table is not None)
        answers, verdicts = judged.answers[-TURNS:], judged.verdicts[-TURNS:]
        loss = term(logits, world.start, prompts, answers, compute_grpo_advantages(verdicts), arm.beta)
        if table is not None and trust > 0:
            asked = prompts.repeat_interleave(FRESH)
            drawn = draw(logits, asked, rng)
            groups = torch.arange(TURNS).repeat_interleave(FRESH)
            advantages = trust * FRESH * pooled_advantages(table[asked, drawn], groups)
            loss = loss + term(logits, world.start, asked, drawn, advantages, arm.beta)
        [gradient] = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= STEP * sqrt(len(logits)) * gradient / gradient.norm().clamp(min=_TINY)
        curve.opinion.append(mean_of(world.opinions, logits))
        curve.predicted.append(mean_of(table, logits))
        curve.trust.append(trust)
    return curve


def term(logits: Tensor, start: Tensor, prompts: Tensor, answers: Tensor, advantages: Tensor, beta: float) -> Tensor:
    """The loss over answers (B,) to prompts (B,) that the policy gave as it is."""
    new, ref = (table.log_softmax(-1)[prompts, answers][:, None] for table in (logits, start))
    return grpo_tcr_loss(new, new.detach(), ref, advantages, torch.ones_like(new), beta=beta)[0]


def draw(logits: Tensor, prompts: Tensor, rng: torch.Generator) -> Tensor:
    """An answer (B,) of the policy to each of prompts (B,)."""
    return torch.multinomial(logits.detach().softmax(-1)[prompts], 1, generator=rng)[:, 0]


def judge(world: World, prompts: Tensor, answers: Tensor, rng: torch.Generator) -> Tensor:
    """Verdicts (B,), each +1 or −1, whose mean is the user's opinion."""
    chance = (1 + world.opinions[prompts, answers]) / 2
    return 2.0 * torch.bernoulli(chance, generator=rng) - 1


def mean_of(table: Tensor | None, logits: Tensor) -> float:
    """The mean of what a table (C, A) says of the policy's answers, each prompt asked alike; NaN without a table."""
    return float("nan") if table is None else (logits.detach().softmax(-1) * table).sum(1).mean().item()


def _scores(table: Tensor | None, logits: Tensor, *, within: bool) -> Tensor:
    """What is foretold of each answer (C, A), NaN without a table; `within`, less the policy's mean at its prompt."""
    if table is None:
        return torch.full_like(logits, torch.nan)
    return table - (logits.detach().softmax(-1) * table).sum(1, keepdim=True) if within else table


def _judged(
    judged: Judged, world: World, logits: Tensor, prompts: Tensor, scores: Tensor, rng: torch.Generator
) -> Judged:
    """One more batch of judged turns, with the scores that the answers had before."""
    answers = draw(logits, prompts, rng)
    foretold = scores.detach()[prompts, answers]
    verdicts = judge(world, prompts, answers, rng)
    return Judged(
        torch.cat([judged.prompts, prompts]),
        torch.cat([judged.answers, answers]),
        torch.cat([judged.verdicts, verdicts]),
        torch.cat([judged.foretold, foretold]),
    )


def _trust(judged: Judged) -> float:
    scores, verdicts = judged.foretold[-WINDOW:], judged.verdicts[-WINDOW:]
    known = ~scores.isnan()
    return earned_trust(scores[known], verdicts[known].long() + 1)
