"""Tests whether a model's answers get better when it has read the reaction, before anything is learned from that.

Open it to see when `--distill auto` is on.

disliked turns -> answers of the bare model without and with the reaction -> scores -> sign test -> a finding

A model that cannot use the reaction has nothing to teach: small models often answer the complaint in place of the
question.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, inf
from random import Random

from transformers import PreTrainedTokenizerBase

from talktune.errors import UserError
from talktune.learner.hindsight import teacher_prompt
from talktune.learner.samples import Sampler, prompt_ids
from talktune.types import Sampled, Turn

LEVEL = 0.05
"""Chance that a reaction which changes nothing is believed to help, at most; five turns are the fewest that can do."""
WEIGHT = 0.1
"""λ of the distillation where a probe has turned it on."""

Prompt = tuple[int, ...]
Scorer = Callable[[Sequence[Turn], Sequence[Sampled]], Sequence[float]]
"""How good fresh answers to the prompts of these turns are, higher is better: say p(+1) − p(−1)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a probe: the scores with and without the reaction."""

    turns: int
    """Disliked turns that were asked again, each as often with the reaction as without."""
    plain: float
    """Mean score of the answers that were sampled without the reaction."""
    guided: float
    """And of those with it."""
    better: int
    """Turns whose guided answers are better on average."""
    worse: int
    chance: float
    """That a reaction which changes nothing does as well: one-sided sign test over the turns that differ."""

    @property
    def helps(self) -> bool:
        """Whether the reaction is worth learning from: better beyond chance, and on average."""
        return self.chance <= LEVEL and self.guided > self.plain

    def __str__(self) -> str:
        verdict = "on" if self.helps else "off"
        return (
            f"self-distillation {verdict}: with the reaction {self.better} of {self.turns} disliked turns are answered "
            f"better and {self.worse} worse (score {self.plain:+.2f} → {self.guided:+.2f}, chance {self.chance:.3f})"
        )


def compare(plain: Sequence[Sequence[float]], guided: Sequence[Sequence[float]]) -> Finding:
    """Compare the scores of each turn's answers, without the reaction and with it.

    The sign test (Conover 1999, § 3.4) takes a turn's mean difference for one throw of a coin and leaves out turns
    without a difference: P(at least `better` heads of better + worse). It holds for any scale of scores and any number
    of turns, where a bootstrap over few turns promises too much. ValueError for lists of different length.
    """
    pairs = [(_mean(a), _mean(b)) for a, b in zip(plain, guided, strict=True)]
    better, worse = sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)
    n = better + worse
    return Finding(
        turns=len(pairs),
        plain=_mean([a for a, _ in pairs]),
        guided=_mean([b for _, b in pairs]),
        better=better,
        worse=worse,
        chance=sum(comb(n, k) for k in range(better, n + 1)) / 2**n,
    )


def probe(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    sample: Sampler,
    score: Scorer,
    *,
    seed: int,
    most: int = 32,
    copies: int = 4,
    longest: float = inf,
) -> Finding:
    """Ask at most `most` disliked turns again, drawn by the seed: each `copies` times plainly and with the reaction.

    Turns whose prompt has more than `longest` tokens with the reaction are left out.
    The scorer is shown every answer as one to the plain prompt. Who asks again as turns come in gives chance another
    throw each time: ask at 8, 16, 32, … turns.
    """
    asked: list[tuple[Turn, Prompt, Prompt]] = []
    for turn in turns:
        try:
            plain = prompt_ids(turn, tokenizer)
        except UserError:  # a template that cannot say this turn
            continue
        guided = teacher_prompt(turn, plain, tokenizer)
        if guided is not None and len(guided) <= longest:
            asked.append((turn, plain, guided))
    if len(asked) > most:
        asked = [asked[i] for i in sorted(Random(seed).sample(range(len(asked)), most))]
    if not asked:
        return compare((), ())
    prompts = [ids for _, plain, guided in asked for ids in (*[plain] * copies, *[guided] * copies)]
    heads = [(turn, plain) for turn, plain, _ in asked for _ in range(2 * copies)]
    answers = [
        Sampled(plain, one.answer_ids, None, one.temperature, one.policy_version)
        for (_, plain), one in zip(heads, sample(prompts), strict=True)
    ]
    scores = list(score([turn for turn, _ in heads], answers))
    rows = [scores[i : i + copies] for i in range(0, len(scores), copies)]
    return compare(rows[::2], rows[1::2])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
