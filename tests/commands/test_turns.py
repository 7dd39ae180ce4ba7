"""`talktune turns` and `turns fix`, on a store and on a scored file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from talktune.commands.score import UNSCORED
from talktune.conversations.readers import read_conversations
from talktune.conversations.turns import turns_of
from talktune.store.learning import Learning
from talktune.store.queues import Judging
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message, Verdict, Vote

FIRST = NewTurn(
    id="first",
    user="ann",
    conversation="talk",
    parent=None,
    hash=b"first",
    messages=(Message("user", "Why is the \x1b[2Jsky blue?"),),
    answer=Message("assistant", "It scatters."),
    engine="host",
    created=1000.0,
)
SECOND = replace(FIRST, id="second", parent="first", hash=b"second", created=1001.0)
SECOND = replace(SECOND, messages=(Message("user", "Great, thanks!"),), answer=Message("assistant", "With pleasure."))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two turns, of which the judge took the first for a bad one."""
    opened = Store(tmp_path / "store.db")
    opened.add_turns([FIRST, SECOND])
    queue = Judging(opened, "me:0")
    assert [one.id for one in queue.claim(1)] == ["first"]
    assert queue.settle("first", Verdict((Vote(-1), Vote(0)), -1.0), 0.1, 1002.0)
    opened.close()
    return tmp_path / "store.db"


@pytest.fixture
def scored(talktune: Any, talks: Path, tmp_path: Path) -> Path:
    file = tmp_path / "scored.jsonl"
    assert talktune("score", talks, "-o", file, "--judge", "oracle").code == UNSCORED
    return file


def ids(talktune: Any, *arguments: object) -> list[str]:
    said = talktune("turns", *arguments, "--json")
    assert said.code == 0, said.err
    return [row["id"] for row in json.loads(said.out)]


def test_turns_of_a_store(talktune: Any, store: Path) -> None:
    assert ids(talktune, "--store", store) == ids(talktune, store) == ["second", "first"]
    assert ids(talktune, "--store", store, "--limit", "1") == ["second"]
    assert ids(talktune, "--store", store, "--bad") == ["first"]
    assert ids(talktune, "--store", store, "--unscored") == ["second"]
    shown = talktune("turns", store).out
    assert "first  -1  (votes -1 0)" in shown
    assert "reaction  Great, thanks!" in shown
    assert "\x1b" not in shown, "what somebody said commands the terminal"
    assert "there is no store" in talktune("turns", "--store", store.parent / "nothing.db").sentence


def test_a_correction_overrules_a_verdict_that_was_given(talktune: Any, store: Path) -> None:
    fixed = talktune("turns", "fix", "first", "+1", "--store", store)
    assert fixed.code == 0, fixed.err
    assert "first is +1 now" in fixed.err
    opened = Store(store)
    learning = Learning(opened)
    [waits] = learning.oldest({"ann": 9}, 9)
    assert waits.turn.verdict == Verdict((Vote(-1), Vote(0)), 1.0)
    learning.drop({"first": "old"})
    opened.close()
    assert ids(talktune, store, "--bad") == []
    assert "first  +1  by a person  (votes -1 0)" in talktune("turns", store).out

    assert talktune("turns", "fix", "first", "-1", store).code == 0
    opened = Store(store)
    assert [one.id for one in Learning(opened).oldest({"ann": 9}, 9)] == ["first"]
    opened.close()
    assert "There is no turn third" in talktune("turns", "fix", "third", "0", "--store", store).sentence
    assert "leave it out" in talktune("turns", "fix", "first", "0", store, "-o", "x").sentence
    assert talktune("turns", "fix", "first", "2", "--store", store).code == 2


def test_turns_of_a_scored_file(talktune: Any, scored: Path) -> None:
    bad = ids(talktune, scored, "--bad")
    everything = ids(talktune, scored)
    assert bad == ["long:1", "two:3", "c3:1", "c0:1"]
    assert everything[:2] == ["image:1", "long:1"]
    assert "side:1" not in everything
    assert len(ids(talktune, scored, "--limit", "3")) == 3
    shown = talktune("turns", scored, "--limit", "2").out
    assert "long:1  -1" in shown
    assert "there is no such file" in talktune("turns", scored.parent / "nothing.jsonl").sentence


def test_a_correction_in_a_scored_file(talktune: Any, scored: Path, talks: Path, tmp_path: Path) -> None:
    before = scored.read_bytes()
    assert "--output is missing" in talktune("turns", "fix", "c3:1", "+1", scored).sentence
    assert "there is no turn c3:2" in talktune("turns", "fix", "c3:2", "+1", scored, "-o", scored).sentence
    other = tmp_path / "other.jsonl"
    assert talktune("turns", "fix", "c3:1", "+1", scored, "-o", other).code == 0
    assert scored.read_bytes() == before
    changed = [(old, new) for old, new in zip(before.splitlines(), other.read_bytes().splitlines(), strict=True)]
    [(old, new)] = [pair for pair in changed if pair[0] != pair[1]]
    assert json.loads(old)["id"] == json.loads(new)["id"] == "c3"

    assert talktune("turns", "fix", "c3:1", "0", scored, "-o", scored).code == 0
    assert talktune("score", talks, "-o", scored, "--judge", "oracle").code == UNSCORED, "what was corrected is kept"
    rewards = {c.id: t.verdict for c in read_conversations([scored]).conversations for t in turns_of(c) if t.index == 1}
    kept = rewards["c3"]
    assert kept is not None
    assert kept.reward == 0
    assert [vote.label for vote in kept.votes] == [-1] * 3, "the judge's votes stay to be looked at"
