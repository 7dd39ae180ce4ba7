"""`overlong`: the length penalty over 0 … 1300 tokens, and how hard each shape pulls an answer back."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes

from talktune.config import LabConfig
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import finish
from talktune.report.plots import BLUE, GREEN, ORANGE, VERMILLION, new_figure
from talktune.rl.advantage import compute_grpo_advantages
from talktune.rl.reward import overlong_reward

Shape = Literal["linear", "quadratic"]

SHAPES: tuple[Shape, ...] = ("linear", "quadratic")
L_MAX = 1000
L_CACHE = 200
LONGEST = 1300
SIGMA = 50.0
"""Standard deviation in tokens of the answers of one policy."""
CENTRES = (750, 800, 850, 900, 950, 1000, 1050, 1100)
GROUPS = 500
SIZE = 8

_LOOK = {"linear": (BLUE, "-"), "quadratic": (VERMILLION, "--")}


@dataclass(frozen=True, slots=True)
class Pull:
    """What a policy whose lengths scatter around `centre` gets from one shape of the penalty."""

    shape: Shape
    centre: float
    """Tokens."""
    penalty: float
    """Mean penalty of its answers (reward)."""
    pull_per_token: float
    """How much the mean penalty shrinks for each token that the centre moves down (reward per token)."""


def pull_at(shape: Shape, centre: float) -> Pull:
    """E(c) = Σ_n p_c(n) · penalty(n) and dE/dc by autograd, p_c a normal of deviation SIGMA over whole lengths."""
    c = torch.tensor(float(centre), dtype=torch.float64, requires_grad=True)
    lengths = torch.arange(0, 2 * LONGEST, dtype=torch.float64)
    chance = torch.softmax(-((lengths - c) ** 2) / (2 * SIGMA**2), dim=0)
    mean = (chance * overlong_reward(lengths, L_MAX, L_CACHE, shape)).sum()
    mean.backward()
    return Pull(shape, centre, mean.item(), -float(c.grad or 0.0))


def right_groups(config: LabConfig) -> dict[str, float]:
    """Advantages of GROUPS groups of right answers (+1) of 800 … 1000 tokens, under both shapes.

    Returns the correlation of the two, and for each shape the mean advantage of the group's longest and
    shortest answer.
    """
    rng = np.random.default_rng(config.seed)
    lengths = torch.from_numpy(rng.integers(L_MAX - L_CACHE, L_MAX + 1, size=GROUPS * SIZE)).double()
    labels = torch.arange(GROUPS).repeat_interleave(SIZE)
    order = lengths.reshape(GROUPS, SIZE)
    found: dict[str, float] = {}
    both: list[torch.Tensor] = []
    for shape in SHAPES:
        rewards = 1 + overlong_reward(lengths, L_MAX, L_CACHE, shape)
        advantages = compute_grpo_advantages(rewards, labels).reshape(GROUPS, SIZE)
        both.append(advantages.reshape(-1))
        found[f"{shape}_longest"] = advantages.gather(1, order.argmax(1, keepdim=True)).mean().item()
        found[f"{shape}_shortest"] = advantages.gather(1, order.argmin(1, keepdim=True)).mean().item()
    return found | {"correlation": torch.corrcoef(torch.stack(both))[0, 1].item()}


def draw_penalty(axes: Axes) -> None:
    """The penalty over the length in tokens, both shapes, the three zones shaded and named."""
    start = L_MAX - L_CACHE
    zones = ((0, start, GREEN, "safe"), (start, L_MAX, ORANGE, "cache"), (L_MAX, LONGEST, VERMILLION, "too long"))
    for low, high, colour, name in zones:
        axes.axvspan(low, high, color=colour, alpha=0.13, linewidth=0)
        axes.text((low + high) / 2, 0.06, name, ha="center", va="bottom", fontsize=8)
    lengths = list(range(LONGEST + 1))
    for shape in SHAPES:
        colour, style = _LOOK[shape]
        penalties = [overlong_reward(n, L_MAX, L_CACHE, shape) for n in lengths]
        axes.plot(lengths, penalties, style, color=colour, linewidth=1.8, label=shape)
    axes.set_xlim(0, LONGEST)
    axes.set_ylim(-1.1, 0.18)
    finish(axes, title="Penalty on long answers", x="answer length (tokens)", y="penalty (reward)", legend="lower left")


def _draw_pull(axes: Axes) -> None:
    centres = list(range(600, LONGEST + 1, 10))
    for shape in SHAPES:
        colour, style = _LOOK[shape]
        pulls = [1000 * pull_at(shape, centre).pull_per_token for centre in centres]
        axes.plot(centres, pulls, style, color=colour, linewidth=1.8, label=shape)
    axes.axvspan(L_MAX - L_CACHE, L_MAX, color=ORANGE, alpha=0.13, linewidth=0)
    axes.set_ylim(bottom=0)
    x = f"mean length of the policy (tokens, deviation {SIGMA:.0f})"
    finish(axes, title="Pull towards shorter answers", x=x, y="pull (0.001 reward per token)", legend="upper left")


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    say("overlong: penalties, and their pull by autograd")
    figure = new_figure()
    left, right = figure.subplots(1, 2)
    draw_penalty(left)
    _draw_pull(right)
    pulls = {(shape, centre): pull_at(shape, centre) for centre in CENTRES for shape in SHAPES}
    groups = right_groups(config)
    rows: list[list[object]] = []
    for n in CENTRES:
        line, square = pulls["linear", n], pulls["quadratic", n]
        exact = [f"{overlong_reward(n, L_MAX, L_CACHE, shape):.4f}" for shape in SHAPES]
        rows.append([n, *exact, f"{1000 * line.pull_per_token:.2f}", f"{1000 * square.pull_per_token:.2f}"])
    early = pulls["quadratic", 800].pull_per_token / pulls["linear", 800].pull_per_token
    late = pulls["quadratic", 950].pull_per_token / pulls["linear", 950].pull_per_token
    numbers: dict[str, Any] = {
        "L_max": L_MAX,
        "L_cache": L_CACHE,
        "sigma": SIGMA,
        "penalties": {
            shape: [overlong_reward(n, L_MAX, L_CACHE, shape) for n in range(LONGEST + 1)] for shape in SHAPES
        },
        "pulls": [asdict(pull) for pull in pulls.values()],
        "right_groups": groups,
    }
    return Finding(
        columns=["length (tokens)", "penalty: linear", "quadratic", "pull (0.001/token): linear", "quadratic"],
        rows=rows,
        numbers=numbers,
        figure=figure,
        conclusion=(
            "Quadratic against linear: a policy around 800 tokens, at the edge of the zone, is pulled back "
            f"{early:.2f} times as hard, one around 950 tokens {late:.2f} times; far beyond {L_MAX} tokens neither "
            "pulls. In groups of right answers from the zone, advantages under the two correlate at "
            f"{groups['correlation']:.2f}, because they are divided by the group's spread: the longest answer gets "
            f"{groups['linear_longest']:+.2f} and {groups['quadratic_longest']:+.2f}, the shortest "
            f"{groups['linear_shortest']:+.2f} and {groups['quadratic_shortest']:+.2f}."
        ),
    )


EXPERIMENT = Experiment(
    title="Long answers cost, softly",
    idea=(
        "An answer that is cut off at the length limit is punished for what it never got to say, and the policy "
        "cannot tell why. A soft penalty starts earlier, in a zone before the limit, so that the policy feels the "
        "limit coming. Linear grows evenly; quadratic is mild at first and steep at the end."
    ),
    formula=(
        "penalty(n) = 0 for n ≤ L_max − L_cache;  −f in the zone (quadratic: −f²), f = (n − (L_max − L_cache)) / "
        "L_cache;  −1 for n > L_max.  L_max = 1000, L_cache = 200"
    ),
    look_at=(
        "Left: the two shapes meet at both ends of the zone. Right: how much reward a policy wins for each token that "
        "its mean length falls. Beyond the limit the pull dies out with either shape: a policy that is already far "
        "too long is not called back."
    ),
    source="Soft overlong punishment of DAPO: https://arxiv.org/abs/2503.14476; TCR: https://arxiv.org/abs/2510.11701",
    run=_run,
)
