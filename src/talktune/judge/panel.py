"""Asks a judge for m votes on every turn and makes the verdict, with as few calls as give the same verdict.

Open it to see how a verdict comes about: `judge_turns`.

Votes are asked for in rounds: first the fewest that could decide a turn, then more only where it is open.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from talktune.errors import UserError
from talktune.rl.votes import decided, exact_vote, majority_vote
from talktune.types import Label, Turn, Verdict, Vote

TURNS_AT_ONCE = 64
"""Turns judged together: enough to fill a batch, few enough that a long file yields verdicts on the way."""

Ask = tuple[Turn, int]
"""A turn and which of its m votes is wanted, k = 0 … m−1."""

Distribution = tuple[float, float, float]
"""p(−1), p(0), p(+1) that a judge gives to one turn."""


@runtime_checkable
class Judge(Protocol):
    """Anything that can vote; a vote that cannot be had is a failed `Vote`, and only a wrong setting is a UserError."""

    @property
    def name(self) -> str:
        """The name under which the votes stand in a verdict."""
        ...

    def vote(self, asks: Sequence[Ask]) -> list[Vote]:
        """One vote for each ask, in the same order."""
        ...


@runtime_checkable
class ExactJudge(Judge, Protocol):
    """A judge that also exposes its distribution over the three labels, so that no sampling is needed."""

    def distribution(self, turns: Sequence[Turn]) -> Sequence[Distribution | None]:
        """(p(−1), p(0), p(+1)) for each turn, in the same order; `None` where the judge has none."""
        ...


def judge_turns(
    judge: Judge, turns: Sequence[Turn], m: int, *, exact: bool = False, early_stop: bool = True
) -> list[Verdict]:
    """The verdict on each turn: reward = majority of m votes, `None` when fewer than half of them are valid.

    With `early_stop` a turn gets no more votes once no outcome of the rest can change its reward, which is
    therefore always that of all m votes. With `exact` the reward is the mode of the judge's own distribution
    (m → ∞) and the verdict holds that one vote. A turn without a next state is not shown to the judge and
    stays unscored. Raises UserError for m < 1, and for `exact` with a judge that has no distribution.
    """
    if m < 1:
        raise UserError(f"votes is {m}: ask for at least 1 vote a turn.")
    if exact and not isinstance(judge, ExactJudge):
        raise UserError(f"Judge {judge.name!r} has no distribution over the labels: leave out `exact`.")
    verdicts = [Verdict((), None)] * len(turns)
    heard = [position for position, turn in enumerate(turns) if turn.next_state]
    for start in range(0, len(heard), TURNS_AT_ONCE):
        batch = {position: turns[position] for position in heard[start : start + TURNS_AT_ONCE]}
        if exact and isinstance(judge, ExactJudge):
            found = _judge_exactly(judge, batch)
        else:
            found = _judge_in_rounds(judge, batch, m, early_stop)
        for position, verdict in found.items():
            verdicts[position] = verdict
    return verdicts


def verdict_of(votes: Sequence[Vote], m: int) -> Verdict:
    """The verdict of the votes had so far, where the rest of the m can no longer change it."""
    labels: list[Label | None] = [vote.label for vote in votes]
    # Whatever the missing votes would be, the reward is the same: any filling will do.
    reward = majority_vote(labels + [None] * (m - len(labels)))
    return Verdict(tuple(votes), None if reward is None else float(reward))


def _judge_in_rounds(judge: Judge, batch: dict[int, Turn], m: int, early_stop: bool) -> dict[int, Verdict]:
    verdicts: dict[int, Verdict] = {}
    votes: dict[int, list[Vote]] = {position: [] for position in batch}
    while votes:
        wanted = [
            (position, len(had) + i)
            for position, had in votes.items()
            for i in range(_fewest_to_decide([vote.label for vote in had], m) if early_stop else m - len(had))
        ]
        answers = judge.vote([(batch[position], k) for position, k in wanted])
        for (position, _), vote in zip(wanted, answers, strict=True):
            votes[position].append(vote)
        for position, had in list(votes.items()):
            if len(had) == m or (early_stop and decided([vote.label for vote in had], m)):
                verdicts[position] = verdict_of(votes.pop(position), m)
    return verdicts


def _fewest_to_decide(labels: list[Label | None], m: int) -> int:
    """The fewest further votes after which the reward can stand: all alike decide soonest."""
    outcomes: tuple[Label | None, ...] = (-1, 0, 1, None)
    for n in range(1, m - len(labels)):
        for outcome in outcomes:
            alike: list[Label | None] = [outcome] * n
            if decided(labels + alike, m):
                return n
    return m - len(labels)


def _judge_exactly(judge: ExactJudge, batch: dict[int, Turn]) -> dict[int, Verdict]:
    found = zip(batch, judge.distribution(list(batch.values())), strict=True)
    return {position: _exact_verdict(judge.name, probs) for position, probs in found}


def _exact_verdict(name: str, probs: Distribution | None) -> Verdict:
    if probs is None:
        return Verdict((Vote(None, judge=name, reason="the judge has no distribution"),), None)
    label = exact_vote(probs)
    return Verdict((Vote(label, confidence=probs[label + 1], judge=name),), float(label))
