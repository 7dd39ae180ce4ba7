"""`judge-quality`: how a judge's accuracy and the number of its votes trade off against learning speed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from talktune.config import LabConfig
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import finish, mean, mean_and_range
from talktune.lab.trainer import Job, by_label, run_jobs, with_seeds
from talktune.report.plots import new_figure
from talktune.rl.votes import majority_accuracy

ACCURACIES = (0.45, 0.6, 0.75, 0.9)
VOTES = (1, 3, 5, 9)
LEVEL = 0.8
MOST_UPDATES = 120


def jobs(config: LabConfig) -> list[Job]:
    """Every accuracy with every number of votes and up to 3 seeds; a run ends when it has arrived."""
    base = Job("", updates=MOST_UPDATES, stop_at=LEVEL)
    each = [replace(base, label=f"{p}/{m}", accuracy=p, votes=m) for p in ACCURACIES for m in VOTES]
    return with_seeds(replace(config, seeds=min(config.seeds, 3)), each)


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    found = by_label(run_jobs(jobs(config), say))
    most = min(config.updates, MOST_UPDATES)
    speed = np.zeros((len(ACCURACIES), len(VOTES)))
    rows: list[list[object]] = []
    numbers: dict[str, object] = {}
    missed = np.zeros_like(speed, dtype=int)
    for i, p in enumerate(ACCURACIES):
        cells: list[object] = [f"{p:.0%}"]
        for j, m in enumerate(VOTES):
            reached = [history.first_at(LEVEL) for history in found[f"{p}/{m}"]]
            updates = [most if at is None else at for at in reached]
            speed[i, j] = mean(updates)
            missed[i, j] = sum(at is None for at in reached)
            numbers[f"p={p},m={m}"] = {"reached_at_update": reached, "majority_right": majority_accuracy(p, m)}
            never = f", {missed[i, j]} never" if missed[i, j] else ""
            cells.append(f"{mean_and_range(updates, 0)}{never}")
        rows.append(cells)
    figure = new_figure(width=8.0, height=3.8)
    heat, line = figure.subplots(1, 2)
    picture = heat.imshow(speed, cmap="cividis_r", origin="lower", aspect="auto")
    for i in range(len(ACCURACIES)):
        for j in range(len(VOTES)):
            dark = speed[i, j] > (speed.min() + speed.max()) / 2
            text = f"{speed[i, j]:.0f}" + ("+" if missed[i, j] else "")
            heat.text(j, i, text, ha="center", va="center", fontsize=10, color="white" if dark else "black")
    heat.set_xticks(range(len(VOTES)), [str(m) for m in VOTES])
    heat.set_yticks(range(len(ACCURACIES)), [f"{p:.0%}" for p in ACCURACIES])
    bar = figure.colorbar(picture, ax=heat)
    bar.set_label("updates", fontsize=9)
    finish(heat, title=f"Updates to a quality of {LEVEL}", x="votes m", y="accuracy of one vote")
    heat.grid(visible=False)
    exact = np.array([[majority_accuracy(p, m) for m in VOTES] for p in ACCURACIES])
    for j, (m, marker) in enumerate(zip(VOTES, "os^D", strict=True)):
        line.plot(100 * exact[:, j], speed[:, j], marker, color=f"C{j}" if j else "black", label=f"m = {m}")
    y = f"updates to {LEVEL}"
    finish(line, title="What counts is the majority", x="majority right (%)", y=y, legend="upper right")
    rank = float(np.corrcoef(np.argsort(np.argsort(exact.ravel())), np.argsort(np.argsort(speed.ravel())))[0, 1])
    return Finding(
        columns=["accuracy of a vote", *(f"m = {m}: updates (range)" for m in VOTES)],
        rows=rows,
        numbers={"cells": numbers, "level": LEVEL, "most_updates": most, "rank_correlation": rank},
        figure=figure,
        conclusion=(
            f"A vote that is right {ACCURACIES[1]:.0%} of the time needs {speed[1, 0]:.0f} updates alone and "
            f"{speed[1, -1]:.0f} with {VOTES[-1]} votes; one right {ACCURACIES[-1]:.0%} of the time needs "
            f"{speed[-1, 0]:.0f} and {speed[-1, -1]:.0f}. Over all cells, speed follows the accuracy of the majority "
            f"(rank correlation {rank:+.2f}): votes can buy what a judge lacks, as long as it beats chance."
        ),
    )


EXPERIMENT = Experiment(
    title="A better judge or more votes",
    idea=(
        "The policy never sees accuracy or votes, only the rewards that come of them. A weak judge asked often may "
        "teach as fast as a good one asked once; both cost."
    ),
    formula="accuracy of the majority as in `voting`; speed = updates until the mean opinion over 5 sets is >= 0.8",
    look_at=(
        "Left: darker cells are slower; + marks cells in which a seed had not arrived at the end. Right: the same "
        "cells over the exact accuracy of the majority: they lie near one falling curve, whatever m is."
    ),
    source="Votes of the process reward model: OpenClaw-RL, https://arxiv.org/abs/2603.10165",
    run=_run,
)
