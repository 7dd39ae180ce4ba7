"""`voting`: how often the majority of m votes is right, simulated over the exact curve."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from matplotlib.axes import Axes

from talktune.config import LabConfig
from talktune.lab.chance import binomial_band, draw_truths, draw_votes, majorities
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import finish, new_figure
from talktune.report.plots import BLUE, VERMILLION
from talktune.rl.votes import majority_accuracy

ACCURACIES = (0.7, 0.9)
MOST_VOTES = 21
LEVEL = 0.99

_LOOK = {0.7: (BLUE, "o"), 0.9: (VERMILLION, "s")}


@dataclass(frozen=True, slots=True)
class Point:
    """The majority of m votes, each right with probability p: exact and simulated accuracy, as shares."""

    p: float
    m: int
    exact: float
    simulated: float
    low: float
    high: float
    """The band around `exact` in which `simulated` lies in 99 of 100 simulations."""

    @property
    def inside(self) -> bool:
        """Whether the simulation lies in its own band."""
        return self.low <= self.simulated <= self.high


def measure(config: LabConfig) -> list[Point]:
    """Points for both judges and m = 1 … 21; m votes are the first m of the same 21, over `trials` turns."""
    points: list[Point] = []
    for number, p in enumerate(ACCURACIES):
        rng = np.random.default_rng([config.seed, number])
        truths = draw_truths(rng, config.trials)
        votes = draw_votes(rng, truths, [p] * MOST_VOTES)
        for m in range(1, MOST_VOTES + 1):
            exact = majority_accuracy(p, m)
            simulated = float((majorities(votes[:, :m]) == truths).mean())
            points.append(Point(p, m, exact, simulated, *binomial_band(config.trials, exact, LEVEL)))
    return points


def draw_accuracy(axes: Axes, points: Sequence[Point]) -> None:
    """Accuracy in percent over m: the exact curve, and what was simulated."""
    for p in ACCURACIES:
        colour, marker = _LOOK[p]
        mine = [point for point in points if point.p == p]
        ms = [point.m for point in mine]
        axes.plot(ms, [100 * point.exact for point in mine], color=colour, linewidth=1.2, label=f"exact, p = {p}")
        simulated = [100 * point.simulated for point in mine]
        axes.plot(ms, simulated, marker, color=colour, markersize=4, label=f"simulated, p = {p}")
    axes.set_xticks(range(1, MOST_VOTES + 1, 2))
    axes.set_ylim(62, 101.5)
    finish(axes, title="More votes, fewer mistakes", x="votes m", y="majority right (%)", legend="lower right")


def _draw_deviation(axes: Axes, points: Sequence[Point]) -> None:
    for p in ACCURACIES:
        colour, marker = _LOOK[p]
        mine = [point for point in points if point.p == p]
        ms = [point.m for point in mine]
        low = [100 * (point.low - point.exact) for point in mine]
        high = [100 * (point.high - point.exact) for point in mine]
        axes.fill_between(ms, low, high, color=colour, alpha=0.15, linewidth=0, label=f"99 % band, p = {p}")
        off = [100 * (point.simulated - point.exact) for point in mine]
        axes.plot(ms, off, marker, color=colour, markersize=4)
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
    inside = sum(point.inside for point in points)
    exact = {(point.p, point.m): point.exact for point in points}
    rows = [
        [m, *(text for p in ACCURACIES for point in points if (point.p, point.m) == (p, m) for text in _cells(point))]
        for m in range(1, MOST_VOTES + 1)
    ]
    columns = ["votes m"]
    for p in ACCURACIES:
        columns += [f"p = {p}: exact (%)", "simulated (%)", "99 % band (%)"]
    return Finding(
        columns=columns,
        rows=rows,
        numbers={
            "trials": config.trials,
            "level": LEVEL,
            "inside": inside,
            "points": [asdict(point) | {"inside": point.inside} for point in points],
        },
        figure=figure,
        conclusion=(
            f"A judge that is right with 70 % of its votes is right with {exact[0.7, 5]:.1%} of majorities of 5 and "
            f"with {exact[0.7, 21]:.1%} of 21; two votes are worse than one ({exact[0.7, 2]:.1%}), because they tie. "
            f"{inside} of {len(points)} simulated points lie in their own 99 % band."
        ),
    )


def _cells(point: Point) -> list[str]:
    band = f"{100 * point.low:.2f} … {100 * point.high:.2f}" + ("" if point.inside else " (outside)")
    return [f"{100 * point.exact:.2f}", f"{100 * point.simulated:.2f}", band]


EXPERIMENT = Experiment(
    name="voting",
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
