"""`ablation`: Token-level loss, Clip-higher and Reward shaping switched off one by one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from talktune.config import AlgorithmConfig, LabConfig
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import draw_runs, finish, mean, mean_and_range
from talktune.lab.trainer import History, Job, by_label, exams, run_jobs, with_seeds
from talktune.report.plots import BLUE, GREEN, ORANGE, VERMILLION, new_figure

LONGEST, ZONE = 32, 12
"""L_max and L_cache in tokens; a good list needs some 18 tokens of a base model that rambles."""
PASSES = 8
"""Updates with one set of samples, as when samples are dear; the ratio leaves 1 and clipping begins to matter."""
MOST_UPDATES = 160

FULL = AlgorithmConfig(group="prompt", L_max=LONGEST, L_cache=ZONE)
VARIANTS: dict[str, AlgorithmConfig] = {
    "all of TCR": FULL,
    "without T": replace(FULL, aggregation="sequence"),
    "without C": replace(FULL, eps_high=FULL.eps_low),
    "without R": replace(FULL, L_max=10**6, L_cache=0),
}
MEASURES = ("quality", "quality plain", "quality exact", "quality list", "cut")
AIMS = {"without T": "quality list", "without C": "quality exact", "without R": "cut"}
"""What each part is for: long answers (T), a rare good word (C), the length limit (R)."""
_LOOK = dict(zip(VARIANTS, ((BLUE, "-"), (ORANGE, "-."), (GREEN, "--"), (VERMILLION, ":")), strict=True))


def jobs(config: LabConfig) -> list[Job]:
    """Each variant with every seed, on all three kinds of question."""
    base = Job("", updates=MOST_UPDATES, kinds=("plain", "exact", "list"), asked=9, passes=PASSES, longest=LONGEST)
    return with_seeds(config, [replace(base, label=label, algorithm=of) for label, of in VARIANTS.items()])


def compare(full: Sequence[float], without: Sequence[float]) -> str:
    """`helps` when every seed is better with the part, `hurts` when every seed is worse, else `not clear`.

    The seeds are pairs: the same base model, questions and draws. With 5 seeds either verdict comes by chance in
    1 of 16 cases.
    """
    differences = [a - b for a, b in zip(full, without, strict=True)]
    return "helps" if min(differences) > 0 else "hurts" if max(differences) < 0 else "not clear"


def _verdicts(full: Sequence[History], without: Sequence[History], label: str) -> tuple[str, str]:
    """What the part does to the quality of all answers, and to what it is for (fewer cut answers are better)."""
    aim = AIMS[label]
    sign = -1 if aim == "cut" else 1
    pairs = [[sign * value for value in exams(histories, aim)] for histories in (full, without)]
    return compare(exams(full, "quality"), exams(without, "quality")), compare(*pairs)


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    found = by_label(run_jobs(jobs(config), say))
    full = found["all of TCR"]
    figure = new_figure(width=9.6)
    quality, cut, parts = figure.subplots(1, 3)
    rows: list[list[object]] = []
    numbers: dict[str, dict[str, object]] = {}
    verdicts: dict[str, str] = {}
    aims: dict[str, str] = {}
    for i, (label, histories) in enumerate(found.items()):
        draw_runs(quality, histories, "quality", _LOOK[label], label)
        draw_runs(cut, histories, "cut", _LOOK[label], label, factor=100)
        for k, kind in enumerate(("plain", "exact", "list")):
            values = exams(histories, f"quality {kind}")
            x = k + (i - 1.5) * 0.19
            parts.plot([x] * len(values), values, "_", color=_LOOK[label][0], markersize=7)
            parts.plot([x], [mean(values)], "o", color=_LOOK[label][0], markersize=5)
        values = {measure: exams(histories, measure) for measure in MEASURES}
        overall, aimed = ("–", "–") if histories is full else _verdicts(full, histories, label)
        verdicts[label], aims[label] = overall, aimed
        numbers[label] = {**values, "part_overall": overall, "part_at_its_aim": aimed}
        cells = [mean_and_range(values[measure]) for measure in MEASURES]
        rows.append([label, *cells, overall, f"{AIMS[label]}: {aimed}" if label in AIMS else aimed])
    finish(quality, title="Quality of fresh samples", x="update", y="mean opinion (−1 … 1)", legend="lower right")
    finish(cut, title=f"Cut off at {LONGEST} tokens", x="update", y="answers (%)")
    parts.set_xticks(range(3), ["plain\n(short)", "exact\n(rare word)", "list\n(long)"])
    finish(parts, title="After training, by kind", x="kind of question", y="mean opinion (−1 … 1)")
    words = {"without T": "the token-level loss", "without C": "clip-higher", "without R": "reward shaping"}

    def gain(label: str, measure: str) -> float:
        return mean(exams(full, measure)) - mean(exams(found[label], measure))

    told = "; ".join(
        f"{words[label]} {verdicts[label]} ({gain(label, 'quality'):+.2f}), and at its own aim, {AIMS[label]}, "
        f"{aims[label]} ({gain(label, AIMS[label]):+.2f})"
        for label in words
    )
    return Finding(
        columns=[
            "variant",
            *(f"{m}: mean (range)" if m == "quality" else m for m in MEASURES),
            "the part, quality",
            "the part, its own aim",
        ],
        rows=rows,
        numbers={"runs": numbers, "L_max": LONGEST, "L_cache": ZONE, "passes": PASSES},
        figure=figure,
        conclusion=(
            f"Quality after training with all of TCR: {mean(exams(full, 'quality')):+.2f}. What each part adds to the "
            f"same run without it, over {len(full)} paired seeds ('helps' only if it does on every seed): {told}."
        ),
    )


EXPERIMENT = Experiment(
    title="What each of T, C and R is for",
    idea=(
        "Three kinds of question, each hard in its own way: plain answers are short while lists are long, so that a "
        "mean over sequences and one over tokens differ (T); the good word of an exact answer is rare, so that a "
        "narrow clip range holds it back (C); lists run into the length limit (R). Each part is switched off alone."
    ),
    formula="T: mean over tokens, not over sequences.  C: ε_high = 0.28, not 0.2.  R: reward + penalty(length)",
    look_at=(
        "Bands and marks show every seed. A part whose band lies inside that of the full recipe did not help here, "
        "and the table says so: one small world is no proof that it never does."
    ),
    source="T, C, R: DAPO, https://arxiv.org/abs/2503.14476; the recipe: https://arxiv.org/abs/2510.11701",
    run=_run,
)
