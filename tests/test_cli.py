"""The entry point in a process of its own: help without torch, no network, a closed pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-c", "from talktune.cli import main; main()")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom talktune.cli import main\nsys.argv = ['talktune', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'matplotlib', 'rich.progress'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for arguments in (["--help"], ["train", "--help"], ["demo", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Usage: talktune" in done.stdout


def test_every_command_explains_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    from talktune.cli import app

    commands = [name for name in app if not name.startswith("-")]
    assert {
        "score",
        "train",
        "chat",
        "eval",
        "judge-eval",
        "judge-train",
        "demo",
        "lab",
        "report",
        "export",
        "forget",
    } <= {*commands}
    for name in commands:
        app([name, "--help"], result_action="return_value")
        assert f"talktune {name}" in capsys.readouterr().out


def test_an_unknown_model_without_network(tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, '
        '{"role": "user", "content": "c"}]}\n'
    )
    arguments = ("train", file, "--model", "nobody/nothing", "--judge", "oracle", "-o", tmp_path / "run")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    for environment in ({"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}, nowhere):
        done = run(*arguments, **environment)
        assert done.returncode == 2, done.stderr
        [sentence] = done.stderr.splitlines()
        assert sentence.startswith("talktune: model nobody/nothing: ")
        assert "network" in sentence


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert "Traceback" not in done.stderr
