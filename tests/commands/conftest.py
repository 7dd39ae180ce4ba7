"""Conversations in files, for the commands that read them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def conversation(name: str, *rounds: tuple[str, str, str], labels: Sequence[int] = (), **more: Any) -> dict[str, Any]:
    """A conversation of (request, answer, reaction) rounds with the truth about its first answers."""
    messages: list[dict[str, Any]] = []
    for request, answer, _ in rounds:
        messages += [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    if rounds[-1][2]:
        messages.append({"role": "user", "content": rounds[-1][2]})
    truth = {str(2 * i + 1): label for i, label in enumerate(labels)}
    return {"id": name, "messages": messages, "metadata": {"labels": truth}, **more}


def write(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten conversations: twelve turns to train on and one each of everything that is left out."""
    lines = [
        conversation(f"c{i}", (f"Question {i}?", "ab" * (1 + i % 4), "ok"), labels=[(i % 3) - 1]) for i in range(6)
    ]
    lines += [
        conversation("two", ("One?", "Yes.", ""), ("Two?", "No.", "thanks"), labels=[1, -1]),
        conversation("open", ("Known?", "Yes.", ""), ("Asked?", "Yes.", "so so"), ("More?", "Yes.", ""), labels=[0]),
        conversation("side", ("Title?", "A title", "fine"), labels=[1], side_turns=[1]),
        conversation("long", ("Long?", "x" * 300, "too long"), labels=[-1]),
    ]
    image = conversation("image", ("?", "A cat.", "no, a dog"), labels=[-1])
    image["messages"][0]["content"] = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    return write(tmp_path_factory.mktemp("talks") / "talks.jsonl", [*lines, image])


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Twelve conversations of one turn, more than are judged together."""
    lines = [conversation(f"c{i}", (f"Question {i}?", f"Answer {i}.", "ok"), labels=[1]) for i in range(12)]
    return write(tmp_path / "many.jsonl", lines)
