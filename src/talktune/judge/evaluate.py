"""Measures how often a judge is right on labelled lines, and reads such lines.

Open it to compare judges.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from talktune.conversations.files import Problem, read_records
from talktune.errors import UserError
from talktune.judge.exchange import Exchange, JudgeLine, turn_of
from talktune.judge.panel import ExactJudge, Judge
from talktune.rl.votes import LABELS, exact_vote, majority_vote
from talktune.types import Label, Vote

DATA = Path(__file__).parent / "data"
TRAIN_LINES, TEST_LINES = DATA / "train.jsonl", DATA / "test.jsonl"
"""The shipped halves: heads are fitted and every choice is made on the first; nothing is ever tuned on the second."""
AT_ONCE = 32


@dataclass(frozen=True)
class Evaluation:
    """How a judge did on labelled lines; a line that stays unscored counts as wrong."""

    lines: int
    votes: int
    """m of the confusion table."""
    accuracy: dict[int, float]
    """Share of lines that the majority of m votes gets right, by m; the votes of a smaller m are the first ones."""
    exact: float | None
    """The same for the mode of the judge's own distribution, where it has one."""
    confusion: dict[Label, dict[Label | None, int]]
    """Number of lines by true label and by reward of m votes (`None`: unscored)."""
    common_label: Label
    """The most common label."""
    common_accuracy: float
    """Accuracy of a judge that always says the most common label."""
    agreement: float
    """Mean share of a line's valid votes that equal its reward, over the scored lines; 0 without one."""


def evaluate_judge(
    judge: Judge,
    lines: Sequence[JudgeLine],
    votes: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Ask a judge for m votes on every line and compare; m = 1, 3, 5, … up to `votes` stand beside each other.

    `progress(done, total)` is told of lines judged. Raises UserError for no lines or fewer than 1 vote.
    """
    if not lines:
        raise UserError("There are no labelled lines to judge: give at least one.")
    if votes < 1:
        raise UserError(f"votes is {votes}: ask for at least 1 vote a line.")
    turns = [turn_of(line.exchange, number) for number, line in enumerate(lines)]
    given: list[list[Label | None]] = []
    modes: list[Label | None] = []
    for start in range(0, len(turns), AT_ONCE):
        batch = turns[start : start + AT_ONCE]
        answers: list[Vote] = judge.vote([(turn, k) for turn in batch for k in range(votes)])
        given.extend([vote.label for vote in answers[i * votes : (i + 1) * votes]] for i in range(len(batch)))
        if isinstance(judge, ExactJudge):
            modes.extend(None if p is None else exact_vote(p) for p in judge.distribution(batch))
        if progress is not None:
            progress(len(given), len(turns))
    truth: list[Label] = [line.label for line in lines]
    rewards: list[Label | None] = [majority_vote(labels) for labels in given]
    common, count = Counter(truth).most_common(1)[0]
    outcomes: tuple[Label | None, ...] = (*LABELS, None)
    pairs = Counter(zip(truth, rewards, strict=True))
    return Evaluation(
        lines=len(lines),
        votes=votes,
        accuracy={
            m: _share(truth, [majority_vote(labels[:m]) for labels in given])
            for m in sorted({*range(1, votes + 1, 2), votes})
        },
        exact=_share(truth, modes) if any(mode is not None for mode in modes) else None,
        confusion={label: {outcome: pairs[label, outcome] for outcome in outcomes} for label in LABELS},
        common_label=common,
        common_accuracy=count / len(lines),
        agreement=_agreement(given, rewards),
    )


def load_judge_lines(path: Path | str) -> list[JudgeLine]:
    """Read lines of `{"request", "response", "role", "next_state", "label"}`, gzip or not.

    `role` may be left out (user), and so may `hand`, who wrote the line. Raises UserError, naming file and line, at
    the first line that is not right.
    """
    path = Path(path)
    lines: list[JudgeLine] = []
    for record in read_records(path):
        if isinstance(record, Problem):
            raise UserError(f"{record}.")
        number, value = record
        lines.append(_judge_line(value, f"{path}, line {number}"))
    return lines


def _judge_line(value: object, where: str) -> JudgeLine:
    if not isinstance(value, dict):
        raise UserError(f"{where}: not an object; write request, response, role, next_state and label.")
    fields = cast(dict[str, Any], value)
    for name in ("request", "response", "next_state"):
        if name not in fields:
            raise UserError(f"{where}: {name} is missing; add it as a text.")
        if not isinstance(fields[name], str):
            raise UserError(f"{where}: {name} is {fields[name]!r}; make it a text.")
    role = fields.get("role", "user")
    if role not in ("user", "tool"):
        raise UserError(f"{where}: role is {role!r}; make it user or tool.")
    label = fields.get("label")
    if isinstance(label, bool) or label not in LABELS:
        raise UserError(f"{where}: label is {label!r}; make it 1 (good), 0 (neutral) or -1 (bad).")
    hand = fields.get("hand", "")
    if not isinstance(hand, str):
        raise UserError(f"{where}: hand is {hand!r}; make it a text, or leave it out.")
    exchange = Exchange(fields["request"], fields["response"], role, fields["next_state"])
    return JudgeLine(exchange, LABELS[int(label) + 1], hand)


def _share(truth: Sequence[Label], said: Sequence[Label | None]) -> float:
    return sum(a == b for a, b in zip(truth, said, strict=True)) / len(truth)


def _agreement(given: Sequence[Sequence[Label | None]], rewards: Sequence[Label | None]) -> float:
    shares: list[float] = []
    for labels, reward in zip(given, rewards, strict=True):
        valid = [label for label in labels if label is not None]
        if reward is not None and valid:
            shares.append(valid.count(reward) / len(valid))
    return sum(shares) / len(shares) if shares else 0.0
