"""Labelled lines by hands that wrote none of the shipped ones: an unseen measure of a judge."""

from pathlib import Path

import pytest

from talktune.judge.evaluate import TEST_LINES, TRAIN_LINES, load_judge_lines

HANDS = sorted((Path(__file__).parent.parent / "data" / "judge").glob("*.jsonl"))


@pytest.mark.parametrize("path", HANDS, ids=lambda path: path.stem)
def test_a_hands_lines_are_whole_and_its_own(path: Path) -> None:
    lines = load_judge_lines(path)
    assert len(lines) >= 100
    assert {line.label for line in lines} == {-1, 0, 1}
    shipped = {line.exchange for half in (TRAIN_LINES, TEST_LINES) for line in load_judge_lines(half)}
    others = {line.exchange for other in HANDS if other != path for line in load_judge_lines(other)}
    assert not {line.exchange for line in lines} & (shipped | others)
    assert len({line.exchange for line in lines}) == len(lines)
