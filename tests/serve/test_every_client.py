"""The clients that people use, as they come, in every dialect: each one's conversation is one in the store.

A process each, for all its ways: six questions, the odd ones streamed, two of them answered by a tool, most of them
reactions.
"""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from talktune.conversations.readers import read_conversations
from talktune.conversations.turns import turns_of
from talktune.types import Conversation

from .conftest import running_engine, serving

CLIENTS = Path(__file__).parent / "clients"
CACHE = Path(__file__).parents[2] / ".cache"
PYTHON = CACHE / "clients-venv" / "bin" / "python"
INSTALLED = CACHE / "clients-venv" / "installed.txt"
NODE = CACHE / "npm" / "node_modules"
RESULT = "rainy, 7 degrees"
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
QUESTIONS = (
    "What is a star?",
    "Thanks, that was great!",
    "What is the weather in Oslo?",
    "No, I meant the weather in Rome.",
    "That is too long.",
    "Perfect.",
)
WAYS = (
    ("with_openai_chat.py",),
    ("with_openai_responses.py",),
    ("with_openai_responses.py", "previous"),
    ("with_anthropic.py",),
    ("with_agents.py",),
    ("with_langchain.py",),
    ("with_langchain.py", "responses"),
    ("with_litellm.py",),
    ("with_litellm.py", "anthropic"),
    ("with_llm.py",),
    ("with_openai_responses.mjs",),
    ("with_ai_sdk.mjs",),
    ("with_ai_sdk.mjs", "compatible"),
)


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Call the tool where the weather is asked for; else say something that names the question."""
    last = body["messages"][-1]
    if last["role"] == "user" and "weather" in last["content"] and body.get("tools"):
        function = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
        call = {"id": f"call_{len(body['messages'])}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    thought = {"reasoning_content": "Let me think."} if "star" in last["content"] else {}
    return {"role": "assistant", "content": f"An answer to: {last['content']}"} | thought


@dataclass
class Talks:
    """What the clients were answered, or why not, and what the store has of it."""

    answers: dict[tuple[str, ...], Any]
    conversations: tuple[Conversation, ...]


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Talks:
    """All clients, some at a time, with one server; then one export."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "node_modules").symlink_to(NODE)
    ways = [way for way in WAYS if missing(way) is None]
    with running_engine() as engine:
        engine.decide = answer
        with serving(folder / "store.db", "--upstream", engine.url) as server, ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda name: run(name, server.url, folder), dict.fromkeys(way[0] for way in ways)))
    if not ways:
        return Talks({}, ())
    exported = folder / "exported.jsonl"
    command = [sys.executable, "-m", "talktune", "export", str(folder / "store.db"), "--format", "openai"]
    subprocess.run([*command, "--output", str(exported)], check=True, capture_output=True)
    answers = {way: told for one in found for way, told in one.items()}
    return Talks(answers, read_conversations([exported]).conversations)


def missing(way: tuple[str, ...]) -> str | None:
    """Why a client cannot run here."""
    if way[0].endswith(".mjs"):
        there = shutil.which("node") is not None and (NODE / "ai").is_dir()
        return None if there else "Node, or the npm clients (make clients), are not there"
    return None if INSTALLED.is_file() else "the Python clients (make clients) are not there"


def run(name: str, url: str, folder: Path) -> dict[tuple[str, ...], Any]:
    """What a client was answered to each question, in each of its ways, or what it complained about."""
    ways = [way for way in WAYS if way[0] == name]
    told = {"system": "Be brief.", "tool": TOOL, "result": RESULT}
    scripts = [json.dumps(told | {"questions": questions(way), "way": "".join(way[1:])}) for way in ways]
    command = [str(PYTHON), str(CLIENTS / name)]
    if name.endswith(".mjs"):
        (folder / name).write_text((CLIENTS / name).read_text())  # beside its packages
        command = ["node", str(folder / name)]
    done = subprocess.run([*command, url, *scripts], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        return dict.fromkeys(ways, done.stderr[-5000:])
    answers = map(json.loads, done.stdout.splitlines()[-len(ways) :])
    return dict(zip(ways, answers, strict=True))


def mark(way: tuple[str, ...]) -> str:
    return f"({' '.join(way)})"


def questions(way: tuple[str, ...]) -> list[str]:
    """Those of one client: what it says is found by its mark."""
    return [f"{question} {mark(way)}" for question in QUESTIONS]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_one_conversation_with_its_reactions(way: tuple[str, ...], talks: Talks) -> None:
    if (reason := missing(way)) is not None:
        pytest.skip(reason)
    told = [f"An answer to: {text}" for text in questions(way)]
    told[2] = told[3] = f"An answer to: {RESULT}"
    assert talks.answers[way] == told

    found = [c for c in talks.conversations if any(mark(way) in m.content for m in c.messages)]
    assert len(found) == 1
    turns = turns_of(found[0])
    assert [turn.kind for turn in turns] == ["main"] * 8
    first, second, third, fourth, fifth, sixth = questions(way)
    reactions = [[second], [third], [RESULT], [fourth], [RESULT], [fifth], [sixth], []]
    assert [[m.content for m in turn.next_state] for turn in turns] == reactions
    assert turns[0].prompt[0].content == "Be brief."
    assert turns[0].prompt[-1].content == first
