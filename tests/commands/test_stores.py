"""Commands that read a store like a file, and `forget`."""

import json
from pathlib import Path
from typing import Any

import pytest

from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "store.db"
    store = Store(file)
    for user, secret in (("ann", "apples"), ("bob", "pears")):
        parent = None
        for i, said in enumerate((f"Tell me of {secret}", "No, shorter", "Thanks, perfect")):
            name = f"{user}-{i}"
            answer = Message("assistant", f"about {secret} {i}")
            store.add_turns(
                [
                    NewTurn(
                        id=name,
                        user=user,
                        conversation=f"talk-{user}",
                        parent=parent,
                        hash=name.encode().ljust(32),
                        messages=(Message("user", said),),
                        answer=answer,
                        engine="host",
                        created=1000.0 + i,
                    )
                ]
            )
            parent = name
    store.close()
    return file


def test_a_store_is_scored_and_exported_like_a_file(talktune: Any, path: Path, tmp_path: Path) -> None:
    done = talktune("score", path, "-o", tmp_path / "scored.jsonl", "--judge", "local")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["talk-ann", "talk-bob"]
    assert all(len(line["messages"]) == 6 for line in lines)
    done = talktune("export", path, "--format", "openai", "-o", tmp_path / "out.jsonl")
    assert done.code == 0, done.err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_forget(talktune: Any, path: Path) -> None:
    done = talktune("forget", path, "--user", "ann")
    assert done.code == 0, done.err
    assert "No policy version was trained on it." in done.err
    assert b"apples" not in path.read_bytes()
    assert [c.id for c in Store(path).export()] == ["talk-bob"]
    assert "holds nothing of ann" in talktune("forget", path, "--user", "ann").sentence
    assert "holds nothing of ann and talk-bob" in talktune(
        "forget", path, "--user", "ann", "--conversation", "talk-bob"
    ).sentence  # fmt: skip
    assert "--user or --conversation" in talktune("forget", path).sentence
    assert "there is no store" in talktune("forget", path.parent / "nothing.db", "--user", "ann").sentence


def test_an_empty_store_says_so(talktune: Any, tmp_path: Path) -> None:
    Store(tmp_path / "new.db").close()
    assert "holds no conversation yet" in talktune("score", tmp_path / "new.db", "-o", tmp_path / "x").sentence
