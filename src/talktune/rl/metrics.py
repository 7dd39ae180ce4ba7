"""The meaning and the unit of every logged number, and how numbers of micro-batches become those of the update.

Open it to look a metric up, or to add one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One number that is logged for every update."""

    name: str
    unit: str
    meaning: str
    merge: Literal["mean", "sum", "max", "once"] = "once"
    """Over micro-batches: weighted mean, sum, maximum, or known for the whole update only."""
    per: str = "tokens"
    """Which count weighs the mean."""


DISTILLED = "distill_tokens"

_OF_THE_TURNS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("loss", "1", "what is minimised: −(objective − β · KL term) + λ · distill_loss", "sum"),
        Metric("objective", "1", "clipped surrogate, averaged as the loss is, before the KL term", "sum"),
        Metric("reward_mean", "reward", "mean reward of the answers, from the votes, before length shaping"),
        Metric("reward_std", "reward", "unbiased standard deviation of those rewards"),
        Metric("votes_agreement", "share", "valid votes that equal the reward of their turn"),
        Metric("advantage_mean", "1", "mean advantage of the answers"),
        Metric("length_penalty_mean", "reward", "mean length penalty of the answers, −1 to 0"),
        Metric("ratio_mean", "1", "mean over tokens of ρ = exp(new − old)", "mean"),
        Metric("ratio_max", "1", "largest ρ of any token", "max"),
        Metric("clipped_low", "share", "tokens of bad answers with ρ < 1 − ε_low: no surrogate gradient", "mean"),
        Metric("clipped_high", "share", "tokens of good answers with ρ > 1 + ε_high: no surrogate gradient", "mean"),
        Metric(
            "kl_ref", "nats/token", "KL to the frozen reference, by the k3 estimator whatever the loss uses", "mean"
        ),
        Metric("entropy", "nats/token", "entropy of the policy's distribution at the trained tokens", "mean"),
        Metric(
            "distill_loss",
            "1",
            "self-distillation before its weight λ; the gradient counts: its value is 0 at ρ = 1",
            "sum",
        ),
        Metric("distill_gap", "nats", "mean |log-prob gap| of teacher and student, by the student", "mean", DISTILLED),
        Metric("distill_clipped", "share", "of that probability: where the gap is beyond ±1", "mean", DISTILLED),
        Metric(DISTILLED, "tokens", "answer tokens of disliked turns that were distilled", "sum"),
        Metric("complaints_help", "1", "whether complaints were found to make better answers (--distill auto), 0 or 1"),
        Metric("trust", "1", "how far the preference model of this user is believed, 0 to 1"),
        Metric("gain", "nats", "by which it foretold verdicts that it had not seen better than their base rate did"),
        Metric("fresh_answers", "answers", "fresh answers that were sampled"),
        Metric("fresh_guided", "answers", "of these, with the complaint before the question"),
        Metric("fresh_learned", "answers", "of the fresh answers, those that were learned from"),
        Metric("wanted_loss", "nats/token", "−mean log-prob of the wanted answers, before their weight", "sum"),
        Metric("wanted_tokens", "tokens", "tokens of the answers that people wanted", "sum"),
        Metric("wanted_answers", "answers", "turns whose person said what the answer should have been"),
        Metric("response_length", "tokens", "mean length of the answers"),
        Metric("tokens", "tokens", "answer tokens that the loss is made of", "sum"),
        Metric("tokens_per_second", "tokens/s", "those tokens over the time of the update"),
        Metric("grad_norm", "1", "norm of the gradient before clipping"),
        Metric("learning_rate", "1", "learning rate of the update"),
        Metric("eps_high", "1", "upper clip range ε_high of the update"),
        Metric("skipped_groups", "groups", "groups without variance, skipped: they carry no gradient"),
        Metric("staleness", "versions", "mean number of policy versions between sampling and this update"),
        Metric("seconds", "s", "wall time of the update"),
    )
}
METRICS: Mapping[str, Metric] = dict(_OF_THE_TURNS) | {
    f"fresh_{name}": replace(metric, name=f"fresh_{name}", meaning=f"of the fresh answers: {metric.meaning}")
    for name, metric in _OF_THE_TURNS.items()
    if metric.merge != "once" and not name.startswith(("distill", "wanted"))
}
"""Every metric by its name, in the order in which they are shown."""


def merge(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of a whole update from those of its micro-batches, exactly.

    Means are weighted by their count (`tokens`, mostly), sums added, maxima taken; a mean that is missing from some
    parts is over the others. `loss` and `objective` add up to those of the update when each part was given its `total`.
    ValueError for a name that has no merge (metrics of the whole update are added afterwards).
    """
    merged: dict[str, float] = {}
    weights: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            how = METRICS[name].merge if name in METRICS else "once"
            if how == "once":
                raise ValueError(f"metric {name!r} cannot be merged: add it after the parts are merged")
            if how == "max":
                merged[name] = max(merged.get(name, value), value)
            else:
                weight = part[METRICS[name].per] if how == "mean" else 1.0
                merged[name] = merged.get(name, 0.0) + weight * value
                weights[name] = weights.get(name, 0.0) + weight
    return {
        name: value / max(weights[name], 1.0) if METRICS[name].merge == "mean" else value
        for name, value in merged.items()
    }
