"""`biased-judge`: a judge that likes length, and what holds the policy back from growing long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from talktune.config import AlgorithmConfig, LabConfig
from talktune.judge.panel import Ask, Judge
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import draw_runs, finish, mean, mean_and_range
from talktune.lab.trainer import Job, by_label, exams, run_jobs, with_seeds
from talktune.report.plots import BLUE, GREEN, GREY, ORANGE, VERMILLION, new_figure
from talktune.types import Vote

LONGEST, ZONE = 40, 20
"""L_max and L_cache in tokens: an answer is cut off at LONGEST, and safe up to LONGEST − ZONE."""
BETA = 0.1

FREE = AlgorithmConfig(group="prompt", beta=0.0)
SHAPED = replace(FREE, L_max=LONGEST, L_cache=ZONE)


@dataclass(frozen=True)
class LikesLength:
    """A judge that votes +1 for an answer of n tokens with chance min(n / LONGEST, 1), else as `honest` does."""

    honest: Judge
    name: str = "likes length"

    def vote(self, asks: Sequence[Ask]) -> list[Vote]:
        """One vote for each ask, in the same order."""
        return [
            Vote(1, judge=self.name) if _charmed(turn.sampled, turn.conversation_id, k) else vote
            for (turn, k), vote in zip(asks, self.honest.vote(asks), strict=True)
        ]


def _charmed(sampled: object, turn: str, k: int) -> bool:
    length = len(getattr(sampled, "answer_ids", ()))
    return Random(f"{turn}/{k}").random() < length / LONGEST


@dataclass(frozen=True)
class Variant:
    """Who judges, and what holds the length."""

    judge: Callable[[Judge], Judge] | None
    algorithm: AlgorithmConfig
    look: tuple[str, str]


VARIANTS = {
    "honest judge": Variant(None, FREE, (GREY, "-")),
    "biased": Variant(LikesLength, FREE, (VERMILLION, "-")),
    "biased, KL": Variant(LikesLength, replace(FREE, beta=BETA), (ORANGE, "-.")),
    "biased, shaping": Variant(LikesLength, SHAPED, (GREEN, "--")),
    "biased, shaping and KL": Variant(LikesLength, replace(SHAPED, beta=BETA), (BLUE, "-")),
}


def jobs(config: LabConfig) -> list[Job]:
    """Each variant with every seed."""
    variants = VARIANTS.items()
    return with_seeds(
        config, [Job(name, algorithm=v.algorithm, judge=v.judge, longest=LONGEST) for name, v in variants]
    )


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    found = by_label(run_jobs(jobs(config), say))
    figure = new_figure(width=9.6)
    lengths, quality, judged = figure.subplots(1, 3)
    rows: list[list[object]] = []
    numbers: dict[str, dict[str, list[float]]] = {}
    for label, histories in found.items():
        for axes, metric in ((lengths, "response_length"), (quality, "quality"), (judged, "judged")):
            draw_runs(axes, histories, metric, VARIANTS[label].look, label)
        numbers[label] = {
            **{f"{what}_after": exams(histories, what) for what in ("length", "quality", "cut")},
            "judged_after": [sum(history.series("judged")[1][-10:]) / 10 for history in histories],
        }
        rows.append([label, *(mean_and_range(values) for values in numbers[label].values())])
    lengths.axhspan(LONGEST - ZONE, LONGEST, color=ORANGE, alpha=0.13, linewidth=0)
    lengths.set_ylim(0, LONGEST + 1)
    finish(lengths, title="Length (shaded: penalised)", x="update", y="mean answer length (tokens)")
    quality.set_ylim(-1.05, 1.08)
    finish(quality, title="What the user thinks", x="update", y="mean opinion (−1 … 1)")
    judged.set_ylim(-1.05, 1.08)
    finish(judged, title="What the judge says", x="update", y="mean reward (−1 … 1)", legend="lower right")
    free, held, honest = (
        {name: mean(values) for name, values in numbers[label].items()}
        for label in ("biased", "biased, shaping and KL", "honest judge")
    )
    return Finding(
        columns=["judge", "length after: mean (range)", "true quality", "share cut off", "judged reward"],
        rows=rows,
        numbers={"runs": numbers, "L_max": LONGEST, "L_cache": ZONE, "beta": BETA},
        figure=figure,
        conclusion=(
            f"With a judge that likes length and nothing to hold it, answers grew to {free['length_after']:.1f} of "
            f"{LONGEST} tokens and true quality ended at {free['quality_after']:+.2f}, while the judge saw "
            f"{free['judged_after']:+.2f}. With length shaping and KL they stayed at {held['length_after']:.1f} tokens "
            f"(safe up to {LONGEST - ZONE}) with a true quality of {held['quality_after']:+.2f}; an honest judge gives "
            f"{honest['quality_after']:+.2f}."
        ),
    )


EXPERIMENT = Experiment(
    title="A judge that likes length",
    idea=(
        "A policy does what its judge rewards, not what was meant. This judge is charmed by length: the longer the "
        "answer, the more of its votes are +1 whatever the user said. Length shaping takes the charm away near the "
        "limit, and the KL to the base model makes every step away from natural lengths cost."
    ),
    formula="P(vote = +1 | n tokens) = n/L + (1 − n/L)·P(honest vote = +1), L = 40;  reward + penalty(n), zone 20 … 40",
    look_at=(
        "Left: unchecked, the length runs into the limit. Middle against right: the judge sees success where the user "
        "sees answers that never end. That gap is why a judge is checked against people."
    ),
    source="Length bias of judges: https://arxiv.org/abs/2310.03716; shaping: DAPO, https://arxiv.org/abs/2503.14476",
    run=_run,
)
