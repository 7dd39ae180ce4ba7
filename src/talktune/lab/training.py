"""`training`: GRPO-TCR on a small causal policy that is judged by what its user says."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes

from talktune.config import LabConfig
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import draw_runs, finish, mean, mean_and_range
from talktune.lab.trainer import STOP_WINDOW, History, Job, by_label, exams, run_jobs, with_seeds
from talktune.report.plots import BLUE, VERMILLION, new_figure

LEVEL = 0.9
_LOOK = {"judged": (BLUE, "-", "rewards as judged"), "shuffled": (VERMILLION, "--", "rewards shuffled")}

Say = Callable[[str], None]


def measure(config: LabConfig, say: Say) -> Mapping[str, Sequence[History]]:
    """Runs of every seed, with rewards as judged and with the rewards of each group shuffled."""
    return by_label(run_jobs(with_seeds(config, [Job("judged"), Job("shuffled", shuffle=True)]), say))


def draw_reward(axes: Axes, found: Mapping[str, Sequence[History]]) -> None:
    """Mean reward of fresh samples over the updates, a band over seeds."""
    _draw(axes, found, "judged")
    axes.axhline(LEVEL, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylim(-1.05, 1.08)
    finish(axes, title="Reward of fresh samples", x="update", y="mean reward (−1 … 1)", legend="lower right")


def _draw(axes: Axes, found: Mapping[str, Sequence[History]], metric: str) -> None:
    for label, histories in found.items():
        colour, style, name = _LOOK[label]
        draw_runs(axes, histories, metric, (colour, style), name)


def _run(config: LabConfig, say: Say) -> Finding:
    found = measure(config, say)
    figure = new_figure(width=9.6)
    reward, objective, divergence = figure.subplots(1, 3)
    draw_reward(reward, found)
    _draw(objective, found, "objective")
    finish(objective, title="Objective", x="update", y="clipped surrogate (1)")
    _draw(divergence, found, "kl_ref")
    finish(divergence, title="Distance from the base model", x="update", y="KL (nats per token)")
    rows: list[list[object]] = []
    arrivals: dict[str, list[int | None]] = {}
    numbers: dict[str, object] = {"level": LEVEL, "window": STOP_WINDOW}
    for label, histories in found.items():
        judged = [history.series("judged")[1] for history in histories]
        starts, ends = [mean(line[:STOP_WINDOW]) for line in judged], [mean(line[-20:]) for line in judged]
        reached = arrivals[label] = [history.first_at(LEVEL, metric="judged") for history in histories]
        quality = exams(histories, "quality")
        numbers[label] = {
            "reward_start": starts,
            "reward_end": ends,
            "reached_at_update": reached,
            "quality_after": quality,
            "kl_after": [history.series("kl_ref")[1][-1] for history in histories],
        }
        when = ", ".join("never" if at is None else str(at) for at in reached)
        rows.append([_LOOK[label][2], mean_and_range(starts), mean_and_range(ends), mean_and_range(quality), when])
    arrived = [at for at in arrivals["judged"] if at is not None]
    seeds, by_chance = len(found["judged"]), sum(at is not None for at in arrivals["shuffled"])
    last = f", at the latest after {max(arrived)} updates" if arrived else ""
    return Finding(
        columns=[
            "rewards",
            "reward, first 5 sets: mean (range)",
            "reward, last 20 sets",
            "true quality after",
            f"reaches {LEVEL} at update",
        ],
        rows=rows,
        numbers=numbers,
        figure=figure,
        conclusion=(
            f"The mean reward of fresh samples reached {LEVEL} on {len(arrived)} of {seeds} seeds{last}. "
            f"With the same rewards dealt out anew inside each group it did so on {by_chance} of "
            f"{seeds}: what is learned comes from the rewards."
        ),
    )


EXPERIMENT = Experiment(
    title="The policy learns from what is said to it",
    idea=(
        "A one-layer transformer answers questions about colours, often wrong and with many empty words. Its user "
        "reacts in words, a judge with five noisy votes turns the reaction into a reward, and GRPO-TCR moves a LoRA "
        "adapter. Every update samples from the policy being trained: answers of a policy that never changes would "
        "teach nothing about the new one. Shuffled rewards are the control."
    ),
    formula="loss = −mean over tokens of [min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high) A) − β·ρ·k3(new ‖ reference)]",
    look_at=(
        "Left: the reward rises with true rewards, and stays where it was with shuffled ones. The objective (middle) "
        "stays near zero the whole time, because advantages have mean zero: it is no measure of progress. Right: how "
        "far the policy moved from the base model."
    ),
    source="GRPO: https://arxiv.org/abs/2402.03300; GRPO-TCR: https://arxiv.org/abs/2510.11701",
    run=_run,
)
