"""`clip`: symmetric clipping, clip-higher and next to none: the surrogate, and what a rare token gains."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from matplotlib.axes import Axes

from talktune.config import LabConfig
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import finish
from talktune.report.plots import BLUE, GREY, VERMILLION, new_figure
from talktune.rl.loss import grpo_tcr_loss

EPS_LOW = 0.2
EPS_HIGH = (0.2, 0.28, 10.0)
START = 0.01
"""Probability of the rare good token under the policy that was sampled from."""
STEPS = 60
RATE = 10.0
TOKENS = 8
"""Words of the toy policy; the last one is the rare good one."""

_LOOK = {
    0.2: (GREY, "-", "symmetric, ε_high 0.2"),
    0.28: (BLUE, "--", "clip-higher, 0.28"),
    10.0: (VERMILLION, ":", "10"),
}


@dataclass(frozen=True, slots=True)
class Growth:
    """A rare good token over STEPS gradient steps on one and the same sample."""

    eps_high: float
    probability: list[float]
    """Before the first step and after each."""
    stopped_at: int | None
    """The first step whose gradient was zero, because the ratio was above 1 + ε_high."""


def surrogate_and_gradient(eps_high: float, advantage: float, ratios: torch.Tensor) -> tuple[list[float], list[float]]:
    """s(ρ) and ds/d log π at each ratio (N,), through the real loss by autograd: one token a sequence."""
    new = ratios.log()[:, None].requires_grad_()
    old = torch.zeros_like(new)
    advantages = torch.full((len(ratios),), advantage, dtype=new.dtype)
    each = [slice(i, i + 1) for i in range(len(ratios))]
    losses = [_loss(new[one], old[one], advantages[one], eps_high) for one in each]
    torch.stack(losses).sum().backward()
    assert new.grad is not None
    return [-loss.item() for loss in losses], (0.0 - new.grad[:, 0]).tolist()  # 0 − 0 is 0, −0 prints a sign


def grow(eps_high: float) -> Growth:
    """Plain gradient ascent on a softmax over TOKENS words, always on the same sample of the rare word, A = 1."""
    chances = torch.full((TOKENS,), (1 - START) / (TOKENS - 1), dtype=torch.float64)
    chances[-1] = START
    logits = chances.log().requires_grad_()
    old = chances[-1:].log()[None]
    probability, stopped = [START], None
    for step in range(1, STEPS + 1):
        new = torch.log_softmax(logits, 0)[-1:][None]
        [slope] = torch.autograd.grad(_loss(new, old, torch.ones(1), eps_high), logits)
        if stopped is None and not slope.any():
            stopped = step
        logits = (logits - 0.01 * RATE * slope).detach().requires_grad_()
        probability.append(torch.softmax(logits.detach(), 0)[-1].item())
    return Growth(eps_high, probability, stopped)


def _loss(new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, eps_high: float) -> torch.Tensor:
    mask = torch.ones_like(new)
    return grpo_tcr_loss(new, old, None, advantages, mask, eps_low=EPS_LOW, eps_high=eps_high)[0]


def draw_surrogate(axes: Axes, advantage: float) -> None:
    """The surrogate over the ratio for one advantage, all three ranges."""
    ratios = torch.linspace(0.5, 2.0, 301, dtype=torch.float64)
    for eps_high in EPS_HIGH:
        colour, style, name = _LOOK[eps_high]
        values, _ = surrogate_and_gradient(eps_high, advantage, ratios)
        axes.plot(ratios.tolist(), values, style, color=colour, linewidth=1.7, label=name)
    axes.axvline(1, color="black", linewidth=0.6)
    kind = "good" if advantage > 0 else "bad"
    finish(axes, title=f"Surrogate of a {kind} token", x="ratio ρ = new / old (1)", y="surrogate s (1)")


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    say("clip: gradients through the loss")
    figure = new_figure(width=9.6)
    good, bad, rare = figure.subplots(1, 3)
    draw_surrogate(good, 1.0)
    good.legend(loc="upper left", frameon=False, fontsize=8)
    draw_surrogate(bad, -1.0)
    grown = [grow(eps_high) for eps_high in EPS_HIGH]
    for growth in grown:
        colour, style, name = _LOOK[growth.eps_high]
        percent = [100 * p for p in growth.probability]
        rare.plot(range(STEPS + 1), percent, style, color=colour, linewidth=1.7, label=name)
    rare.set_yscale("log")
    finish(rare, title="A rare good token", x="gradient steps on one sample", y="its probability (%, log scale)")
    ratios = torch.tensor([0.7, 1.0, 1.25, 1.5, 2.0], dtype=torch.float64)
    slopes = {(e, a): surrogate_and_gradient(e, a, ratios)[1] for e in EPS_HIGH for a in (1.0, -1.0)}
    rows: list[list[object]] = []
    for growth in grown:
        end = growth.probability[-1]
        up = ", ".join(f"{value:.2f}" for value in slopes[growth.eps_high, 1.0])
        rows.append([growth.eps_high, up, f"{100 * end:.2f}", f"{end / START:.2f}", growth.stopped_at or "never"])
    symmetric, higher, open_ = grown
    return Finding(
        columns=[
            "ε_high",
            "gradient of a good token at ρ = 0.7, 1, 1.25, 1.5, 2",
            f"1 % token after {STEPS} steps (%)",
            "times as likely",
            "gradient zero from step",
        ],
        rows=rows,
        numbers={
            "growth": [asdict(growth) for growth in grown],
            "gradients": [
                {"eps_high": e, "advantage": a, "ratios": ratios.tolist(), "slopes": s} for (e, a), s in slopes.items()
            ],
        },
        figure=figure,
        conclusion=(
            f"On one sample, a token of 1 % can grow to {100 * symmetric.probability[-1]:.2f} % under symmetric "
            f"clipping and to {100 * higher.probability[-1]:.2f} % under clip-higher before its gradient is zero. With "
            f"ε_high = 10 it is at {100 * open_.probability[-1]:.1f} % after {STEPS} steps: one sample, right or "
            "misjudged, may take the policy over. A bad token's side is the same for all three."
        ),
    )


EXPERIMENT = Experiment(
    title="Clip-higher",
    idea=(
        "The ratio of new to old probability says how far a token has moved since it was sampled. Clipping stops the "
        "pull once it moved far enough. A symmetric range hurts rare tokens: 20 % more of 1 % is next to nothing. "
        "Clip-higher widens the upper side only."
    ),
    formula="s = min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high) A);  ds/d log π = ρA, or 0 where the clip binds",
    look_at=(
        "Left: a good token's surrogate goes flat at 1 + ε_high, and flat means no gradient. Middle: bad tokens are "
        "clipped below, alike in all three. Right: the same rare token under repeated steps; the plateau is the range."
    ),
    source="PPO's clip: https://arxiv.org/abs/1707.06347; clip-higher: DAPO, https://arxiv.org/abs/2503.14476",
    run=_run,
)
