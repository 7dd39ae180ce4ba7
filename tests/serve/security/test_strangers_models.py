"""A model or an adapter of a stranger's: what it brings along is refused in a sentence, by the command itself."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from talktune.config import ModelConfig
from talktune.policy.adapter import attach_adapter
from talktune.policy.load import load_policy

from ..conftest import serving

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}" + "{% endfor %}" * 3
HURRY = "from talktune.policy import template\ntemplate.CPU_SECONDS = 1\nfrom talktune.cli import main\nmain()"


def run(*arguments: object) -> str:
    """The sentence with which a command ends."""
    command = [sys.executable, "-c", HURRY, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, input="Hi\n\n", timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def looping(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template does not end."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(tiny_model, folder)
    for file in folder.glob("*template*"):
        file.unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": LOOPS}))
    return folder


def test_a_template_that_does_not_end(looping: Path) -> None:
    assert "ran for 1 seconds and was stopped" in run("chat", "--model", looping, "--device", "cpu")


def test_code_of_a_model(tiny_model: Path, talktune: Any, tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "it-ran"
    shutil.copytree(tiny_model, folder)
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    about = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "config.json").write_text(json.dumps(about | {"model_type": "evil", "auto_map": auto}))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"auto_map": auto}))
    assert str(folder) in talktune("chat", "--model", folder, "--device", "cpu", stdin="y\ny\ny\n").sentence
    assert not mark.exists()


@pytest.mark.parametrize("command", ["chat", "eval", "train"])
def test_a_pickled_adapter(command: str, talktune: Any, tiny_model: Path, tmp_path: Path) -> None:
    tuned = attach_adapter(load_policy(ModelConfig(str(tiny_model), device="cpu")).model, ModelConfig(lora_rank=2), 0)
    tuned.save_pretrained(str(tmp_path / "a"), safe_serialization=False)
    assert (tmp_path / "a" / "adapter_model.bin").exists()
    (tmp_path / "prompts").write_text("Hi\n")
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "ok"},
    ]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"id": "a", "messages": talk, "metadata": {"labels": {"1": 1}}}))
    more: dict[str, list[object]] = {
        "chat": ["--device", "cpu"],
        "eval": ["--prompts", tmp_path / "prompts"],
        "train": [tmp_path / "talk.jsonl", "--judge", "oracle", "-o", tmp_path / "run"],
    }
    sentence = talktune(command, "--model", tiny_model, "--adapter", tmp_path / "a", *more[command]).sentence
    assert "pickled" in sentence
    assert "safetensors" in sentence


def test_tools_nested_deeply(tiny_model: Path, tmp_path: Path) -> None:
    options = ("--model", str(tiny_model), "--device", "cpu", "--no-judge", "--no-learn")
    with serving(tmp_path / "s.db", *options) as server:
        for levels, status in ((900, 400), (20, 200)):
            deep: Any = {"type": "string"}
            for _ in range(levels):
                deep = {"type": "array", "items": deep}
            tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
            body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [tool], "max_tokens": 1}
            reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
            # What the model said may hold JSON, too.
            called = {"name": "f", "arguments": '{"a":' * levels + "1" + "}" * levels}
            calls = [{"id": "a", "type": "function", "function": called}]
            messages: list[dict[str, Any]] = [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": calls,
                },
                {"role": "tool", "tool_call_id": "a", "content": "ok"},
            ]
            body = {"messages": messages, "max_tokens": 1}
            other = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
            assert (reply.status_code, other.status_code < 500) == (status, True), (reply.text, other.text)
