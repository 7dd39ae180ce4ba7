"""The preference model: from a prompt and an answer, never the reaction, to the verdict that this user will give.

    (prompt, answer) -> Reading -> experts, one a view of it -> mixture -> p(−1), p(0), p(+1) -> trust

Every expert is a small classifier on one view; they are fitted anew on the judged turns so far, and mixed by how well
each foretold the verdicts before it had seen them. All of it is a pure function of the turns in their order.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from talktune.judge.hidden import blocks, pooled_rows
from talktune.rl.logistic import base_rate, fit_weight, probabilities
from talktune.rl.trust import earned_trust, expert_weights, log_losses, mixed

DEPTHS = (6 / 30, 12 / 30, 16 / 30, 20 / 30)
"""Where the bare model is read, as shares of its depth."""
AT_ONCE = 4
"""Turns that are foretold by one fit, from all turns before them."""
DEVIATIONS = (0.7, 2.0)
"""How far a view may move a score before anything is known: an expert for each."""
BASE_PRIOR = 0.5
"""What the mixture believes at first of the base rate alone; the experts share the rest."""
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]|\n")
_CONTENT = 4
"""Fewer letters make no content word; its first five stand for it."""


@dataclass(frozen=True)
class Reading:
    """What there is to know of one answer to one prompt."""

    prompt: tuple[int, ...]
    """Token ids, by which prompts are told apart."""
    words: frozenset[str]
    """Words and signs of the answer."""
    shape: tuple[float, ...]
    """Log length, whether it ended by itself, share of the prompt's content words in it, likeness of both texts."""
    states: Tensor
    """(layers, 2 H): mean and last state of the bare model over the answer, at `DEPTHS`."""


class Answer(NamedTuple):
    """One answer to be read."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    question: str
    """What the person said last."""
    text: str
    ended: bool
    """Whether the model ended it by itself."""


def read_answers(model: Any, answers: Sequence[Answer]) -> list[Reading]:
    """Read answers with the bare model; a reading does not depend on the others beyond float noise."""
    if not answers:
        return []
    deep = len(blocks(model))
    layers = [min(deep, max(1, round(share * deep))) for share in DEPTHS]
    rows = [([*a.prompt_ids, *a.answer_ids], len(a.prompt_ids)) for a in answers]
    states = pooled_rows(model, rows, layers).double()
    prompts = list(dict.fromkeys(a.prompt_ids for a in answers))
    asked = pooled_rows(model, [([*ids], 0) for ids in prompts], layers[1:2]).double()[:, 0]
    place = {ids: i for i, ids in enumerate(prompts)}
    size = states.shape[2] // 2
    return [
        Reading(
            a.prompt_ids, frozenset(words(a.text)), _shape(a, row[1, :size], asked[place[a.prompt_ids], :size]), row
        )
        for a, row in zip(answers, states, strict=True)
    ]


def words(text: str) -> list[str]:
    """Lower-case words, signs and line ends, in their order."""
    return _WORD.findall(text.lower())


def _shape(answer: Answer, said: Tensor, asked: Tensor) -> tuple[float, ...]:
    wanted = _content(answer.question)
    shared = len(wanted & _content(answer.text)) / len(wanted) if wanted else 1.0
    likeness = float(torch.nn.functional.cosine_similarity(said, asked, dim=0))
    return (log(1 + len(answer.answer_ids)), float(answer.ended), shared, likeness)


def _content(text: str) -> set[str]:
    return {word[:5] for word in words(text) if len(word) >= _CONTENT}


class View(NamedTuple):
    """One way to look at readings: a number for each column, with the columns that a fit on some of them may use."""

    name: str
    table: Callable[[Sequence[Reading]], Tensor]
    """(N, D)."""
    counted: bool = False
    """Columns are occurrences: used where two prompts have them, and not brought to one spread."""


def state_view(*places: tuple[int, int]) -> Callable[[Sequence[Reading]], Tensor]:
    """A table of states: pairs of a layer's number among `DEPTHS` and 0 (mean) or 1 (last)."""

    def table(readings: Sequence[Reading]) -> Tensor:
        all_states = torch.stack([r.states for r in readings])  # (N, layers, 2 H)
        size = all_states.shape[2] // 2
        return torch.cat([all_states[:, layer, part * size : (part + 1) * size] for layer, part in places], dim=1)

    return table


def _occurrences(readings: Sequence[Reading]) -> Tensor:
    vocabulary = {word: i for i, word in enumerate(sorted(frozenset().union(*(r.words for r in readings))))}
    found = torch.zeros(len(readings), len(vocabulary), dtype=torch.float64)
    for row, reading in zip(found, readings, strict=True):
        row[[vocabulary[word] for word in sorted(reading.words)]] = 1.0
    return found


