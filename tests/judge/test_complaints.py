"""A sure complaint beside praise is heard, and nothing else changes what is read."""

import pytest
import torch
from torch import Tensor

from talktune.config import ModelConfig
from talktune.judge.complaints import with_complaints
from talktune.judge.exchange import Exchange, turn_of
from talktune.judge.local import LocalJudge
from talktune.judge.panel import judge_turns
from talktune.policy.load import load_policy

GOOD, BAD, UNSURE, NEUTRAL = [0.1, 0.1, 0.8], [0.95, 0.03, 0.02], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1]


def exchange(text: str) -> Exchange:
    return Exchange("Name three cities.", "Lima.", "user", text)


def probabilities(*rows: list[float]) -> Tensor:
    return torch.tensor([[row, row] for row in rows])


@pytest.mark.parametrize(
    ("text", "whole", "parts", "found"),
    [
        ("You gave me one. Thank you, darling!", GOOD, [BAD, GOOD], BAD),
        ("Thank you, darling! You gave me one.", GOOD, [GOOD, BAD], BAD),
        ("Thanks. You gave me one, but fine.", GOOD, [GOOD, UNSURE], GOOD),
        ("A bad one. Thanks.", BAD, [], BAD),
        ("You gave me one. And now chess.", NEUTRAL, [], NEUTRAL),
        ("Thank you.", GOOD, [], GOOD),
        ("", GOOD, [], GOOD),
    ],
)
def test_a_sure_complaint_counts(text: str, whole: list[float], parts: list[list[float]], found: list[float]) -> None:
    asked: list[int] = []

    def read(exchanges: list[Exchange]) -> Tensor:
        asked.append(len(exchanges))
        return probabilities(*parts)

    assert torch.equal(with_complaints(probabilities(whole), [exchange(text)], read), probabilities(found))
    assert asked == ([len(parts)] if parts else [])


def test_beside_others_it_is_as_by_itself() -> None:
    exchanges = [exchange("Thanks. Bye."), exchange("You gave me one. Thanks."), exchange("Fine.")]
    read = [probabilities(GOOD, GOOD, BAD, GOOD)]
    found = with_complaints(probabilities(GOOD, GOOD, GOOD), exchanges, lambda _: read.pop())
    assert torch.equal(found, probabilities(GOOD, BAD, GOOD))


def test_the_shipped_judge_hears_a_complaint_beside_praise_of_something_else() -> None:
    judge = LocalJudge(load_policy(ModelConfig(device="cpu")))
    told = "You broke it, now every order has the wrong date. And to my wife: thank you, the cake was perfect!"
    turns = [turn_of(exchange(text), number) for number, text in enumerate([told, "Thank you! That was perfect!"])]
    assert [verdict.reward for verdict in judge_turns(judge, turns, 5)] == [-1.0, 1.0]
