import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from talktune.errors import UserError
from talktune.judge.evaluate import TEST_LINES, TRAIN_LINES, evaluate_judge, load_judge_lines
from talktune.judge.exchange import Exchange, JudgeLine
from talktune.judge.oracle import OracleJudge
from talktune.types import Label, Turn, Vote

LINES = [
    JudgeLine(Exchange("q", "a", "user", text), label)
    for text, label in (("a", 1), ("b", 1), ("c", -1), ("d", 0), ("e", 1))
]


class TableJudge:
    """Says what a table says, vote by vote."""

    name = "table"

    def __init__(self, table: dict[str, list[Label | None]]) -> None:
        self.table = table

    def vote(self, asks: Sequence[tuple[Turn, int]]) -> list[Vote]:
        return [Vote(self.table[turn.next_state[0].content][k]) for turn, k in asks]


def test_figures_of_a_known_judge() -> None:
    judge = TableJudge({"a": [1, 1, 1], "b": [0, 1, 1], "c": [1, 1, 0], "d": [0, 0, 0], "e": [None, None, 1]})
    result = evaluate_judge(judge, LINES, votes=3)
    assert result.accuracy == {1: 2 / 5, 3: 3 / 5}
    assert result.confusion[1] == {-1: 0, 0: 0, 1: 2, None: 1}
    assert result.confusion[-1] == {-1: 0, 0: 0, 1: 1, None: 0}
    assert result.confusion[0] == {-1: 0, 0: 1, 1: 0, None: 0}
    assert (result.common_label, result.common_accuracy) == (1, 3 / 5)
    assert result.exact is None
    assert result.agreement == pytest.approx((1 + 2 / 3 + 2 / 3 + 1) / 4)


def test_the_oracle_is_always_right_and_progress_reaches_the_end() -> None:
    truth = {line.exchange.next_state: line.label for line in LINES}
    told: list[tuple[int, int]] = []
    judge = OracleJudge(lambda turn: truth[turn.next_state[0].content])
    result = evaluate_judge(judge, LINES * 20, votes=5, progress=lambda done, total: told.append((done, total)))
    assert result.accuracy == {1: 1.0, 3: 1.0, 5: 1.0}
    assert result.exact == 1.0
    assert told[-1] == (100, 100)


def test_an_even_number_of_votes_stands_beside_the_odd_ones() -> None:
    assert set(evaluate_judge(OracleJudge(lambda _: 1), LINES, votes=4).accuracy) == {1, 3, 4}


@pytest.mark.parametrize(("lines", "votes"), [([], 5), (LINES, 0)])
def test_nothing_to_judge_is_said(lines: list[JudgeLine], votes: int) -> None:
    with pytest.raises(UserError):
        evaluate_judge(OracleJudge(lambda _: 1), lines, votes)


GOOD = {"request": "q", "response": "a", "role": "user", "next_state": "n", "label": 1}


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ({**GOOD, "label": 2}, "label"),
        ({**GOOD, "label": True}, "label"),
        ({**GOOD, "label": "good"}, "label"),
        ({**GOOD, "label": [1]}, "label"),
        ({**GOOD, "role": "assistant"}, "role"),
        ({**GOOD, "role": ["user"]}, "role"),
        ({**GOOD, "next_state": 3}, "next_state"),
        ({k: v for k, v in GOOD.items() if k != "response"}, "response"),
        ([1], "object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, field: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(line)}\n")
    with pytest.raises(UserError, match=rf"lines\.jsonl, line 3: .*{field}"):
        load_judge_lines(path)


def test_broken_json_a_missing_and_an_empty_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{{oops\n")
    with pytest.raises(UserError, match=r"lines\.jsonl, line 2"):
        load_judge_lines(path)
    path.write_text("")
    with pytest.raises(UserError, match="empty"):
        load_judge_lines(path)
    with pytest.raises(UserError, match=r"none\.jsonl"):
        load_judge_lines(tmp_path / "none.jsonl")


def test_the_shipped_halves_share_nothing() -> None:
    train, test = load_judge_lines(TRAIN_LINES), load_judge_lines(TEST_LINES)
    assert len(test) >= 160
    assert not {line.exchange.request for line in train} & {line.exchange.request for line in test}
    words = [
        {" ".join(line.exchange.next_state.lower().split()) for line in half if line.exchange.role == "user"}
        for half in (train, test)
    ]
    assert not words[0] & words[1]
    for half in (train, test):
        counts = [sum(line.label == label for line in half) for label in (-1, 0, 1)]
        assert min(counts) > len(half) / 5
