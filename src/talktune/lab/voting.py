"""`voting`: how often the majority of m votes is right, simulated over the exact curve."""

from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np
from matplotlib.axes import Axes

from talktune.config import LabConfig
from talktune.lab.chance import LEVEL, Check, check, draw_truths, draw_votes, majorities
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import finish
from talktune.report.plots import BLUE, VERMILLION, new_figure
from talktune.rl.votes import majority_accuracy

ACCURACIES = (0.7, 0.9)
MOST_VOTES = 21
_VOTES = range(1, MOST_VOTES + 1)

_LOOK = {0.7: (BLUE, "o"), 0.9: (VERMILLION, "s")}

Points = Mapping[tuple[float, int], Check]
"""By p and m: how often the majority of m votes is right, each of which is right with probability p."""


def measure(config: LabConfig) -> Points:
    """Both judges and m = 1 … 21; m votes are the first m of the same 21, over `trials` turns."""
    points: dict[tuple[float, int], Check] = {}
    for number, p in enumerate(ACCURACIES):
        rng = np.random.default_rng([config.seed, number])
        truths = draw_truths(rng, config.trials)
        votes = draw_votes(rng, truths, [p] * MOST_VOTES)
        for m in _VOTES:
            points[p, m] = check(majority_accuracy(p, m), majorities(votes[:, :m]) == truths)
    return points


def draw_accuracy(axes: Axes, points: Points) -> None:
    """Accuracy in percent over m: the exact curve, and what was simulated."""
    for p, (colour, marker) in _LOOK.items():
        exact = [100 * points[p, m].exact for m in _VOTES]
        axes.plot(_VOTES, exact, color=colour, linewidth=1.2, label=f"exact, p = {p}")
        simulated = [100 * points[p, m].simulated for m in _VOTES]
        axes.plot(_VOTES, simulated, marker, color=colour, markersize=4, label=f"simulated, p = {p}")
    axes.set_xticks(range(1, MOST_VOTES + 1, 2))
    axes.set_ylim(62, 101.5)
    finish(axes, title="More votes, fewer mistakes", x="votes m", y="majority right (%)", legend="lower right")


def _draw_deviation(axes: Axes, points: Points) -> None:
    for p, (colour, marker) in _LOOK.items():
        mine = [points[p, m] for m in _VOTES]
        low, high = [100 * (c.low - c.exact) for c in mine], [100 * (c.high - c.exact) for c in mine]
        axes.fill_between(_VOTES, low, high, color=colour, alpha=0.15, linewidth=0, label=f"99 % band, p = {p}")
        axes.plot(_VOTES, [100 * (c.simulated - c.exact) for c in mine], marker, color=colour, markersize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(1, MOST_VOTES + 1, 2))
    finish(axes, title="Simulated minus exact", x="votes m", y="difference (percentage points)", legend="upper right")


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    say(f"voting: {config.trials:,} turns, {MOST_VOTES} votes each")
    points = measure(config)
    figure = new_figure()
    left, right = figure.subplots(1, 2)
    draw_accuracy(left, points)
    _draw_deviation(right, points)
    inside = sum(point.inside for point in points.values())
    exact = {key: point.exact for key, point in points.items()}
    columns = ["votes m"]
    for p in ACCURACIES:
        columns += [f"p = {p}: exact (%)", "simulated (%)", "99 % band (%)"]
    return Finding(
        columns=columns,
        rows=[[m, *(text for p in ACCURACIES for text in _cells(points[p, m]))] for m in _VOTES],
        numbers={
            "trials": config.trials,
            "level": LEVEL,
            "inside": inside,
            "points": [{"p": p, "m": m} | asdict(c) | {"inside": c.inside} for (p, m), c in points.items()],
        },
        figure=figure,
        conclusion=(
            f"A judge that is right with 70 % of its votes is right with {exact[0.7, 5]:.1%} of majorities of 5 and "
            f"with {exact[0.7, 21]:.1%} of 21; two votes are worse than one ({exact[0.7, 2]:.1%}), because they tie. "
            f"{inside} of {len(points)} simulated points lie in their own 99 % band."
        ),
    )


def _cells(point: Check) -> list[str]:
    band = f"{100 * point.low:.2f} … {100 * point.high:.2f}" + ("" if point.inside else " (outside)")
    return [f"{100 * point.exact:.2f}", f"{100 * point.simulated:.2f}", band]


EXPERIMENT = Experiment(
    title="A majority of judges is better than one",
    idea=(
        "A judge that reads the next message and says good, neutral or bad is often wrong. Asked m times, with its "
        "mistakes independent, the label that most votes agree on is wrong far less often. Three labels make it "
        "easier still, because the wrong votes split over two of them; a tie for first place counts as neutral."
    ),
    formula=(
        "accuracy(m) = Σ m! / (a! b! c!) · p^a · ((1−p)/2)^(b+c)   over all counts a + b + c = m whose majority is "
        "the truth, a the votes for it; averaged over a truth that is −1, 0 or +1 equally often"
    ),
    look_at=(
        "Left: both curves climb steeply up to five or seven votes, then flatten; m = 2 and 4 suffer from ties, "
        "which is why m is odd. Right: the simulated points scatter around the exact curve, inside the band that "
        "chance allows; neighbours stray together, because m votes are the first m of the same 21."
    ),
    source="Majority vote of the process reward model: OpenClaw-RL, https://arxiv.org/abs/2603.10165",
    run=_run,
)
