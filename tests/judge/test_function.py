"""A function as the judge: every answer it can give, every way it can fail."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talktune.config import JudgeConfig
from talktune.errors import UserError
from talktune.judge.endpoint import EndpointJudge
from talktune.judge.from_config import make_judge
from talktune.judge.function import CallJudge, load_function
from talktune.judge.oracle import OracleJudge
from talktune.judge.panel import judge_turns
from talktune.types import Message, Turn, Vote

TURN = Turn("c", 1, (Message("user", "q"),), Message("assistant", "a"), (Message("user", "thanks"),))


def vote_of(answer: Any) -> Vote:
    def judge(_: Turn) -> Any:
        return answer

    (vote,) = CallJudge(judge).vote([(TURN, 0)])
    return vote


@pytest.mark.parametrize(
    ("answer", "label", "confidence"),
    [
        (1, 1, None),
        (0, 0, None),
        (-1, -1, None),
        (1.0, 1, None),
        (np.int64(-1), -1, None),
        ((1, 0.9), 1, 0.9),
    ],
)
def test_a_label_with_or_without_confidence(answer: Any, label: int, confidence: float | None) -> None:
    vote = vote_of(answer)
    assert (vote.label, vote.confidence, vote.judge, vote.reason) == (label, confidence, "judge", "")
    assert type(vote.label) is int


@pytest.mark.parametrize(
    "answer", [None, 2, 0.5, True, "1", math.nan, (), (1,), (1, 0.0), (1, 1.5), (1, "sure"), [1], object()]
)
def test_anything_else_is_a_failed_vote_with_a_reason(answer: Any) -> None:
    vote = vote_of(answer)
    assert vote.label is None
    assert vote.reason


def test_an_exception_is_a_failed_vote_and_enough_of_them_leave_the_turn_unscored() -> None:
    def broken(_: Turn) -> Any:
        raise RuntimeError("out of service")

    (verdict,) = judge_turns(CallJudge(broken), [TURN], 5)
    assert verdict.reward is None
    assert all("RuntimeError: out of service" in vote.reason for vote in verdict.votes)


def test_ctrl_c_inside_of_the_function_is_not_a_vote() -> None:
    def interrupted(_: Turn) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CallJudge(interrupted).vote([(TURN, 0)])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "house_rules.py").write_text("def polite(turn):\n    return 1\n\nNUMBER = 3\n")
    (tmp_path / "house_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])


@pytest.mark.usefixtures("module")
def test_a_function_of_a_module_in_the_working_directory() -> None:
    assert load_function("house_rules:polite")(TURN) == 1
    judge = make_judge(JudgeConfig(judge="house_rules:polite"))
    assert judge.name == "house_rules:polite"
    assert judge_turns(judge, [TURN], 3)[0].reward == 1.0


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("house_rules:rude", "no function 'rude'"),
        ("house_rules:NUMBER", "no function 'NUMBER'"),
        ("no_such_module_here:f", "cannot be imported"),
        ("house_broken:f", "ZeroDivisionError"),
        (":f", "package.module:function"),
        ("house_rules:", "package.module:function"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_sentence(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_judge(JudgeConfig(judge=name))


def test_the_config_picks_the_judge() -> None:
    assert isinstance(make_judge(JudgeConfig(judge="oracle"), truth=lambda _: 1), OracleJudge)
    assert isinstance(make_judge(JudgeConfig(judge="endpoint")), EndpointJudge)
    with pytest.raises(UserError, match="truth"):
        make_judge(JudgeConfig(judge="oracle"))
    with pytest.raises(UserError, match="local, oracle, endpoint"):
        make_judge(JudgeConfig(judge="supreme-court"))
