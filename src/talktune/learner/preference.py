"""The preference model: from a prompt and an answer, never the reaction, to the verdict that this user will give.

Open it to see how fresh answers get their rewards.

    (prompt, answer) -> Reading -> experts, one a view of it -> mixture -> p(−1), p(0), p(+1) -> trust

Every expert is a small classifier on one view, fitted anew on the judged turns so far. How well each foretells this
user is seen by cross-validation: a turn's verdict is foretold by fits that saw neither it nor any answer to its prompt.
By that the experts are mixed, and by the order that the mixture found it is trusted. Foretelling each turn from the
turns before it alone would say less: with 32 verdicts half of them are foretold from fewer than 16 (bench/preference).
All of it is a pure function of the turns in their order.
"""

import re
import unicodedata
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
FOLDS = 8
"""Parts of the prompts that are foretold in turn from the others."""
WINDOW = 128
"""Turns that are fitted, the latest ones."""
DEVIATIONS = (0.7, 2.0)
"""How far a view may move a score before anything is known: an expert for each."""
READER = 1
"""Raised when readings come to mean something else: those that were kept are then of no use."""
BASE_PRIOR = 0.5
"""What the mixture believes at first of the base rate alone; the experts share the rest."""
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]|\n")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_LENGTHS = tuple(log(2) * k / 2 for k in range(5, 18))
_STYLE: tuple[frozenset[str], ...] = tuple(
    frozenset(signs.split(" "))
    for signs in (
        "!", "?", ":", ";", ",", ". …", "- – — •", "*", "# =", "` |", "\" “ ” „ «", "( ) [ ]", "\n",
        "i i'm i'll i'd i've me my mine", "we we're we'll our us let's", "you you're you'll your yours",
        "not no never don't doesn't can't isn't", "may might could would perhaps likely often usually",
    )
)  # fmt: skip
"""Signs and small words that tell how something is said, whatever it is about, as stylometry counts them
(Mosteller & Wallace 1963)."""
_CONTENT = 4
"""Fewer letters make no content word; its first five stand for it."""


@dataclass(frozen=True)
class Reading:
    """What the preference model sees of one answer to one prompt."""

    prompt: tuple[int, ...]
    """Token ids, by which prompts are told apart."""
    words: frozenset[str]
    """Words and signs of the answer; those of the first sentence once more as ^word, those of the last as $word."""
    shape: tuple[float, ...]
    """Log length, whether it ended by itself, share of the prompt's content words in it, likeness of both texts."""
    states: Tensor
    """(layers, 2 H): mean and last state of the bare model over the answer, at `DEPTHS`."""


class Answer(NamedTuple):
    """One answer that is to be read."""

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
    # An empty answer is read where it would begin.
    rows = [([*a.prompt_ids, *a.answer_ids], len(a.prompt_ids) - (not a.answer_ids)) for a in answers]
    states = pooled_rows(model, rows, layers).double()
    prompts = list(dict.fromkeys(a.prompt_ids for a in answers))
    asked = pooled_rows(model, [([*ids], 0) for ids in prompts], layers[1:2]).double()[:, 0]
    place = {ids: i for i, ids in enumerate(prompts)}
    size = states.shape[2] // 2
    return [
        Reading(a.prompt_ids, marked_words(a.text), _shape(a, row[1, :size], asked[place[a.prompt_ids], :size]), row)
        for a, row in zip(answers, states, strict=True)
    ]


def words(text: str) -> list[str]:
    """Lower-case words, signs and line ends, in their order."""
    return _WORD.findall(text.lower())


def marked_words(text: str) -> frozenset[str]:
    """The words, and those of the first and the last sentence once more, marked: a greeting is one only there."""
    sentences = [part for part in _SENTENCE.findall(text) if part.strip()] or [""]
    first = {"^" + word for word in words(sentences[0])}
    last = {"$" + word for word in words(sentences[-1])}
    return frozenset(words(text)) | first | last


def _shape(answer: Answer, said: Tensor, asked: Tensor) -> tuple[float, ...]:
    wanted = _content(answer.question)
    shared = len(wanted & _content(answer.text)) / len(wanted) if wanted else 1.0
    likeness = float(torch.nn.functional.cosine_similarity(said, asked, dim=0))
    return (log(1 + len(answer.answer_ids)), float(answer.ended), shared, likeness)


def _content(text: str) -> set[str]:
    return {word[:5] for word in words(text) if len(word) >= _CONTENT}


