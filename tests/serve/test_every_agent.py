"""The agents that people use: every reaction reaches its turn, and none another one.

Claude Code's way of talking runs with the other tests, OpenClaw and Codex CLI themselves with `make agents`.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .conftest import running_engine, serving
from .programs import Codex, Gateway, OpenClaw, missing
from .scripted import HEAD, Score, Script, sayings, score
from .test_every_client import CLIENTS, INSTALLED, PYTHON


def report(program: str, found: Score, script: Script, folder: Path) -> None:
    """Print a line of the table; keep what was asked where a reaction is not on its turn."""
    print(f"\n{HEAD}\n{found.row(program)}")
    (folder / "asked.json").write_text(json.dumps(script.log, indent=1))
    for name in ("wrong", "lost", "unclean", "taken"):
        if some := getattr(found, name):
            print(f"{name}: {some}\nWhat was asked: {folder / 'asked.json'}")


def holds(found: Score) -> None:
    assert found.right >= 0.99 * found.given
    assert not found.wrong
    assert not found.unclean
    assert not found.taken
    assert found.recognised >= 0.98 * found.sides


def claude_code(folder: Path, talks: Sequence[tuple[list[str], list[int]]]) -> Score:
    """Conversations, each with the places before which it is compacted."""
    if not INSTALLED.is_file():
        pytest.skip("the Python clients (make clients) are not there")
    script = Script()
    told: list[list[tuple[str, str]]] = []
    with running_engine() as engine:
        engine.decide = script
        with serving(folder / "store.db", "--upstream", engine.url) as server:
            for said, places in talks:
                asked: dict[str, Any] = {"sayings": said, "compact": places}
                command = [str(PYTHON), str(CLIENTS / "with_claude_code.py"), server.url, json.dumps(asked)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
                assert done.returncode == 0, done.stderr[-5000:]
                told.append(list(zip(said, json.loads(done.stdout.splitlines()[-1]), strict=True)))
    found = score(folder / "store.db", told, script)
    report("Claude Code's protocol", found, script, folder)
    return found


def test_claude_code(tmp_path: Path) -> None:
    holds(claude_code(tmp_path, [(sayings(0, 20), [6, 13]), (sayings(50, 8), [4])]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "program"), [("openclaw", OpenClaw), ("codex", Codex)])
def test_agents(name: str, program: type[OpenClaw | Codex], tmp_path: Path) -> None:
    if (reason := missing(name)) is not None:
        pytest.skip(reason)
    script = Script()
    told: list[list[tuple[str, str]]] = []
    with running_engine() as engine:
        engine.decide = script
        with serving(tmp_path / "store.db", "--upstream", engine.url) as server:
            for start in (0, 50):
                folder = tmp_path / str(start)
                folder.mkdir()
                agent = program(server.url, folder)
                told.append([(said, agent.ask(said)) for said in sayings(start, 10)])
    found = score(tmp_path / "store.db", told, script)
    report(name, found, script, tmp_path)
    holds(found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_openclaws_gateway(tmp_path: Path) -> None:
    """Its process stays, and asks the model by itself between what the person says."""
    if (reason := missing("openclaw")) is not None:
        pytest.skip(reason)
    script, talk = Script(), list[tuple[str, str]]()
    with running_engine() as engine:
        engine.decide = script
        with (
            serving(tmp_path / "store.db", "--upstream", engine.url) as server,
            Gateway(server.url, tmp_path) as agent,
        ):
            for i, said in enumerate(sayings(0, 12)):
                talk.append((said, agent.ask(said)))
                if i % 3 == 1:
                    before = len(script.log)
                    agent.wake(f"Backup {i} ended.")
                    agent.until(lambda before=before: len(script.log) > before)
    found = score(tmp_path / "store.db", [talk], script)
    report("OpenClaw's gateway", found, script, tmp_path)
    assert found.sides
    holds(found)
