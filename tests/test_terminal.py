"""Escape codes of models, files and servers are signs on the terminal: each command runs as a process of its own."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.config import ModelConfig
from talktune.policy.adapter import attach_adapter, save_adapter
from talktune.policy.load import load_policy
from talktune.store.store import Store
from talktune.terminal import printable

from .versions import make_versions

EVIL = "evil\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\x08"


def run(*arguments: object, stdin: str = "", program: tuple[str, ...] = ("-m", "talktune")) -> str:
    """What a command says, on stdout and stderr, without the colours that a terminal would get."""
    command = [sys.executable, *program, *map(str, arguments)]
    env = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "400"}
    done = subprocess.run(command, capture_output=True, input=stdin.encode(), timeout=120, check=False, env=env)
    said = (done.stdout + done.stderr).decode()
    assert "Traceback" not in said, said
    return said


def check(said: str, *, shown: bool = True) -> None:
    """Nothing steers the terminal, and what was said is there."""
    bad = {c for c in said if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"} | ({*said} & {"\u202e"})
    assert not bad, repr(said)
    assert ("evil" in said) == shown, said


@given(st.text())
def test_what_steers_is_replaced_and_nothing_else_is(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    for before, after in zip(text, shown, strict=True):
        if before in "\n\t" or (
            unicodedata.category(before) not in ("Cc", "Cs") and not "\u202a" <= before <= "\u2069"
        ):
            assert after == before
        assert unicodedata.category(after) not in ("Cc", "Cs") or after in "\n\t"
    assert printable(EVIL + "\ud800").startswith("evil\u241b]0;owned\u2407")


@pytest.fixture(scope="module")
def store(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions of a user whose name steers terminals, and a reason that does."""
    folder = tmp_path_factory.mktemp("store")
    opened = Store(folder / "s.db")
    make_versions(tiny_model, opened, folder, 2)
    with opened.engine.begin() as c:
        c.exec_driver_sql("UPDATE versions SET lineage = ?, parent = NULL, reason = ?", (EVIL, EVIL))
        c.exec_driver_sql("UPDATE versions SET state = 'rejected' WHERE number = 2")
    opened.close()
    return folder / "s.db"


@pytest.mark.parametrize(
    "words", [("status",), ("policies", "list"), ("policies", "show", "1"), ("policies", "promote", "1")]
)
def test_what_a_store_holds(words: tuple[str, ...], store: Path) -> None:
    check(run(*words, "--store", store))


def test_files(tmp_path: Path) -> None:
    talks = tmp_path / "talks.jsonl"
    talks.write_text(json.dumps({"messages": [{"role": EVIL, "content": "x"}]}))
    check(run("score", talks, "--judge", "oracle", "-o", tmp_path / "out.jsonl"))
    config = tmp_path / "config.toml"
    config.write_text('"' + "".join(f"\\u{ord(c):04x}" for c in EVIL) + '" = 1')
    check(run("status", "--config", config))
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"request": "a", "response": "b", "role": "user", "next_state": "c", "label": EVIL}))
    check(run("judge-eval", lines, "--judge", "oracle"))


def test_what_a_model_says(tiny_model: Path, tmp_path: Path) -> None:
    said = run(
        *("chat", "--model", tiny_model, "--device", "cpu", "--save", tmp_path / "talk.jsonl", "--max-new-tokens", 800),
        *("--temperature", 5),
        stdin="Hi\n\n",
    )
    [talk] = map(json.loads, (tmp_path / "talk.jsonl").read_text().splitlines())
    assert "\x1b" in talk["messages"][1]["content"]  # it did try
    check(said, shown=False)
    assert "\u241b" in said


def test_prompts_and_answers_side_by_side(tiny_model: Path, tmp_path: Path) -> None:
    model = load_policy(ModelConfig(str(tiny_model), device="cpu")).model
    save_adapter(attach_adapter(model, ModelConfig(lora_rank=2), 0), tmp_path / "a")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": EVIL}))
    options = ("--model", tiny_model, "--device", "cpu", "--adapter", tmp_path / "a", "--max-new-tokens", 4)
    for more in ((), ("--json",)):
        check(run("eval", "--prompts", tmp_path / "prompts.jsonl", *options, *more))


def test_logs_and_the_host(tiny_model: Path) -> None:
    log = "import logging\nfrom talktune.terminal import log_to_stderr\nlog_to_stderr()\n"
    program = f"{log}try:\n    raise ValueError({EVIL!r})\nexcept ValueError as e:\n    logging.warning('no: %s', e)"
    check(run(program=("-c", program)))
    said = run("--model", tiny_model, "--adapter", "/tmp/\x1b[2Jevil", program=("-m", "talktune.host"))
    check(said)


def test_styles_are_the_consoles_own(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from rich.text import Text

    from talktune.commands.console import _Plain

    console = _Plain(force_terminal=True, color_system="standard")
    console.print(Text(EVIL, style="bold red"))
    said = capsys.readouterr().out
    assert said.startswith("\x1b[1;31mevil\u241b]0;owned")
    assert said.count("\x1b") == 2