PassBy = Callable[[], None]
"""Called between two fits, so that who must not wait for them all can compute."""


def _go_on() -> None:
    """Nobody else waits."""


class View(NamedTuple):
    """One way to turn readings into features: columns of numbers, and which columns a fit on some readings may use."""

    name: str
    table: Callable[[Sequence[Reading]], Tensor]
    """(N, D)."""
    counted: bool = False
    """Columns are occurrences: used where two prompts have them, and not brought to one spread."""


def state_view(*places: tuple[int, int]) -> Callable[[Sequence[Reading]], Tensor]:
    """The view of hidden states: pairs of a layer's number among `DEPTHS` and 0 (mean) or 1 (last)."""

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
    # Steps of the length beside it: an answer can be too short as well as too long.
    rows = [(*r.shape, *(float(r.shape[0] >= step) for step in _LENGTHS)) for r in readings]
    return torch.tensor(rows, dtype=torch.float64)


def _style(readings: Sequence[Reading]) -> Tensor:
    """Which signs and small words occur at all, in the first and in the last sentence; numbers and pictures, too."""
    return torch.tensor([_style_of(r.words) for r in readings], dtype=torch.float64)


def _style_of(said: frozenset[str]) -> list[float]:
    row: list[float] = []
    for mark in ("", "^", "$"):
        here = frozenset(word[len(mark) :] for word in said if word.startswith(mark)) - {""}
        row += [float(not signs.isdisjoint(here)) for signs in _STYLE]
        row += [float(any(w.isdigit() for w in here)), float(any(unicodedata.category(w[-1]) == "So" for w in here))]
    return row


VIEWS: tuple[View, ...] = (
    View("words", _occurrences, counted=True),
    View("style", _style),
    View("early", state_view((0, 0), (1, 0))),
    View("middle", state_view((1, 0), (3, 0))),
    View("late", state_view((1, 1), (2, 1), (3, 1))),
    View("shape", _shapes),
)
"""What the experts look at."""


def experts(views: Sequence[View] = VIEWS) -> int:
    """The number of experts."""
    return (len(views) + 1) * len(DEVIATIONS) + 1


def foretell(
    readings: Sequence[Reading],
    classes: Tensor,
    others: Sequence[Reading],
    views: Sequence[View] = VIEWS,
    pass_by: PassBy = _go_on,
    judged: int | None = None,
) -> Tensor:
    """Predict p (M, K, 3) of `others` from turns with known classes (N,): one expert for each view, one for all.

    The last expert is the base rate alone: that of the first `judged` turns, by default of all.
    """
    base = base_rate(classes[:judged])
    flat = base.expand(len(others), 1, 3)
    if len(classes[:judged]) < 2 or not others:
        return flat.expand(-1, experts(views), -1)
    n = len(readings) if judged is None else judged
    tables = [_scaled(view.table([*readings, *others]), readings, n, counted=view.counted) for view in views]
    # One more looks at all of them at once: its score is a sum of theirs, and its norm one again.
    whole, rest = (torch.cat(parts, dim=1) / sqrt(len(views)) for parts in zip(*tables, strict=True))
    told: list[Tensor] = []
    for known, new in [*tables, (whole, rest)]:
        for deviation in DEVIATIONS:
            pass_by()
            told.append(probabilities(new, fit_weight(known, classes, base, deviation), base)[:, None])
    return torch.cat([*told, flat], dim=1)


def _scaled(table: Tensor, readings: Sequence[Reading], judged: int, *, counted: bool) -> tuple[Tensor, Tensor]:
    """The rows of `readings` and the others, centred and scaled by the `judged` first, whose mean squared norm is 1.

    By those alone: what differs most between a model's answers and a person's is not what a model's differ in.
    """
    n = len(readings)
    if counted:
        prompts = {ids: i for i, ids in enumerate(dict.fromkeys(r.prompt for r in readings))}
        seen = torch.zeros(len(prompts), table.shape[1], dtype=table.dtype)
        seen.index_add_(0, torch.tensor([prompts[r.prompt] for r in readings]), table[:n])
        table = table[:, (seen > 0).sum(0) >= 2]
    within = table[: n if counted else judged]
    table = table[:, within.amax(0) - within.amin(0) > 1e-9]
    table = table - table[:judged].mean(0)
    if not counted and table.shape[1]:
        table = table / table[:judged].std(0)
    norm = table[:judged].square().sum(1).mean().sqrt() if table.shape[1] else torch.ones(())
    norm = norm if norm > 0 else torch.ones_like(norm)
    return table[:n] / norm, table[n:] / norm


