"""One small run of the whole course, made once through the command line, for the tests that read its results."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SMALL = ("--seeds", "1", "--updates", "20", "--trials", "400")


def lab(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from talktune.cli import main\nif __name__ == '__main__':\n    main()"
    command = [sys.executable, "-c", code, "lab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("lab") / "course"
    done = lab("all", "--output", output, *SMALL)
    assert done.returncode == 0, done.stderr
    assert str(output / "index.html") in done.stdout.replace("\n", "")
    return output


@pytest.fixture(scope="session")
def results(course: Path) -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text("utf-8")) for file in course.glob("*.json")}
