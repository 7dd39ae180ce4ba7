"""How well the gradient of one update points where the user wants: in closed form, and simulated with the real loss.

    alignment of an estimate ĝ of the gradient g:  q = (E ĝ·g)² / (|g|² E|ĝ|²), 0 … 1

With the best step length, a step along ĝ gains q times what one along g would: f(x + tĝ) ≥ f(x) + t ĝ·g − t² L|ĝ|² / 2.
For a policy that gives all answers alike, with prompts drawn at random, q has a closed form: `alignment`.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from talktune.lab.bandit import World, judge
from talktune.rl.advantage import compute_grpo_advantages
from talktune.rl.loss import grpo_tcr_loss


@dataclass(frozen=True)
class Setting:
    """What one update is made of."""

    prompts: int
    """C, prompts that are asked alike."""
    answers: int
    """A, answers to each that the policy gives alike."""
    turns: int
    """n, judged turns of the update."""
    fresh: int
    """K >= 2, fresh answers to the prompt of each turn."""
    noise: float
    """v = Var(verdict) / variance of the opinions on the answers to one prompt, the same for each prompt."""


def verdict_energy(turns: float, setting: Setting) -> float:
    """R = E|ĝ|² / |g|² of n judged turns, A = r − mean: 1 + (C (A − 1) v − (n − 2) / n) / (n − 1).

    ĝ is the sample covariance of r and ∇ log π, whose variance is exact (μ22 and the squares of μ11, μ20 μ02) since
    |∇ log π|² = (A − 1) / A always.
    """
    dimensions = setting.prompts * (setting.answers - 1)
    return 1 + (dimensions * setting.noise - (turns - 2) / turns) / (turns - 1)


def fresh_energy(setting: Setting) -> float:
    """F = E|ĝ|² / |E ĝ|² of K fresh answers to each of n prompts, A = r − mean of the prompt.

    F = κ + C (A − 1 − (K − 2) / K) / (n (K − 1)), κ = 1 + (C − 1) / n: K cannot mend that n prompts are not all.
    """
    k = setting.fresh
    rest = setting.prompts * (setting.answers - 1 - (k - 2) / k) / (setting.turns * (k - 1))
    return same_prompts(setting) + rest


def same_prompts(setting: Setting) -> float:
    """κ = 1 + (C − 1) / n: both terms of an update see the same n prompts."""
    return 1 + (setting.prompts - 1) / setting.turns


def alignment(setting: Setting, skill: float, weight: float) -> float:
    """q = (1 + wρ)² / (R + 2wρκ + w²F) of judged turns and fresh answers whose reward has correlation ρ with opinion.

    w is the length of the fresh answers' expected gradient over that of the judged turns.
    """
    both = 2 * weight * skill * same_prompts(setting)
    energy = verdict_energy(setting.turns, setting) + both + weight**2 * fresh_energy(setting)
    return (1 + weight * skill) ** 2 / energy


def best_weight(setting: Setting, skill: float) -> float:
    """w = ρ (R − κ) / (F − ρ²κ), where q is largest: none without skill, and at first in proportion to it."""
    kappa = same_prompts(setting)
    return skill * (verdict_energy(setting.turns, setting) - kappa) / (fresh_energy(setting) - skill**2 * kappa)


def full_weight(setting: Setting) -> float:
    """w at which each fresh answer counts as much as a judged turn: K times, both scaled by their rewards' spread."""
    n, k = setting.turns, setting.fresh
    return k * sqrt((k - 1) / k) * n / (n - 1) * sqrt(setting.noise)


def turns_of(q: float, setting: Setting) -> float:
    """n of judged turns alone whose q is this one: the root of R(n) = 1 / q."""
    a = 1 / q - 1
    b = a + setting.prompts * (setting.answers - 1) * setting.noise - 1
    return (b + sqrt(b * b + 8 * a)) / (2 * a)


@dataclass(frozen=True)
class Gradients:
    """Simulated updates; each term is scaled so that its expectation has length 1."""

    wanted: Tensor
    """(P,): the direction of g."""
    judged: Tensor
    """(draws, P): of judged turns."""
    fresh: Tensor
    """(draws, P): of fresh answers."""

    def alignment(self, weight: float) -> tuple[float, float]:
        """q of judged + w fresh, and its standard error (delta method)."""
        both = self.judged + weight * self.fresh
        x, y = both @ self.wanted, both.square().sum(1)
        q = (x.mean() ** 2 / y.mean()).item()
        influence = 2 * x / x.mean() - y / y.mean()
        return q, q * influence.std().item() / sqrt(len(x))


def simulate(world: World, rewards: Tensor, setting: Setting, draws: int, seed: int) -> Gradients:
    """Gradients of `draws` updates of the uniform policy; `rewards` (C, A): mean 0, variance 1 in each prompt."""
    rng = torch.Generator().manual_seed(seed)
    n, k, (prompts, answers) = setting.turns, setting.fresh, world.opinions.shape
    asked = torch.randint(prompts, (draws * n,), generator=rng)
    given = torch.randint(answers, asked.shape, generator=rng)
    verdicts = judge(world, asked, given, rng)
    again = asked.repeat_interleave(k)
    drawn = torch.randint(answers, again.shape, generator=rng)
    update, turn = torch.arange(draws).repeat_interleave(n), torch.arange(draws * n).repeat_interleave(k)
    judged = _gradients(world, draws, update, asked, given, verdicts, update)
    fresh = _gradients(world, draws, update.repeat_interleave(k), again, drawn, rewards[again, drawn], turn)
    within = world.opinions - world.opinions.mean(1, keepdim=True)
    length = (prompts * answers) ** -0.5  # of the expectation where rewards have variance 1
    spread = within.square().mean().sqrt()
    return Gradients((within / within.norm()).flatten(), judged / (length * spread), fresh / length)


def _gradients(
    world: World, draws: int, update: Tensor, prompts: Tensor, answers: Tensor, rewards: Tensor, groups: Tensor
) -> Tensor:
    """(draws, C · A): of the loss of each update over its answers, uphill."""
    logits = torch.zeros(draws, *world.opinions.shape, dtype=torch.float64, requires_grad=True)
    advantages = compute_grpo_advantages(rewards, groups, scale="none", baseline="leave-one-out")
    new = logits.log_softmax(-1)[update, prompts, answers][:, None]
    total = len(update) // draws  # so that each update is a mean of its own answers
    loss, _ = grpo_tcr_loss(new, new.detach(), None, advantages, torch.ones_like(new), total=total)
    return -torch.autograd.grad(loss, logits)[0].flatten(1)