def _shapes(readings: Sequence[Reading]) -> Tensor:
    return torch.tensor([r.shape for r in readings], dtype=torch.float64)


VIEWS: tuple[View, ...] = (
    View("words", _occurrences, counted=True),
    View("early", state_view((0, 0), (1, 0))),
    View("late", state_view((1, 1), (2, 1), (3, 1))),
    View("shape", _shapes),
)
"""What the experts look at."""


def experts(views: Sequence[View] = VIEWS) -> int:
    """How many there are."""
    return (len(views) + 1) * len(DEVIATIONS) + 1


def foretell(
    readings: Sequence[Reading], classes: Tensor, others: Sequence[Reading], views: Sequence[View] = VIEWS
) -> Tensor:
    """p (M, K, 3) of `others` from turns with known classes (N,), by experts for each view and for all of them.

    The last expert is the base rate alone.
    """
    base = base_rate(classes)
    flat = base.expand(len(others), 1, 3)
    if len(readings) < 2 or not others:
        return flat.expand(-1, experts(views), -1)
    tables = [_scaled(view.table([*readings, *others]), readings, counted=view.counted) for view in views]
    # One more looks at all of them at once: its score is a sum of theirs, and its norm one again.
    known, new = (torch.cat(parts, dim=1) / sqrt(len(views)) for parts in zip(*tables, strict=True))
    told = [
        probabilities(new, fit_weight(known, classes, base, deviation), base)[:, None]
        for known, new in [*tables, (known, new)]
        for deviation in DEVIATIONS
    ]
    return torch.cat([*told, flat], dim=1)


def _scaled(table: Tensor, readings: Sequence[Reading], *, counted: bool) -> tuple[Tensor, Tensor]:
    """The rows of `readings` and the others, centred and scaled by the former, whose squared norm is 1 in the mean."""
    n = len(readings)
    if counted:
        prompts = {ids: i for i, ids in enumerate(dict.fromkeys(r.prompt for r in readings))}
        seen = torch.zeros(len(prompts), table.shape[1], dtype=table.dtype)
        seen.index_add_(0, torch.tensor([prompts[r.prompt] for r in readings]), table[:n])
        table = table[:, (seen > 0).sum(0) >= 2]
    spread = table[:n].std(0)
    table = table[:, spread > 1e-9]
    table = table - table[:n].mean(0)
    if not counted:
        table = table / table[:n].std(0)
    norm = table[:n].square().sum(1).mean().sqrt() if table.shape[1] else torch.ones(())
    return table[:n] / norm, table[n:] / norm


@dataclass(frozen=True)
class Preference:
    """What this user's verdicts taught so far."""

    readings: tuple[Reading, ...]
    classes: Tensor
    weights: Tensor
    """(K,) of the experts, the base rate's last."""
    trust: float
    gain: float
    """Mean nats by which the mixture foretold the verdicts of the window better than the base rate did."""

    def rewards(self, others: Sequence[Reading]) -> list[float]:
        """p(+1) − p(−1) of answers that nobody judged."""
        p = mixed(foretell(self.readings, self.classes, others), self.weights)
        return (p[:, 2] - p[:, 0]).tolist()


def learn_preference(readings: Sequence[Reading], labels: Sequence[float], window: int = 64) -> Preference:
    """Fit on judged turns, oldest first, whose labels are −1, 0 or +1; trust is what the last `window` foretold."""
    classes = torch.tensor([round(label) + 1 for label in labels])
    told = foretold(readings, classes)
    weights, scores, gains = judge_experts(told, classes)
    mean = float(gains[-window:].mean()) if len(gains) else 0.0
    trust = earned_trust(scores[-window:], classes[-window:])
    return Preference(tuple(readings), classes, weights[-1], trust, mean)


def foretold(readings: Sequence[Reading], classes: Tensor, views: Sequence[View] = VIEWS) -> Tensor:
    """p (N, K, 3) of every turn by experts that knew the turns before its block of `AT_ONCE` only."""
    parts = [
        foretell(readings[:start], classes[:start], readings[start : start + AT_ONCE], views)
        for start in range(0, len(readings), AT_ONCE)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, experts(views), 3, dtype=torch.float64)


def judge_experts(told: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The experts' weights (N + 1, K); what the mixture foretold above the base rate (N,), as a score and in nats.

    The score is p(+1) − p(−1) less that of the base rate, so that a user who grows happier earns the model no trust.
    """
    losses = log_losses(told, classes)
    others = losses.shape[1] - 1
    prior = torch.tensor([(1 - BASE_PRIOR) / others] * others + [BASE_PRIOR], dtype=torch.float64)
    weights = expert_weights(losses, prior)
    mixture = mixed(told, weights[:-1])
    above = mixture - told[:, -1]
    return weights, above[:, 2] - above[:, 0], losses[:, -1] - log_losses(mixture[:, None], classes)[:, 0]
