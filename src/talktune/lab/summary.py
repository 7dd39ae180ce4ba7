"""`summary`: votes, advantages, the length penalty and a training run on one sheet."""

from collections.abc import Callable
from dataclasses import replace

from talktune.config import LabConfig
from talktune.lab import advantages, overlong, training, voting
from talktune.lab.experiment import Experiment, Finding
from talktune.report.plots import new_figure

MOST_SEEDS = 2


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    points = voting.measure(config)
    groups = advantages.measure(config)
    runs = training.measure(replace(config, seeds=min(config.seeds, MOST_SEEDS)), say)
    figure = new_figure(height=6.4)
    (votes, spread), (penalty, reward) = figure.subplots(2, 2)
    voting.draw_accuracy(votes, points)
    advantages.draw_distribution(spread, groups)
    overlong.draw_penalty(penalty)
    training.draw_reward(reward, runs)
    five = points[0.7, 5]
    reached = [history.first_at(training.LEVEL, metric="judged") for history in runs["judged"]]
    arrived = [at for at in reached if at is not None]
    when = f"after {max(arrived)} updates" if len(arrived) == len(reached) else "not on every seed"
    numbers = {
        "majority_of_5_at_0.7": five.exact,
        "groups_without_variance": groups.flat,
        "reached_at_update": reached,
    }
    return Finding(
        columns=["step", "number"],
        rows=[
            ["five votes of 70 % are right", f"{five.exact:.1%}"],
            [f"groups of {advantages.SIZE} without variance", f"{groups.flat} of {advantages.GROUPS}"],
            [f"penalty at {overlong.L_MAX - overlong.L_CACHE // 2} tokens", "−0.5 linear, −0.25 quadratic"],
            [f"mean reward of {training.LEVEL} is reached", when],
        ],
        numbers=numbers,
        figure=figure,
        conclusion=(
            f"From noisy votes (70 % alone, {five.exact:.1%} as five) through advantages and the length penalty to a "
            f"policy whose fresh samples reach a mean reward of {training.LEVEL} {when}."
        ),
    )


EXPERIMENT = Experiment(
    title="The method on one sheet",
    idea="Each next message becomes votes, votes a reward, rewards advantages, and advantages a better policy.",
    formula="votes -> majority -> + length penalty -> (r − mean) / std -> clipped, token-level loss",
    look_at="Read it row by row: judge, advantages, shaping, learning.",
    source="OpenClaw-RL: https://arxiv.org/abs/2603.10165; GRPO-TCR: https://arxiv.org/abs/2510.11701",
    run=_run,
)
