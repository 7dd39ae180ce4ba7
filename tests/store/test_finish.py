"""A store of an older talktune is brought up to today's tables, and keeps what it holds."""

import math
from pathlib import Path

from sqlalchemy import create_engine

from talktune.conversations.turns import turns_of
from talktune.store import schema
from talktune.store.blobs import floats_to_bytes
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message, Sampled

TURN = NewTurn(
    id="t",
    user="u",
    conversation="c",
    parent=None,
    hash=b"h",
    messages=(Message("user", "Hi"),),
    answer=Message("assistant", "Hello"),
    engine="e",
    created=1.0,
    sampled=Sampled((1,), (2, 3), (-0.5, -0.25), 1.0),
    finish="length",
)


def test_why_answers_ended_is_known_of_new_turns_only(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = Store(path)
    store.add_turns([TURN])
    (turn,) = [turn for c in store.export() for turn in turns_of(c)]
    assert (turn.finish, turn.cut_off) == ("length", True)
    store.close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as c:
        c.exec_driver_sql("ALTER TABLE turns DROP COLUMN finish")
        c.exec_driver_sql(f"DELETE FROM schema_steps WHERE number >= {schema.STEPS.index(schema._finish)}")
    engine.dispose()
    store = Store(path)
    (turn,) = [turn for c in store.export() for turn in turns_of(c)]
    assert (turn.answer.content, turn.finish, turn.cut_off) == ("Hello", None, False)
    store.close()


def test_log_probs_that_an_older_talktune_stored_though_they_are_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    store.add_turns([TURN])
    with store.engine.begin() as c:
        c.execute(schema.turns.update().values(logprobs=floats_to_bytes([-0.5, math.nan])))
    (turn,) = [turn for c in store.export() for turn in turns_of(c)]
    assert turn.sampled is not None
    assert (turn.sampled.answer_ids, turn.sampled.logprobs) == ((2, 3), None)
    store.close()
