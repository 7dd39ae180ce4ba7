"""The entry point in a process of its own: help without torch, no network, a closed pipe."""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from talktune.cli import PANELS
from talktune.commands.brief import FIRST
from talktune.config import GateConfig, LiveTrainConfig

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
    for arguments in (["--help"], ["train", "--help"], ["demo", "--help"], ["serve", "--help"]):
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


def test_serve_helps_in_panels_and_shows_first_what_people_need_first(talktune: Any) -> None:
    panels = ["Server", "Model", "Judge", "Algorithm", "Training", "Live", "Gate"]
    everything = talktune("serve", "--help-all").out
    assert _panels(everything) == ["Parameters", *panels]
    whole = {option for options in _options(everything).values() for option in options}
    assert {f"--{f.name.replace('_', '-')}" for f in fields(GateConfig)} <= whole
    first = talktune("serve", "--help").out
    assert set(_panels(first)) < {"Parameters", *panels}
    shown = [option for options in _options(first).values() for option in options]
    assert sorted(shown) == sorted(FIRST)
    assert len(FIRST - {"--config"}) == 10
    assert "--help-all all of them" in " ".join(first.split())
    assert "Usage: talktune status" in talktune("status", "--help-all").out


def test_the_sections_of_the_example_are_the_panels(talktune: Any) -> None:
    path = Path(__file__).parents[1] / "examples" / "serve.toml"
    panels = {name.lower(): options for name, options in _options(talktune("serve", "--help-all").out).items()}
    defaults: dict[str, dict[str, Any]] = {}
    for kind, name in PANELS.items():
        made = LiveTrainConfig() if name == "Training" else kind()
        defaults[name.lower()] = defaults.get(name.lower(), {}) | asdict(made)
    for section, values in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for name, value in values.items():
            assert f"--{name.replace('_', '-').lower()}" in [option.lower() for option in panels[section]]
            assert str(defaults[section][name]) == str(value), name
    # It is read: the mistake that is named is that of the command line.
    assert "--port is 70000" in talktune("serve", "--config", path, "--port", "70000").sentence


def _panels(shown: str) -> list[str]:
    return re.findall(r"╭─ (\w+)", shown)


def _options(shown: str) -> dict[str, list[str]]:
    """The options of each panel of a help text."""
    parts = re.split(r"╭─ (\w+)", shown)[1:]
    found = zip(parts[::2], parts[1::2], strict=True)
    return {name: re.findall(r"^│ +(--[\w-]+)", text, re.MULTILINE) for name, text in found}


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow),  # it asks for half a minute
    ],
    ids=["offline", "nowhere"],
)
def test_an_unknown_model_without_network(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, '
        '{"role": "user", "content": "c"}]}\n'
    )
    arguments = ("train", file, "--model", "nobody/nothing", "--judge", "oracle", "-o", tmp_path / "run")
    done = run(*arguments, **environment, HF_HOME=str(tmp_path))
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
