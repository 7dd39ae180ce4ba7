"""`advantages`: rewards become advantages inside a group; one group, and the distribution over 500."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from talktune.config import LabConfig
from talktune.lab.chance import Labels, draw_votes, majorities
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import finish
from talktune.report.plots import BLUE, GREY, ORANGE, VERMILLION, new_figure
from talktune.rl.advantage import compute_grpo_advantages, zero_variance

GROUPS = 500
SIZE = 8
JUDGE = 0.8
VOTES = 5

_COLOURS = {-1: VERMILLION, 0: GREY, 1: BLUE}


@dataclass(frozen=True, slots=True)
class Groups:
    """Rewards and advantages of GROUPS prompts with SIZE answers each."""

    rewards: Labels
    """(groups, size), from judged answers."""
    advantages: NDArray[np.float64]
    """(groups, size)."""
    flat: int
    """Groups whose rewards are all equal: no gradient comes of them."""

    @property
    def shown(self) -> int:
        """The first group in which every label occurs, or else the first one."""
        every = [i for i, row in enumerate(self.rewards) if len(set(row.tolist())) == 3]
        return every[0] if every else 0


def measure(config: LabConfig) -> Groups:
    """Prompts from hopeless to easy, answers good with the prompt's chance, rewards by majority of five votes."""
    rng = np.random.default_rng(config.seed)
    good = rng.random((GROUPS, 1))  # how easy a prompt is
    draw = rng.random((GROUPS, SIZE))
    bad = draw > good + (1 - good) / 3  # a third of what is not good is neutral
    truths = np.where(draw < good, 1, np.where(bad, -1, 0)).reshape(-1)
    rewards = majorities(draw_votes(rng, truths, [JUDGE] * VOTES))
    labels = torch.arange(GROUPS).repeat_interleave(SIZE)
    values = torch.from_numpy(rewards.astype(np.float64))
    advantages = compute_grpo_advantages(values, labels).numpy()
    flat = int(zero_variance(values, labels).sum()) // SIZE
    return Groups(rewards.reshape(GROUPS, SIZE), advantages.reshape(GROUPS, SIZE), flat)


def draw_distribution(axes: Axes, found: Groups) -> None:
    """Advantages of all answers, counted, each bar split by the reward that the answer had."""
    edges = np.linspace(-2.7, 2.7, 28)  # zero is the middle of a bar
    parts = [found.advantages[found.rewards == label] for label in (-1, 0, 1)]
    names = ["reward −1", "reward 0", "reward +1"]
    axes.hist(
        parts, bins=edges.tolist(), stacked=True, color=[_COLOURS[k] for k in (-1, 0, 1)], label=names, rwidth=0.92
    )
    axes.axvline(0, color="black", linewidth=0.8)
    title = f"Advantages of {GROUPS} groups of {SIZE}"
    finish(axes, title=title, x="advantage (standard deviations)", y="answers", legend="upper left")


def _draw_group(axes: Axes, found: Groups) -> None:
    rewards, advantages = found.rewards[found.shown], found.advantages[found.shown]
    xs = np.arange(SIZE)
    axes.bar(xs - 0.2, rewards, width=0.38, color=ORANGE, label="reward")
    axes.bar(xs + 0.2, advantages, width=0.38, color=BLUE, label="advantage")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(xs, [str(i + 1) for i in xs])
    axes.set_ylim(-2.0, 2.2)
    finish(axes, title="One group: rewards and advantages", x="answer", y="value", legend="upper right")


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    say(f"advantages: {GROUPS} groups of {SIZE}")
    found = measure(config)
    figure = new_figure()
    left, right = figure.subplots(1, 2)
    _draw_group(left, found)
    draw_distribution(right, found)
    mixed = found.advantages[(found.advantages != 0).any(axis=1)]
    lone = found.advantages[(found.rewards == 1) & ((found.rewards == 1).sum(axis=1, keepdims=True) == 1)]
    common = found.advantages[(found.rewards == 1) & ((found.rewards == 1).sum(axis=1, keepdims=True) == SIZE - 1)]
    furthest = float(np.abs(found.advantages).max())
    off = float(np.abs(mixed.mean(axis=1)).max())
    numbers = {
        "groups": GROUPS,
        "size": SIZE,
        "groups_without_variance": found.flat,
        "largest_mean_of_a_group": off,
        "largest_std_error": float(np.abs(mixed.std(axis=1, ddof=1) - 1).max()),
        "furthest": furthest,
        "bound": (SIZE - 1) / SIZE**0.5,
        "lone_good_mean": float(lone.mean()) if len(lone) else None,
        "common_good_mean": float(common.mean()) if len(common) else None,
        "shown_rewards": found.rewards[found.shown].tolist(),
        "shown_advantages": found.advantages[found.shown].tolist(),
    }
    rows = [
        [label, int((found.rewards == label).sum()), *_quantiles(found.advantages[found.rewards == label])]
        for label in (-1, 0, 1)
    ]
    rarity = (
        f"A +1 that is alone in its group gets {lone.mean():+.2f} on average, one of seven {common.mean():+.2f}. "
        if len(lone) and len(common)
        else ""
    )
    return Finding(
        columns=["reward", "answers", "advantage: least", "mean", "most"],
        rows=rows,
        numbers=numbers,
        figure=figure,
        conclusion=(
            f"{found.flat} of {GROUPS} groups ({found.flat / GROUPS:.0%}) have equal rewards and teach nothing. "
            f"{rarity}No advantage can exceed (n−1)/√n = {numbers['bound']:.2f}; the largest was {furthest:.2f}. The "
            f"mean of every group is 0 (to {off:.0e})."
        ),
    )


def _quantiles(values: NDArray[np.float64]) -> list[str]:
    return [f"{value:+.2f}" for value in (values.min(), values.mean(), values.max())] if len(values) else ["–"] * 3


EXPERIMENT = Experiment(
    title="Better than the others of the group",
    idea=(
        "An answer is not good or bad in itself: it is compared with other answers of its group. The group's mean is "
        "the baseline that a critic would have to learn, and the division by the group's spread gives easy and hard "
        "prompts the same weight. Where all answers earn the same there is nothing to learn."
    ),
    formula="A_i = (r_i − mean(r)) / std(r), std with n − 1; 0 for the whole group when std < 1e−8",
    look_at=(
        "Left: advantages are the rewards, shifted by the group's mean and divided by its spread. Right: rewards have "
        "three values, advantages many; a good answer among bad ones lies far right, one among good ones near zero. "
        "The bar at zero holds the groups without variance."
    ),
    source="GRPO: https://arxiv.org/abs/2402.03300; the standard deviation's side: https://arxiv.org/abs/2503.20783",
    run=_run,
)