@dataclass(frozen=True)
class Preference:
    """The fitted preference model of one user, or of everybody."""

    readings: tuple[Reading, ...]
    classes: Tensor
    weights: Tensor
    """(K,) of the experts, the base rate's last."""
    trust: float
    gain: float
    """Mean nats by which the mixture foretold verdicts that it had not seen better than the base rate did."""
    judged: int | None = None
    """So many of the readings, the first ones, are of turns that were judged: the others were wanted. None: all."""

    def rewards(self, others: Sequence[Reading], pass_by: PassBy = _go_on) -> list[float]:
        """The predicted rewards p(+1) − p(−1) of answers that nobody judged."""
        told = foretell(self.readings, self.classes, others, pass_by=pass_by, judged=self.judged)
        p = mixed(told, self.weights)
        return (p[:, 2] - p[:, 0]).tolist()


def learn_preference(
    readings: Sequence[Reading],
    labels: Sequence[float],
    window: int = WINDOW,
    pass_by: PassBy = _go_on,
    wanted: Sequence[Reading] = (),
) -> Preference:
    """Fit the model on the last `window` judged turns, oldest first, whose labels are −1, 0 or +1, or count as such.

    Answers that were `wanted` are liked ones to be fitted, and nothing else: neither the base rate, nor the weights of
    the experts, nor trust come of them. A person's own words are easily told from a model's, and to have foretold
    that they are liked says nothing of the order of a model's answers.
    """
    readings = readings[-window:]
    classes = torch.tensor([max(-1, min(1, round(label))) + 1 for label in labels[-window:]], dtype=torch.long)
    n, known = len(readings), [*readings, *wanted]
    liked = torch.cat([classes, torch.full((len(wanted),), 2)])
    folds = folds_of(known)
    told = foretold(known, liked, folds, pass_by=pass_by, judged=n)
    weights, scores, gains = judge_experts(told, classes, folds[:n])
    trust, gain = earned_trust(scores, classes), float(gains.mean()) if len(gains) else 0.0
    return Preference(tuple(known), liked, weights, trust, gain, n)


def folds_of(readings: Sequence[Reading]) -> Tensor:
    """(N,) the part that each turn belongs to: answers to one prompt stay together, prompts are dealt out in order."""
    places = {ids: i for i, ids in enumerate(dict.fromkeys(r.prompt for r in readings))}
    return torch.tensor([places[r.prompt] % FOLDS for r in readings], dtype=torch.long)


def foretold(
    readings: Sequence[Reading],
    classes: Tensor,
    folds: Tensor,
    views: Sequence[View] = VIEWS,
    pass_by: PassBy = _go_on,
    judged: int | None = None,
) -> Tensor:
    """Cross-validated p (N, K, 3) of the first `judged` readings (by default all), each by experts that never saw its
    fold.
    """
    n = len(readings) if judged is None else judged
    told = torch.zeros(n, experts(views), 3, dtype=torch.float64)
    for fold in folds[:n].unique():
        others, mine = ((folds != fold).nonzero()[:, 0], (folds[:n] == fold).nonzero()[:, 0])
        known = [readings[i] for i in others]
        told[mine] = foretell(
            known, classes[others], [readings[i] for i in mine], views, pass_by, judged=int((others < n).sum())
        )
    return told


def judge_experts(told: Tensor, classes: Tensor, folds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The experts' weights (K,), and the gain of their mixture over the base rate (N,), as a score and in nats.

    A turn's own fold has no say in the weights of the mixture that foretells it. The score is p(+1) − p(−1) less that
    of the base rate.
    """
    losses = log_losses(told, classes)
    others = losses.shape[1] - 1
    prior = torch.tensor([(1 - BASE_PRIOR) / others] * others + [BASE_PRIOR], dtype=torch.float64)
    without = torch.stack([losses[folds != fold].sum(0) for fold in range(FOLDS)])[folds]
    mixture = mixed(told, expert_weights(without, prior))
    above = mixture - told[:, -1]
    gains = losses[:, -1] - log_losses(mixture[:, None], classes)[:, 0]
    return expert_weights(losses.sum(0), prior), above[:, 2] - above[:, 0], gains
