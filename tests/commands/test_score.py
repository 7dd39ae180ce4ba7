"""`talktune score`: verdicts on every turn, and nothing lost when the judge or the run fails."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

JUDGE = """
heard = []
broken = {}


def judge(turn):
    heard.append(turn.conversation_id)
    problem = broken.get(turn.conversation_id)
    if problem is not None:
        raise problem
    return 1, 0.9
"""


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A module with a judge in the working directory; what it hears and where it fails can be set."""
    name = f"judge_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(JUDGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path)
    __import__("importlib").invalidate_caches()
    from talktune.judge.function import load_function

    load_function(f"{name}:judge")
    return sys.modules[name]


def rewards(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["id"]: line["turns"][0]["reward"] for line in lines if "turns" in line}


def test_a_function_judges(talktune: Any, many: Path, judge: Any, tmp_path: Path) -> None:
    output = tmp_path / "scored.jsonl"
    said = talktune("score", many, "--judge", f"{judge.__name__}:judge", "--output", output, "--votes", "3")
    assert said.code == 0, said.err
    assert rewards(output) == {f"c{i}": 1.0 for i in range(12)}
    assert len(judge.heard) == 24  # two equal votes of three settle it
    first = json.loads(output.read_text().splitlines()[0])["turns"][0]
    assert [vote["label"] for vote in first["votes"]] == [1, 1]
    assert first["votes"][0]["confidence"] == 0.9


def test_a_failing_judge_leaves_turns_unscored_and_a_second_run_finishes_them(
    talktune: Any, many: Path, judge: Any, tmp_path: Path
) -> None:
    output = tmp_path / "scored.jsonl"
    arguments = ("score", many, "--judge", f"{judge.__name__}:judge", "-o", output, "--votes", "1")
    judge.broken |= {f"c{i}": RuntimeError("no air") for i in (0, 5, 11)}
    said = talktune(*arguments)
    assert said.code == 3
    assert "3 turn(s) stay unscored" in said.err
    assert "no air" in said.err
    assert sum(r is None for r in rewards(output).values()) == 3
    judge.broken.clear()
    judge.heard.clear()
    said = talktune(*arguments)
    assert said.code == 0, said.err
    assert judge.heard == ["c0", "c5", "c11"]
    assert rewards(output) == {f"c{i}": 1.0 for i in range(12)}
    judge.heard.clear()
    assert talktune(*arguments).code == 0
    assert judge.heard == []


def test_an_interrupted_file_is_resumed(talktune: Any, many: Path, judge: Any, tmp_path: Path) -> None:
    output = tmp_path / "scored.jsonl"
    arguments = ("score", many, "--judge", f"{judge.__name__}:judge", "-o", output, "--votes", "1")
    judge.broken["c9"] = KeyboardInterrupt()
    said = talktune(*arguments)
    assert said.code == 130
    assert "Traceback" not in said.err
    kept = rewards(output)
    assert kept == {f"c{i}": 1.0 for i in range(8)}
    with output.open("a") as file:
        file.write('{"id": "c8", "mess')  # a write that was cut off
    judge.broken.clear()
    judge.heard.clear()
    assert talktune(*arguments).code == 0
    assert judge.heard == ["c8", "c9", "c10", "c11"]
    assert rewards(output) == {f"c{i}": 1.0 for i in range(12)}
    assert len(output.read_text().splitlines()) == 12


def test_the_table_counts_what_was_left_out(talktune: Any, talks: Path, tmp_path: Path) -> None:
    said = talktune("score", talks, "--judge", "oracle", "-o", tmp_path / "scored.jsonl")
    assert said.code == 3  # the truth of one turn is not known
    counts = {
        cells[0].strip(): cells[1].strip()
        for cells in (line.strip("│").split("│") for line in said.out.splitlines() if line.startswith("│"))
    }
    assert counts["turns"] == "14"
    assert counts["unscored"] == "1"
    assert counts["not scorable"] == "3"
    assert sum(int(counts[name]) for name in ("good (+1)", "neutral (0)", "bad (−1)")) == 10


def test_export_takes_the_scored_file(talktune: Any, many: Path, tmp_path: Path) -> None:
    scored, output = tmp_path / "scored.jsonl", tmp_path / "kto.jsonl"
    assert talktune("score", many, "--judge", "oracle", "-o", scored).code == 0
    said = talktune("export", scored, "--format", "kto", "-o", output)
    assert said.code == 0, said.err
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lines) == 12
    assert all(line["label"] is True for line in lines)
