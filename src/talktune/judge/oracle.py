"""A judge that knows the truth and errs at a known rate, for experiments and tests.

Open it to see what counts as the truth.
"""

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b

from talktune.errors import UserError
from talktune.rl.votes import LABELS
from talktune.types import Label, Turn, Vote


class OracleJudge:
    """Votes for the truth with probability `accuracy`, else for one of the two other labels, evenly.

    A vote depends on the seed, the turn (conversation, index, answer text) and the vote's number, never on
    the order of calls. A turn whose truth is `None` gets failed votes.
    """

    name = "oracle"

    def __init__(self, truth: Callable[[Turn], Label | None], accuracy: float = 1.0, seed: int = 0) -> None:
        """Make an oracle; raises UserError for an accuracy outside of 0 … 1."""
        if not 0.0 <= accuracy <= 1.0:
            raise UserError(f"judge_accuracy is {accuracy}: it is a share, from 0 to 1.")
        self.truth = truth
        self.accuracy = accuracy
        self.seed = seed

    def vote(self, asks: Sequence[tuple[Turn, int]]) -> list[Vote]:
        """One vote for each (turn, vote number), in the same order."""
        return [self._vote(turn, k) for turn, k in asks]

    def distribution(self, turns: Sequence[Turn]) -> list[tuple[float, float, float] | None]:
        """(p(−1), p(0), p(+1)) of a vote on each turn: `accuracy` for the truth, the rest halved."""
        miss = (1.0 - self.accuracy) / 2.0
        of: dict[Label | None, tuple[float, float, float]] = {
            -1: (self.accuracy, miss, miss),
            0: (miss, self.accuracy, miss),
            1: (miss, miss, self.accuracy),
        }
        return [of.get(self.truth(turn)) for turn in turns]

    def _vote(self, turn: Turn, k: int) -> Vote:
        truth = self.truth(turn)
        if truth is None:
            return Vote(None, judge=self.name, reason="the truth of this turn is not known")
        key = json.dumps([self.seed, turn.conversation_id, turn.index, turn.answer.content, k])
        draw = blake2b(key.encode(), digest_size=16).digest()
        right = int.from_bytes(draw[:8]) / 2**64 < self.accuracy
        others: list[Label] = [label for label in LABELS if label != truth]
        label: Label = truth if right else others[draw[8] % 2]
        return Vote(label, confidence=self.accuracy or None, judge=self.name)
