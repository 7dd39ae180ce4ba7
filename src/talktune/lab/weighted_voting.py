"""`weighted-voting`: judges of different quality, with and without weights, against exact enumeration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import product

import numpy as np

from talktune.config import LabConfig
from talktune.lab.chance import Check, Labels, check, draw_truths, draw_votes
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import finish
from talktune.report.plots import BLUE, GREEN, GREY, VERMILLION, new_figure
from talktune.rl.votes import LABELS, majority_vote, weighted_vote
from talktune.types import Label

MEAN = 0.7
SPREADS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
OVERCONFIDENT = 0.99

Rule = Callable[[Sequence[Label]], Label | None]

_LOOK = {"plain": (BLUE, "o"), "weighted": (GREEN, "s"), "boaster": (VERMILLION, "^")}
_NAMES = {"plain": "plain majority", "weighted": "weighted", "boaster": "weighted, worst one boasts"}


def panel(spread: float) -> list[float]:
    """Accuracies of five judges, evenly from MEAN − spread to MEAN + spread; their mean never changes."""
    return [round(MEAN + spread * step, 6) for step in (-1.0, -0.5, 0.0, 0.5, 1.0)]


def rules(accuracies: Sequence[float]) -> dict[str, Rule]:
    """The three ways to count: plain; each vote weighted by its judge's accuracy; the worst claims OVERCONFIDENT."""
    boast = [OVERCONFIDENT, *accuracies[1:]]
    return {
        "plain": majority_vote,
        "weighted": lambda votes: weighted_vote(votes, accuracies),
        "boaster": lambda votes: weighted_vote(votes, boast),
    }


def exact_accuracy(accuracies: Sequence[float], rule: Rule) -> float:
    """P(rule is right), by enumeration of all 3^M votes and 3 truths: Σ P(truth) Π P(vote_j | truth)."""
    total = 0.0
    for votes in product(LABELS, repeat=len(accuracies)):
        reward = rule(votes)
        if reward is None:
            continue
        chance = 1 / 3
        for vote, p in zip(votes, accuracies, strict=True):
            chance *= p if vote == reward else (1 - p) / 2
        total += chance
    return total


def measure(config: LabConfig) -> Mapping[tuple[float, str], Check]:
    """Each spread and each rule, simulated on the same `trials` turns and enumerated."""
    points: dict[tuple[float, str], Check] = {}
    for number, spread in enumerate(SPREADS):
        accuracies = panel(spread)
        rng = np.random.default_rng([config.seed, number])
        truths = draw_truths(rng, config.trials)
        votes = draw_votes(rng, truths, accuracies)
        for name, rule in rules(accuracies).items():
            points[spread, name] = check(exact_accuracy(accuracies, rule), _apply(rule, votes) == truths)
    return points


def _apply(rule: Rule, votes: Labels) -> Labels:
    """The reward (N,) of each row of votes (N, M); the rule is asked once for each different row."""
    kinds, kind = np.unique(votes, axis=0, return_inverse=True)
    label: dict[int, Label] = {value: value for value in LABELS}
    rewards = [rule([label[int(vote)] for vote in row]) or 0 for row in kinds]
    return np.array(rewards, dtype=np.int64)[kind.reshape(-1)]


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    say(f"weighted-voting: {config.trials:,} turns, five judges")
    points = measure(config)
    figure = new_figure(height=3.8)
    axes = figure.subplots()
    shift = {"plain": -0.4, "weighted": 0.0, "boaster": 0.4}
    spreads = [100 * spread for spread in SPREADS]
    for rule, (colour, marker) in _LOOK.items():
        mine = [points[spread, rule] for spread in SPREADS]
        exact = [100 * p.exact for p in mine]
        axes.plot(spreads, exact, color=colour, linewidth=1.6)
        xs = [spread + shift[rule] for spread in spreads]
        bars = [[100 * (p.exact - p.low) for p in mine], [100 * (p.high - p.exact) for p in mine]]
        axes.errorbar(xs, exact, yerr=bars, fmt="none", ecolor=colour, capsize=3, elinewidth=1, alpha=0.6)
        axes.plot(xs, [100 * p.simulated for p in mine], marker, color=colour, markersize=5, label=_NAMES[rule])
    best = [100 * max(panel(spread)) for spread in SPREADS]
    axes.plot(spreads, best, color=GREY, linestyle="--", label="the best judge alone")
    title = "Lines: exact. Marks: simulated. Bars: 99 % band"
    x = "spread of the five judges around 70 % (percentage points)"
    finish(axes, title=title, x=x, y="verdict right (%)", legend="center left")
    inside = sum(point.inside for point in points.values())
    exact = {key: point.exact for key, point in points.items()}
    wide = SPREADS[-1]
    return Finding(
        columns=["judges' accuracies (%)", *(f"{_NAMES[rule]}: exact (simulated) (%)" for rule in _LOOK)],
        rows=[[_percents(panel(spread)), *(_cell(points[spread, rule]) for rule in _LOOK)] for spread in SPREADS],
        numbers={
            "trials": config.trials,
            "inside": inside,
            "points": [
                {"spread": spread, "rule": rule} | asdict(point) | {"inside": point.inside}
                for (spread, rule), point in points.items()
            ],
        },
        figure=figure,
        conclusion=(
            f"With judges from {MEAN - wide:.0%} to {MEAN + wide:.0%}, weights lift the verdict from "
            f"{exact[wide, 'plain']:.1%} to {exact[wide, 'weighted']:.1%}, while the best judge alone has "
            f"{max(panel(wide)):.0%}; with equal judges they change nothing ({exact[0.0, 'plain']:.1%}). If the worst "
            f"judge claims {OVERCONFIDENT:.0%}, the verdict falls to {exact[wide, 'boaster']:.1%}, below the plain "
            f"majority. {inside} of {len(points)} simulated points lie in their 99 % band."
        ),
    )


def _percents(shares: Sequence[float]) -> str:
    return ", ".join(f"{100 * share:g}" for share in shares)


def _cell(point: Check) -> str:
    return f"{100 * point.exact:.2f} ({100 * point.simulated:.2f})" + ("" if point.inside else " outside")


EXPERIMENT = Experiment(
    title="Weigh judges by how often they are right",
    idea=(
        "Judges differ. A vote that comes with a confidence can count by it: the log of the odds that it is right, "
        "times two, because there are two other labels to be wrong with. For independent judges who err evenly and "
        "know their own accuracy no rule is better. A judge who overrates itself spoils it."
    ),
    formula="verdict = argmax over labels of Σ log(2 p / (1 − p)) over the votes for it; p is each vote's confidence",
    look_at=(
        "The mean accuracy of the five is 70 % everywhere. The more they differ, the further the weighted verdict "
        "rises above the plain one; the lowest line is the price of one judge that boasts."
    ),
    source=(
        "Nitzan & Paroush 1982, https://doi.org/10.2307/2526438; weights for K classes as in SAMME, "
        "https://doi.org/10.4310/SII.2009.v2.n3.a8"
    ),
    run=_run,
)
