"""Files and stores together: what is in both is one conversation."""

from pathlib import Path

import talktune
from talktune.conversations.scored import ScoredTurns
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message


def test_a_store_and_what_was_scored_of_it_are_not_learned_from_twice(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    said, answer = (Message("user", "Why?"),), Message("assistant", "So.")
    turn = NewTurn("t", "ann", "c", None, b"1", said, answer, "x", 1.0)
    store.add_turns([turn])
    store.close()
    scored = tmp_path / "scored.jsonl"
    turns = ScoredTurns(talktune.load_conversations(tmp_path / "s.db"))
    turns.corrected(turns[0], -1).save(scored)
    heard: list[str] = []
    (one,) = talktune.load_conversations([tmp_path / "s.db", scored], say=heard.append)
    assert one.verdicts[1].reward == -1
    assert "became one" in heard[0]
