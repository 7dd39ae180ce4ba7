"""The gate: the limits that a new version must keep on a set of probes before it goes live.

Open it to see why a version was rejected. `live/exam.py` takes the measures, `live/learn.py` asks for them, and
`store/policies.py` makes the version live.

Probes are prompts with accepted answers (facts, answered greedily) and open ones (answered by sampling with a fixed
seed). A candidate is held against the live version and against the base model. A limit is a number in the config; a
comparison with the live version counts only beyond noise, which is a sign test for facts (Conover 1999, § 3.4) and two
standard errors for the judge's preference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

from talktune.config import GateConfig
from talktune.conversations.files import parse_json, strict_lines
from talktune.conversations.messages import BadConversation
from talktune.conversations.prompt_files import parse_prompt
from talktune.errors import UserError
from talktune.learner.texts import repetition, says
from talktune.types import Message

SHIPPED = Path(__file__).parent / "data" / "probes.jsonl"
NOISE = 2.0
"""Standard errors within which a difference says nothing."""
FEWEST_JUDGED = 8
"""Held-out verdicts from which the judge's preference counts."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question of the gate, with the words of which a right answer has one; an open probe has none."""

    prompt: tuple[Message, ...]
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """How far a version moved towards answers that the judge liked, on verdicts that it was not trained on.

    The mean over turns of (reward − mean reward) · (log-prob a token, candidate − live), with its standard error.
    """

    mean: float
    error: float
    turns: int


@dataclass(frozen=True, slots=True)
class Measures:
    """The measured numbers of one version's answers."""

    facts: tuple[bool, ...]
    """Which facts it got right."""
    ended: tuple[bool, ...]
    """Which answers ended by themselves, of the open ones and of those to facts."""
    tokens: float
    """Mean length of the open answers."""
    repetition: float
    """Mean share of repeated runs of words in an answer."""
    distinct: float
    """Share of different answers among the open ones."""
    empty: float
    """Share of open answers without a word."""
    kl: float
    """To the base model, nats a token of the open answers (k3)."""

    def as_dict(self) -> dict[str, float]:
        """The measures as the store keeps them."""
        numbers: dict[str, float] = {
            name: getattr(self, name) for name in ("tokens", "repetition", "distinct", "empty", "kl")
        }
        return {"facts": float(sum(self.facts)), "ended": float(sum(self.ended))} | numbers


def read_probes(path: Path | None) -> list[Probe]:
    """The probes of a file of {"prompt": …, "answer": [words]} lines, the shipped ones without; UserError by line."""
    path = SHIPPED if path is None else path
    probes: list[Probe] = []
    for number, line in strict_lines(path):
        try:
            raw: Any = parse_json(line)
            if not isinstance(raw, Mapping):
                raise BadConversation('it is no object like {"prompt": …, "answer": […]}')
            accepted: Any = raw.get("answer") or []
            accepted = [accepted] if isinstance(accepted, str) else accepted
            if not isinstance(accepted, list) or not all(isinstance(word, str) for word in accepted):
                raise BadConversation('its "answer" is not a list of words')
            probes.append(Probe(parse_prompt(raw), tuple(accepted)))
        except (BadConversation, ValueError) as reason:
            raise UserError(f"{path}, line {number}: {reason}; correct that line.") from None
    if not any(not probe.accepted for probe in probes):
        raise UserError(f"{path}: there is no open probe (without an answer) in it; add some.")
    return probes


def measure(
    facts: Sequence[Probe],
    told: Sequence[str],
    opened: Sequence[str],
    ended: Sequence[bool],
    tokens: float,
    kl: float,
) -> Measures:
    """Measure a version by its answers: `told` to the facts, `opened` to the open probes; `ended` is of both."""
    words = [" ".join(text.lower().split()) for text in opened]
    return Measures(
        facts=tuple(says(text, probe.accepted) for probe, text in zip(facts, told, strict=True)),
        ended=tuple(ended),
        tokens=tokens,
        repetition=sum(map(repetition, opened)) / len(opened),
        distinct=len(set(words)) / len(words),
        empty=sum(not text for text in words) / len(words),
        kl=kl,
    )


def preference(rewards: Sequence[float], gains: Sequence[float]) -> Preference | None:
    """The judge's preference from held-out rewards and gains in log-prob a token; None where they tell nothing."""
    n = len(rewards)
    if n < FEWEST_JUDGED or max(rewards) - min(rewards) < 1e-8:
        return None
    mean = sum(rewards) / n
    terms = [(reward - mean) * gain for reward, gain in zip(rewards, gains, strict=True)]
    value = sum(terms) / n
    error = sqrt(sum((term - value) ** 2 for term in terms) / (n - 1) / n)
    return Preference(value, error, n)


def objections(
    candidate: Measures, live: Measures, base: Measures, judged: Preference | None, limits: GateConfig
) -> list[str]:
    """The reasons why a candidate must not go live, each in a few words with its numbers; empty when it may."""
    found: list[str] = []
    known = [i for i, right in enumerate(base.facts) if right]
    kept = sum(candidate.facts[i] for i in known)
    if known and kept < limits.gate_facts * len(known):
        found.append(f"facts: {kept} of {len(known)} that the base model knows, wanted {limits.gate_facts:.0%}")
    everywhere = [True] * len(base.facts)
    for what, was, now, counted in (
        ("facts", live.facts, candidate.facts, everywhere),
        # An end that only learning has brought may go again: an answer that had become too short grows.
        ("answers that end by themselves", live.ended, candidate.ended, base.ended),
    ):
        lost, gained = _changes(was, now, counted)
        if lost - gained > NOISE * sqrt(lost + gained):
            found.append(f"{what}: {lost} lost and {gained} gained against the live version")
    ended, enough = sum(candidate.ended), ceil(limits.gate_ended * sum(base.ended))
    if ended < enough:
        found.append(f"{ended} answers end by themselves, wanted {enough} (the base model: {sum(base.ended)})")
    if not candidate.kl <= limits.gate_kl:
        found.append(f"KL to the base model {candidate.kl:.2f} nats/token, at most {limits.gate_kl:g}")
    low, high = limits.gate_length_low * base.tokens, limits.gate_length_high * base.tokens
    if not low <= candidate.tokens <= high:
        found.append(f"length {candidate.tokens:.0f} tokens, wanted {low:.0f} to {high:.0f}")
    most = max(base.repetition, live.repetition) + limits.gate_repetition
    if candidate.repetition > most:
        found.append(f"repetition {candidate.repetition:.2f}, at most {most:.2f}")
    if candidate.distinct < limits.gate_distinct * base.distinct:
        found.append(f"only {candidate.distinct:.0%} of its answers differ from each other")
    if candidate.empty > base.empty + limits.gate_empty:
        found.append(f"{candidate.empty:.0%} of its answers are empty")
    if judged is not None and judged.mean < -NOISE * judged.error:
        found.append(f"judge: it moves away from what was liked ({judged.mean:+.3f} ± {judged.error:.3f})")
    return found


def _changes(was: Sequence[bool], now: Sequence[bool], counted: Sequence[bool]) -> tuple[int, int]:
    """How many of the counted ones were lost, and gained."""
    pairs = [(a, b) for a, b, counts in zip(was, now, counted, strict=True) if counts]
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
