"""A template of a stranger's ends in time and within memory, and the next prompt is rendered all the same."""

import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from talktune.errors import UserError
from talktune.policy import template
from talktune.policy.tokens import render_prompt
from talktune.types import Message

HI = [Message("user", "Hi")]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}" + "{% endfor %}" * 3


@pytest.fixture
def tokenizer(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(template, "CPU_SECONDS", 1.0)
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (LOOPS, "ran for 1.0 seconds"),
        # One instruction that is never over, which no check between two instructions would end.
        ("{{ messages[0].content.replace('', 'x' * 999999).replace('x', 'y' * 9999) | length }}", "stopped"),
        ("{{ 'x' * 99999999999 }}", "memory"),
        ("{{ 'x' * 70000000 }}", "64 million"),
        ("{{ raise_exception('only for cats') }}", "only for cats"),
        ("{{ messages.append.__globals__ }}", "unsafe"),
        ("{% for", "unexpected 'end"),
    ],
)
def test_it_ends(tokenizer: Any, hostile: str, reason: str) -> None:
    good = tokenizer.chat_template
    tokenizer.chat_template = hostile
    with pytest.raises(UserError, match="refuses these messages") as error:
        render_prompt(tokenizer, HI)
    assert reason in str(error.value)
    tokenizer.chat_template = good
    assert "Hi" in tokenizer.decode(render_prompt(tokenizer, HI))


def test_many_threads_each_get_their_own(tokenizer: Any) -> None:
    said: dict[int, str] = {}

    def ask(i: int) -> None:
        for _ in range(10):
            said[i] = tokenizer.decode(render_prompt(tokenizer, [Message("user", f"I am {i}.")]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"I am {i}." in said[i] for i in range(8))


def test_what_others_wrote_arrives_as_they_wrote_it(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0].content }}{{ tools | tojson }}{{ eos_token }}"
    odd = "\x00\x1b \u2028 é 漢 😀 \ud800 {{ 7 * 7 }}"
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"n": 1.5, "big": 10**30, "no": None}}}]
    said = template.render_template(tokenizer, [{"role": "user", "content": odd}], tools, True)
    theirs = tokenizer.apply_chat_template([{"role": "user", "content": odd}], tools=tools, tokenize=False)
    assert said == theirs


def test_tools_nested_deeply_are_a_sentence(tokenizer: Any) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = {"a": deep}
    with pytest.raises(UserError, match="nested too deeply"):
        render_prompt(tokenizer, HI, [deep])


def test_an_interrupted_rendering_is_not_read_by_the_next(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(template, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render_prompt(tokenizer, [Message("user", "The old one")])
    assert "The new one" in tokenizer.decode(render_prompt(tokenizer, [Message("user", "The new one")]))


def test_what_lies_in_the_working_directory_is_not_run(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("random", "queue", "jinja2"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    template._renderer.end()  # a new process, started here
    assert "Hi" in tokenizer.decode(render_prompt(tokenizer, HI))
