import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def test_one_experiment(talktune: Any, tmp_path: Path) -> None:
    done = talktune("lab", "voting", "--output", tmp_path / "new" / "lab", "--trials", "300", "--seed", "7")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "new/lab/voting.json").read_text("utf-8"))
    assert result["options"]["seed"] == 7
    assert "A majority of judges is better than one" in done.out
    assert str(tmp_path / "new/lab/voting.png") in done.out
    assert not (tmp_path / "new/lab/index.html").exists()


def test_mistakes_are_one_sentence(talktune: Any, tmp_path: Path) -> None:
    assert "choose one of voting, advantages" in talktune("lab", "votin", "-o", tmp_path).sentence
    assert "--updates is 3" in talktune("lab", "training", "--updates", "3", "-o", tmp_path).sentence
    assert "--seeds is 0" in talktune("lab", "training", "--seeds", "0", "-o", tmp_path).sentence
    (tmp_path / "file").touch()
    assert "cannot be made" in talktune("lab", "voting", "-o", tmp_path / "file" / "x").sentence


def test_all_keeps_what_it_finished_before(tmp_path: Path) -> None:
    code = (
        "from talktune.lab import course\ncourse.NAMES = ('voting', 'overlong')\n"
        "from talktune.lab import page\npage.NAMES = course.NAMES\n"
        "from talktune.cli import main\nmain()"
    )
    command = [sys.executable, "-c", code, "lab", "all", "--output", str(tmp_path), "--trials", "300"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "were there already" not in first.stdout
    before = (tmp_path / "voting.png").stat().st_mtime_ns
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2 of 2 experiments were there already" in second.stdout
    assert (tmp_path / "voting.png").stat().st_mtime_ns == before
    assert (tmp_path / "index.html").is_file()
