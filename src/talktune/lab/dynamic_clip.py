"""`dynamic-clip`: an upper clip range that moves during training, against constant ones."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from talktune.config import AlgorithmConfig, LabConfig
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import draw_runs, finish, mean, mean_and_range
from talktune.lab.trainer import History, Job, by_label, exams, run_jobs, with_seeds
from talktune.report.plots import BLUE, GREEN, GREY, ORANGE, VERMILLION, new_figure
from talktune.rl.schedule import eps_high_at

PASSES = 8
"""Updates with one set of samples: on the first one the ratio is 1 and no clip range matters."""
MOST_UPDATES = 160

BASE = AlgorithmConfig(group="prompt")
VARIANTS: dict[str, AlgorithmConfig] = {
    "symmetric 0.2": replace(BASE, eps_high=0.2),
    "constant 0.28": BASE,
    "0.28 falls to 0.1": replace(BASE, eps_high_end=0.1, eps_high_schedule="cosine"),
    "0.1 grows to 0.6": replace(BASE, eps_high=0.1, eps_high_end=0.6, eps_high_schedule="linear"),
    "constant 10": replace(BASE, eps_high=10.0),
}
_LOOK = dict(zip(VARIANTS, ((GREY, "-"), (BLUE, "-"), (GREEN, "--"), (ORANGE, "-."), (VERMILLION, ":")), strict=True))


def jobs(config: LabConfig) -> list[Job]:
    """Each variant with every seed, on questions whose right word is rare and on plain ones."""
    base = Job("", updates=MOST_UPDATES, kinds=("plain", "exact"), passes=PASSES)
    return with_seeds(config, [replace(base, label=label, algorithm=of) for label, of in VARIANTS.items()])


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    found = by_label(run_jobs(jobs(config), say))
    figure = new_figure(width=9.6)
    ranges, quality, clipped = figure.subplots(1, 3)
    off = 0.0
    rows: list[list[object]] = []
    numbers: dict[str, object] = {}
    for label, histories in found.items():
        colour, style = _LOOK[label]
        xs, eps = histories[0].series("eps_high")
        off = max(off, _deviation(histories))
        ranges.plot(xs, eps, style, color=colour, linewidth=1.7, label=label)
        draw_runs(quality, histories, "quality", _LOOK[label], label)
        draw_runs(clipped, histories, "clipped_high", _LOOK[label], label, factor=100)
        at_the_end = slice(-PASSES, None)
        figures: dict[str, list[float]] = {
            "quality_after": exams(histories, "quality"),
            "quality_on_the_way": [mean(history.series("quality")[1]) for history in histories],
            "entropy_after": [mean(history.series("entropy")[1][at_the_end]) for history in histories],
            "kl_after": [mean(history.series("kl_ref")[1][at_the_end]) for history in histories],
            "clipped_high_percent": [100 * mean(history.series("clipped_high")[1]) for history in histories],
        }
        numbers[label] = figures
        rows.append([label, *map(mean_and_range, figures.values())])
    ranges.set_yscale("log")
    ranges.set_ylim(0.08, 200)
    finish(ranges, title="Upper clip range", x="update", y="ε_high (1, log scale)", legend="upper left")
    finish(quality, title="Quality of fresh samples", x="update", y="mean opinion (−1 … 1)")
    finish(clipped, title="Clipped for being too good", x="update", y="tokens above 1 + ε_high (%)")
    scores = {label: mean(exams(histories, "quality")) for label, histories in found.items()}
    gap = scores["0.28 falls to 0.1"] - scores["constant 0.28"]
    return Finding(
        columns=[
            "ε_high",
            "quality after: mean (range)",
            "quality on the way",
            "entropy after (nats)",
            "KL after (nats)",
            "clipped high (%)",
        ],
        rows=rows,
        numbers={"runs": numbers, "largest_deviation_from_schedule": off, "passes": PASSES},
        figure=figure,
        conclusion=(
            f"After {min(config.updates, MOST_UPDATES)} updates the falling schedule ends {gap:+.2f} in quality from "
            f"the constant 0.28 ({scores['constant 0.28']:.2f}); symmetric 0.2 reaches {scores['symmetric 0.2']:.2f}, "
            f"the growing one {scores['0.1 grows to 0.6']:.2f}, and ε_high = 10, which clips next to nothing, "
            f"{scores['constant 10']:.2f}. The recorded ranges equal the schedule's formula to {off:.0e}."
        ),
    )


def _deviation(histories: Sequence[History]) -> float:
    """The largest difference between the recorded ε_high and its formula."""
    worst = 0.0
    for history in histories:
        a, n = history.job.algorithm, history.job.updates
        for i, value in enumerate(history.series("eps_high")[1]):
            worst = max(worst, abs(value - eps_high_at(i, n, a.eps_high, a.eps_high_end, a.eps_high_schedule)))
    return worst


EXPERIMENT = Experiment(
    title="A clip range that moves",
    idea=(
        "A wide upper range lets rare good tokens grow fast, a narrow one keeps the policy near the one that was "
        "sampled from. One may hope for both by starting wide and ending narrow. Clipping matters only when a set of "
        f"samples serves several updates, {PASSES} here."
    ),
    formula="ε_high(t) = start + (end − start)·f(t);  f = t/(n−1) (linear) or (1 − cos(π t/(n−1)))/2 (cosine)",
    look_at=(
        "Middle: the bands over seeds. Where they overlap, the schedule makes no difference that these seeds could "
        "show. Right: the share of tokens that the range holds back."
    ),
    source="Clip-higher: DAPO, https://arxiv.org/abs/2503.14476",
    run=_run,
)
