from dataclasses import replace

import pytest

from talktune.config import LabConfig
from talktune.judge.oracle import OracleJudge
from talktune.lab.biased_judge import LONGEST, VARIANTS, ZONE, LikesLength, jobs
from talktune.lab.trainer import train
from talktune.types import Message, Sampled, Turn


def _turn(length: int, number: int = 0) -> Turn:
    sampled = Sampled(prompt_ids=(1,), answer_ids=(2,) * length, logprobs=(-1.0,) * length, temperature=1.0)
    said = (Message("user", "no"),)
    return Turn(f"c{number}", 1, (Message("user", "?"),), Message("assistant", "a"), said, sampled=sampled)


def test_the_judge_likes_length_in_proportion() -> None:
    judge = LikesLength(OracleJudge(lambda turn: -1))
    for length, low, high in ((0, 0.0, 0.0), (10, 0.2, 0.3), (LONGEST, 1.0, 1.0)):
        votes = judge.vote([(_turn(length, i), k) for i in range(200) for k in range(5)])
        assert low <= sum(vote.label == 1 for vote in votes) / len(votes) <= high
    asks = [(_turn(10, i), 0) for i in range(9)]
    assert [v.label for v in judge.vote(asks)] == [v.label for v in judge.vote(asks[::-1])][::-1]


@pytest.mark.slow
def test_unchecked_the_answers_grow_and_shaping_with_kl_holds_them() -> None:
    [free], [held] = (
        [job for job in jobs(LabConfig(seed=100, seeds=1, updates=60)) if job.label == label]
        for label in ("biased", "biased, shaping and KL")
    )
    grown, kept = train(replace(free, updates=60)), train(replace(held, updates=60))
    assert kept.exam["length"] < LONGEST - ZONE
    assert grown.exam["length"] > 1.5 * kept.exam["length"]
    assert kept.exam["quality"] > grown.exam["quality"] + 0.3
    assert len(VARIANTS) == 5
