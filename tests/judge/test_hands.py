"""Labelled lines by hands that wrote none of the shipped ones: an unseen measure of a judge."""

from pathlib import Path

import pytest

from talktune.judge.evaluate import TEST_LINES, TRAIN_LINES, load_judge_lines
from talktune.judge.exchange import JudgeLine

HANDS = sorted((Path(__file__).parent.parent / "data" / "judge").glob("*.jsonl"))


def words(lines: list[JudgeLine]) -> set[str]:
    """What users say in these lines, whatever its case and gaps."""
    return {" ".join(line.exchange.next_state.lower().split()) for line in lines if line.exchange.role == "user"}


@pytest.mark.parametrize("path", HANDS, ids=lambda path: path.stem)
def test_a_hands_lines_are_whole_and_its_own(path: Path) -> None:
    lines = load_judge_lines(path)
    assert len(lines) >= 100
    assert {line.label for line in lines} == {-1, 0, 1}
    shipped = {line.exchange for half in (TRAIN_LINES, TEST_LINES) for line in load_judge_lines(half)}
    others = {line.exchange for other in HANDS if other != path for line in load_judge_lines(other)}
    assert not {line.exchange for line in lines} & (shipped | others)
    assert not words(lines) & words(load_judge_lines(TRAIN_LINES))
    assert len({line.exchange for line in lines}) == len(lines)


def test_training_lines_name_their_hands() -> None:
    hands = {line.hand for line in load_judge_lines(TRAIN_LINES)}
    assert len(hands) >= 11
    assert not hands & {path.stem for path in HANDS}
