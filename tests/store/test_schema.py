"""An older database becomes one of today."""

from pathlib import Path

from sqlalchemy import insert

from talktune.conversations.marks import answer_mark, asked_mark
from talktune.store import schema
from talktune.store.marked_turns import MarkedTurns
from talktune.store.policies import Policies
from talktune.store.queues import Judging
from talktune.store.readings import kept_readings
from talktune.store.store import Store
from talktune.store.turn_lists import entry
from talktune.types import Message


def test_an_older_store_is_brought_up_to_date(tmp_path: Path) -> None:
    """A store of the first schema: what was answered and never judged waits for the judge."""
    file = tmp_path / "old.db"
    store = Store(file)
    with store.engine.begin() as c:
        for table in ("judging", "learning", "leases", "lineages", "updates", "versions", "votes"):
            c.exec_driver_sql(f"DROP TABLE {table}")
        c.exec_driver_sql(
            "CREATE TABLE versions (number INTEGER PRIMARY KEY, parent INTEGER, path TEXT NOT NULL, "
            "state VARCHAR(10) NOT NULL, reason TEXT NOT NULL, created FLOAT NOT NULL)"
        )
        c.exec_driver_sql("CREATE TABLE updates (number INTEGER PRIMARY KEY, version INTEGER NOT NULL, created FLOAT)")
        c.exec_driver_sql(
            "CREATE TABLE votes (turn VARCHAR(80), number INTEGER, label INTEGER, confidence FLOAT, "
            "judge VARCHAR(200) NOT NULL, reason TEXT NOT NULL, created FLOAT NOT NULL, "
            "PRIMARY KEY (turn, number))"
        )
        c.execute(schema.steps.delete().where(schema.steps.c.number >= 1))
        c.execute(insert(schema.conversations).values(id="c", user="ann", created=0.0, touched=0.0))
        shared = {"conversation": "c", "user": "ann", "kind": "main", "state": "complete", "engine": "e"}
        for id, parent, continued in (("a", None, 1), ("b", "a", 0)):
            values = shared | {"id": id, "parent": parent, "continued": continued, "hash": id.encode()}
            values["created"] = 1.0
            c.execute(
                insert(schema.turns).values(
                    messages=f'[{{"role": "user", "content": "said {id}"}}]',
                    answer='{"role": "assistant", "content": "ok"}',
                    **values,
                )
            )
    store.close()
    opened = Store(file)
    assert [claimed.id for claimed in Judging(opened).claim(4)] == ["a"]
    assert Policies(opened).versions() == []
    opened.close()


def test_answers_of_an_older_store_are_found_by_their_marks(tmp_path: Path) -> None:
    """A store of the second schema has no marks; a conversation of its time goes on in a changed form."""
    file = tmp_path / "old.db"
    store = Store(file)
    with store.engine.begin() as c:
        for index in ("turns_by_mark", "turns_by_asked"):
            c.exec_driver_sql(f"DROP INDEX {index}")
        for column in ("mark", "asked", "history", "lost"):
            c.exec_driver_sql(f"ALTER TABLE turns DROP COLUMN {column}")
        c.exec_driver_sql("DROP TABLE sent")
        c.execute(schema.steps.delete().where(schema.steps.c.number >= schema.STEPS.index(schema._marks)))
        c.exec_driver_sql("INSERT INTO conversations (id, user, created, touched) VALUES ('c', 'ann', 0, 0)")
        c.exec_driver_sql(
            "INSERT INTO turns (id, conversation, user, hash, continued, kind, state, messages, answer, engine, "
            "created) VALUES ('a', 'c', 'ann', x'00', 0, 'main', 'complete', ?, ?, 'e', 1.0)",
            ('[{"role": "user", "content": "Hi there"}]', '{"role": "assistant", "content": "Good morning"}'),
        )
    store.close()
    opened = Store(file)
    mark = answer_mark(Message("assistant", "**Good** morning"))
    assert mark is not None
    with opened.reading() as c:
        found = MarkedTurns(c, "ann").answered([mark], asked_mark([Message("user", "[10:00] hi there")]))
        assert MarkedTurns(c, "bob").answered([mark]) == []
    assert found is not None
    assert [(turn.id, turn.answer.content) for turn in found] == [("a", "Good morning")]
    opened.close()


def test_an_older_stores_feedback_takes_the_wanted_answer(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    store = Store(file)
    with store.engine.begin() as c:
        for index in ("turns_by_age", "feedback_by_age", "verdicts_by_age"):
            c.exec_driver_sql(f"DROP INDEX {index}")
        c.exec_driver_sql("ALTER TABLE feedback DROP COLUMN better")
        c.execute(schema.steps.delete().where(schema.steps.c.number >= schema.STEPS.index(schema._pages)))
        c.exec_driver_sql("INSERT INTO conversations (id, user, created, touched) VALUES ('c', 'ann', 0, 0)")
        c.exec_driver_sql(
            "INSERT INTO turns (id, conversation, user, hash, continued, kind, state, messages, answer, engine, "
            "created) VALUES ('a', 'c', 'ann', x'00', 0, 'main', 'complete', '[]', "
            '\'{"role": "assistant", "content": "Hi"}\', \'e\', 1.0)'
        )
        c.exec_driver_sql("INSERT INTO feedback (turn, score, created) VALUES ('a', 1.0, 2.0)")
    store.close()
    opened = Store(file)
    assert opened.add_feedback("ann", "a", None, 3.0, "Good morning")
    found = entry(opened, "ann", "a")
    assert found is not None
    assert (found.score, found.better) == (1.0, "Good morning")
    opened.close()


def test_an_older_store_gets_a_place_for_readings(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    store = Store(file)
    with store.engine.begin() as c:
        c.exec_driver_sql("DROP TABLE readings")
        c.execute(schema.steps.delete().where(schema.steps.c.number >= schema.STEPS.index(schema._readings)))
    store.close()
    opened = Store(file)
    assert kept_readings(opened, "", "me") == []
    opened.close()
