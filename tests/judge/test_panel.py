"""The panel: the verdict of all m votes, at the fewest calls that can give it."""

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.errors import UserError
from talktune.judge.oracle import OracleJudge
from talktune.judge.panel import TURNS_AT_ONCE, judge_turns
from talktune.rl.votes import majority_vote
from talktune.types import Label, Message, Turn, Verdict, Vote

Labels = tuple[Label | None, ...]
OUTCOMES: Labels = (-1, 0, 1, None)


class Scripted:
    """A judge whose vote k on turn i is written down; it keeps every ask."""

    name = "scripted"

    def __init__(self, script: Sequence[Labels]) -> None:
        self.script = script
        self.asked: list[tuple[int, int]] = []
        self.rounds: list[int] = []

    def vote(self, asks: Sequence[tuple[Turn, int]]) -> list[Vote]:
        wanted = [(turn.index, k) for turn, k in asks]
        self.asked += wanted
        self.rounds.append(len(wanted))
        return [Vote(self.script[i][k], judge=self.name) for i, k in wanted]


def turn_of(index: int, *, reaction: bool = True) -> Turn:
    next_state = (Message("user", "thanks"),) if reaction else ()
    return Turn("c", index, (Message("user", "q"),), Message("assistant", "a"), next_state)


def judged(script: Sequence[Labels], m: int, *, early_stop: bool = True) -> tuple[list[Verdict], Scripted]:
    judge = Scripted(script)
    return judge_turns(judge, [turn_of(i) for i in range(len(script))], m, early_stop=early_stop), judge


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_every_sequence_of_votes_gives_the_reward_of_all_m_votes(m: int) -> None:
    script = list(product(OUTCOMES, repeat=m))
    early, asked = judged(script, m)
    full, asked_all = judged(script, m, early_stop=False)
    assert [v.reward for v in early] == [v.reward for v in full] == [majority_vote(labels) for labels in script]
    assert len(asked_all.asked) == m * len(script)
    assert len(asked.asked) == len(set(asked.asked))
    for labels, verdict in zip(script, early, strict=True):
        assert tuple(vote.label for vote in verdict.votes) == labels[: len(verdict.votes)]


@given(st.lists(st.tuples(*[st.sampled_from(OUTCOMES)] * 7), max_size=20))
def test_no_vote_is_asked_for_after_the_reward_stands(script: list[Labels]) -> None:
    early, _ = judged(script, 7)
    for labels, verdict in zip(script, early, strict=True):
        # With one vote less, some completion would have given another reward.
        had = labels[: len(verdict.votes) - 1]
        rewards = {majority_vote([*had, *rest]) for rest in product(OUTCOMES, repeat=7 - len(had))}
        assert len(rewards) > 1


def test_the_first_round_asks_the_fewest_that_could_decide_and_then_only_where_it_is_open() -> None:
    _, judge = judged([(1, 1, 1, -1, -1), (1, 1, -1, 1, 0), (1, -1, 0, 1, 1)], 5)
    # After 1, -1, 0 a second 0 would decide: whatever comes fifth, 0 is ahead or there is a tie.
    assert judge.rounds == [9, 2, 1]
    assert [k for i, k in judge.asked if i == 0] == [0, 1, 2]
    assert [k for i, k in judge.asked if i == 1] == [0, 1, 2, 3]
    assert [k for i, k in judge.asked if i == 2] == [0, 1, 2, 3, 4]


def test_all_m_votes_are_asked_for_at_once_without_early_stop() -> None:
    _, judge = judged([(1, 1, 1, 1, 1)] * 2, 5, early_stop=False)
    assert judge.rounds == [10]


def test_a_quorum_that_fails_leaves_the_turn_unscored() -> None:
    (down, barely), _ = judged([(None, None, None, 1, 1), (None, None, 1, -1, -1)], 5)
    assert down.reward is None
    assert len(down.votes) == 3
    assert barely.reward == -1.0


def test_a_turn_without_a_next_state_is_never_shown_to_the_judge() -> None:
    judge = Scripted([(1,), (1,), (-1,)])
    verdicts = judge_turns(judge, [turn_of(0), turn_of(1, reaction=False), turn_of(2)], 1)
    assert verdicts[1] == Verdict((), None)
    assert [v.reward for v in verdicts] == [1.0, None, -1.0]
    assert judge.asked == [(0, 0), (2, 0)]
    assert judge_turns(judge, [turn_of(1, reaction=False)], 1) == [Verdict((), None)]
    assert judge_turns(judge, [], 1) == []


def test_a_long_file_is_judged_in_handfuls_and_each_turn_keeps_its_place() -> None:
    n = 2 * TURNS_AT_ONCE + 3
    script: list[Labels] = [OUTCOMES[i % 3 : i % 3 + 1] * 3 for i in range(n)]
    verdicts, judge = judged(script, 3)
    assert [verdict.reward for verdict in verdicts] == [labels[0] for labels in script]
    assert len(judge.asked) == 2 * n


def test_exact_takes_the_mode_of_the_judges_own_distribution() -> None:
    judge = OracleJudge(lambda turn: (-1, 0, 1)[turn.index], accuracy=0.5)
    verdicts = judge_turns(judge, [turn_of(i) for i in range(3)], 5, exact=True)
    assert [v.reward for v in verdicts] == [-1.0, 0.0, 1.0]
    assert verdicts[0].votes == (Vote(-1, confidence=0.5, judge="oracle"),)


def test_what_cannot_be_asked_is_one_sentence() -> None:
    with pytest.raises(UserError, match="at least 1"):
        judge_turns(Scripted([]), [], 0)
    with pytest.raises(UserError, match=r"scripted.*no distribution"):
        judge_turns(Scripted([(1,)]), [turn_of(0)], 1, exact=True)
