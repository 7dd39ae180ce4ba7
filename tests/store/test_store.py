"""The store on SQLite, and the same on PostgreSQL where it is installed."""

import sqlite3
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import insert

from talktune.conversations.turns import turns_of
from talktune.errors import UserError
from talktune.store import schema
from talktune.store.notes import Note
from talktune.store.policies import Policies
from talktune.store.readings import NewReadings, add_readings, kept_readings, read_before
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message, Sampled, Verdict


def hashed(text: str) -> bytes:
    return sha256(text.encode()).digest()


def turn(name: str, parent: str | None = None, *, said: str = "?", conversation: str = "c1", **more: object) -> NewTurn:
    at = 1000.0 + sum(map(ord, name)) / 1000
    made = NewTurn(
        id=name,
        user="ann",
        conversation=conversation,
        parent=parent,
        hash=hashed(name),
        messages=(Message("user", said),),
        answer=Message("assistant", f"answer {name}"),
        engine="host",
        created=at,
        sampled=Sampled((1, 2, 70_000), (3, 4), (-0.5, -1.25), 0.8, 7),
    )
    return replace(made, **more)


def test_a_conversation_comes_back_as_it_was(store: Store) -> None:
    call = {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    asked = turn("a", said="Look?", system="Be short.", tools=(tool,), answer=Message("assistant", "", (call,)))
    result = turn("b", "a", messages=(Message("tool", "42", tool_call_id="call-1"),), system="Be short.", tools=(tool,))
    thanked = turn("c", "b", said="Thanks 🙂", system="Be short.", tools=(tool,), sampled=None)
    store.add_turns([asked, result])
    store.add_turns([thanked])
    [found] = store.show("c1")
    assert found.messages == (
        Message("system", "Be short."), *asked.messages, asked.answer, *result.messages, result.answer,
        *thanked.messages, thanked.answer,
    )  # fmt: skip
    assert found.tools == (tool,)
    turns = turns_of(found)
    assert [t.next_state for t in turns] == [result.messages, thanked.messages, ()]
    assert [t.sampled for t in turns] == [asked.sampled, result.sampled, None]
    assert list(store.export()) == [found]
    assert list(store.export("bob")) == []


def test_the_same_turn_is_committed_once(store: Store) -> None:
    store.add_turns([turn("a"), turn("a")])
    store.add_turns([turn("a", said="something else"), turn("b", "a")])
    [found] = store.show("c1")
    assert [m.content for m in found.messages] == ["?", "answer a", "?", "answer b"]
    assert store.list_conversations("ann")[0].turns == 2


def test_the_longest_known_history_is_found(store: Store) -> None:
    store.add_turns([turn("a"), turn("b", "a")])
    found = store.find("ann", [hashed("unknown"), hashed("b"), hashed("a")])
    assert found is not None
    assert (found.id, found.conversation, found.hash) == ("b", "c1", hashed("b"))
    assert store.find("bob", [hashed("b")]) is None
    assert store.find("ann", []) is None
    assert store.find("ann", [hashed(str(i)) for i in range(1200)] + [hashed("a")]) is not None


def test_of_equal_histories_the_one_with_the_same_system_prompt_then_the_one_not_continued_then_the_newest(
    store: Store,
) -> None:
    hello = hashed("hi, hello")
    for i, system in enumerate(("A", "B", "B")):
        store.add_turns([turn(f"t{i}", conversation=f"c{i}", hash=hello, system=system, created=2000.0 + i)])
    assert store.find("ann", [hello], "A").id == "t0"  # type: ignore[union-attr]
    assert store.find("ann", [hello], "B").id == "t2"  # type: ignore[union-attr]
    store.add_turns([turn("next", "t2", conversation="c2", system="B", created=3000.0)])
    assert store.find("ann", [hello], "B").id == "t1"  # type: ignore[union-attr]


def test_a_fork_is_a_conversation_of_its_own_and_shares_no_trainable_turn(store: Store) -> None:
    store.add_turns([turn("a"), turn("b", "a"), turn("b2", "a", said="Edited?"), turn("c", "b2"), turn("d", "c")])
    main, fork = store.show("c1")
    assert main.id == "c1"
    assert [m.content for m in main.messages if m.role == "assistant"] == [f"answer {x}" for x in ("a", "b2", "c", "d")]
    assert fork.id == "c1/b"
    assert [(t.answer.content, t.kind) for t in turns_of(fork)] == [("answer a", "side"), ("answer b", "main")]
    assert all(t.kind == "main" for t in turns_of(main))


def test_a_partial_answer_is_kept_and_never_trained(store: Store) -> None:
    store.add_turns([turn("a", state="partial"), turn("b", "a", kind="side")])
    main, side = store.show("c1")
    assert [t.kind for t in turns_of(main)] == ["side"]
    assert (side.id, [t.kind for t in turns_of(side)]) == ("c1/b", ["side", "side"])


def test_a_side_turn_is_no_reaction_and_the_main_line_goes_on_without_it(store: Store) -> None:
    store.add_turns([turn("a"), turn("b", "a", kind="side", said="A title?"), turn("c", "a", said="Thanks.")])
    main, side = store.show("c1")
    first, last = turns_of(main)
    assert ([m.content for m in first.next_state], first.kind, last.kind) == (["Thanks."], "main", "main")
    assert [t.kind for t in turns_of(side)] == ["side", "side"]


def test_two_first_requests_of_a_session_share_its_conversation(store: Store) -> None:
    at_once = [turn("a", conversation="c1", session="s"), turn("b", conversation="c2", session="s")]
    store.add_turns([*at_once, turn("x", conversation="c3", session="s", user="bob")])
    store.add_turns([turn("late", conversation="c4", session="s")])
    assert [(row.id, row.turns) for row in store.list_conversations("ann")] == [("c1", 3)]
    assert [(row.id, row.turns) for row in store.list_conversations("bob")] == [("c3", 1)]


def test_the_character_0_is_text_like_any_other(store: Store) -> None:
    odd = "a\0b \\u0000 🙂"
    store.add_turns([turn("a", said=odd, system=odd, answer=Message("assistant", odd))])
    [found] = store.show("c1")
    assert [m.content for m in found.messages] == [odd, odd, odd]
    assert store.find("ann", [hashed("a")], odd) is not None
    assert store.show("\0") == []
    assert store.list_conversations(after="\0") == []
    assert not store.add_feedback("ann", "\0", 1.0, 1.0)


def test_sessions_and_pages(store: Store) -> None:
    for i in range(7):
        store.add_turns([turn(f"t{i}", conversation=f"c{i}", session=f"s{i}", created=2000.0 + i // 2)])
    assert store.conversation_of_session("ann", "s3") == "c3"
    assert store.conversation_of_session("bob", "s3") is None
    seen: list[str] = []
    after = None
    while page := store.list_conversations("ann", after=after, limit=3):
        seen += [row.id for row in page]
        after = page[-1].id
    assert seen == [f"c{i}" for i in (6, 5, 4, 3, 2, 1, 0)]
    assert store.list_conversations("bob") == []
    assert store.list_conversations("ann", after="unknown") == []


def test_conversations_close_when_done_or_idle_and_open_again_when_they_go_on(store: Store) -> None:
    store.add_turns([turn("a", created=100.0), turn("x", conversation="c2", created=200.0)])
    assert store.close_conversations(300.0, idle_since=150.0) == 1
    assert store.close_conversations(300.0, idle_since=150.0) == 0
    assert store.close_conversations(300.0, user="bob", id="c2") == 0
    assert store.close_conversations(300.0, user="ann", id="c2") == 1
    store.add_turns([turn("b", "a", created=400.0)])
    closed = {row.id: row.closed for row in store.list_conversations("ann")}
    assert closed == {"c1": None, "c2": 300.0}


def test_a_persons_score_overrules_and_the_newest_counts(store: Store) -> None:
    store.add_turns([turn("a"), turn("b", "a")])
    with store.engine.begin() as c:
        c.execute(insert(schema.verdicts).values(turn="a", reward=1.0, created=0.0))
        c.execute(insert(schema.votes).values(turn="a", number=0, label=1, judge="j", reason="", created=0.0))
    assert store.add_feedback("ann", "a", 1.0, 1.0)
    assert store.add_feedback("ann", "a", -1.0, 2.0)
    assert not store.add_feedback("bob", "a", 1.0, 3.0)
    assert not store.add_feedback("ann", "nothing", 1.0, 3.0)
    [found] = store.show("c1")
    first, second = turns_of(found)
    assert first.verdict is not None
    assert first.verdict.reward == -1.0
    assert [vote.judge for vote in first.verdict.votes] == ["j"]
    assert second.verdict is None


def test_another_users_conversation_is_not_there(store: Store) -> None:
    store.add_turns([turn("a")])
    assert store.show("c1", "bob") == []
    assert store.show("c1", "ann") != []
    assert store.show("nothing") == []


def test_what_was_wanted_is_known_of_the_turn_until_it_is_taken_back(store: Store) -> None:
    store.add_turns([turn("a"), turn("b", "a")])
    assert store.add_feedback("ann", "a", None, 1.0, "Better.\0")
    [line] = store.show("c1")
    assert line.wanted == {1: "Better.\0"}
    found = store.turns(["a", "b"])
    assert (found["a"].wanted, found["b"].wanted) == ("Better.\0", None)
    assert found["a"].verdict == Verdict((), -1.0)
    store.add_feedback("ann", "a", None, 2.0, "")
    assert store.turns(["a"])["a"].wanted is None


def test_notes_are_kept_with_what_they_are_about_until_their_writer_is_forgotten(store: Store) -> None:
    policies = Policies(store)
    for number in (1, 2):
        policies.adopt(number, Path("p"), "", 0.0)
    policies.promote(1, Note(" Kinder.\0 ", "ann", 1.0))
    policies.promote(2, Note("  ", "ann", 2.0))
    policies.rollback(note=Note("Colder.", "bob", 3.0))
    assert policies.notes("") == [Note("Colder.", "bob", 3.0, None), Note("Kinder.\0", "ann", 1.0, 1)]
    assert policies.notes("ann") == []
    store.forget(user="ann")
    assert [note.by for note in policies.notes("")] == ["bob"]


def test_forgetting_names_the_versions_that_were_trained_on_it(store: Store) -> None:
    store.add_turns([turn("a", system="S"), turn("b", "a", system="S"), turn("x", conversation="c2", user="bob")])
    with store.engine.begin() as c:
        for n in (1, 2):
            version = {"number": n, "path": "p", "state": "published", "reason": "", "created": 0.0}
            c.execute(insert(schema.versions).values(**version))
            c.execute(insert(schema.updates).values(number=n, version=n, created=0.0))
        c.execute(insert(schema.update_turns), [{"update": 2, "turn": "b"}, {"update": 1, "turn": "x"}])
        c.execute(insert(schema.votes).values(turn="b", number=0, label=1, judge="j", reason="", created=0.0))
    store.add_feedback("ann", "a", 1.0, 1.0)
    forgotten = store.forget(user="ann")
    assert (forgotten.conversations, forgotten.turns, forgotten.versions) == (1, 2, (2,))
    assert list(store.export("ann")) == []
    assert [c.id for c in store.export()] == ["c2"]
    with store.engine.connect() as c:
        assert c.execute(schema.texts.select()).all() == []
        assert c.execute(schema.votes.select()).all() == []
    assert store.forget(conversation="c2").versions == (1,)
    with pytest.raises(ValueError, match="a user or a conversation"):
        store.forget()


def test_what_is_forgotten_is_gone_from_the_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    secret = "the-secret-word-that-must-go"
    store.add_turns([turn(f"t{i}", said=f"{secret} {i} " + 300 * "x", conversation=f"c{i}") for i in range(50)])
    store.add_turns([turn("keep", said="kept-word", conversation="other", user="bob")])
    found = [f for f in tmp_path.iterdir() if secret.encode() in f.read_bytes()]
    assert found
    assert store.forget(user="ann").turns == 50
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes(), file
    store.close()
    assert any(b"kept-word" in file.read_bytes() for file in tmp_path.iterdir())


def test_commits_are_durable_and_the_log_is_a_wal(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    with store.engine.connect() as c:
        read = {name: c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
    assert read == {"journal_mode": "wal", "synchronous": 2}


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    store.add_turns([turn("a")])
    with store.engine.begin() as c:
        c.execute(schema.turns.update().values(engine="other"))
        assert store.find("ann", [hashed("a")]) is not None
        assert [t.answer.content for line in store.show("c1") for t in turns_of(line)] == ["answer a"]


WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from test_store import turn
from talktune.store.store import Store
store = Store(sys.argv[1])
for i in range(40):
    store.add_turns([turn(f"{sys.argv[2]}-{i}", conversation=f"c-{sys.argv[2]}-{i}")])
"""


def test_processes_write_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    command = [sys.executable, "-c", WRITER, str(path)]
    running = [subprocess.Popen([*command, name, str(Path(__file__).parent)]) for name in ("p", "q", "r")]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert len(Store(path).list_conversations(limit=1000)) == 120


def test_opening_twice_changes_nothing_and_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.db"
    Store(path).add_turns([turn("a")])
    again = Store(str(path))
    assert len(again.list_conversations()) == 1
    with again.engine.begin() as c:
        c.execute(insert(schema.steps).values(number=99))
    with pytest.raises(UserError, match="of a newer talktune"):
        Store(path)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("this is no database, whatever its name says" * 100)
    with pytest.raises(UserError, match=r"The store .*file cannot be opened \(file is not a database\)"):
        Store(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be opened"):
        Store(tmp_path / "file" / "below.db")


def test_a_turn_without_its_parent_is_refused_as_a_whole(store: Store) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        store.add_turns([turn("a"), turn("b", "nobody")])
    assert store.list_conversations() == []


def test_the_database_is_sound_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    command = [sys.executable, "-c", WRITER.replace("range(40)", "range(10**6)"), str(path), "p"]
    process = subprocess.Popen([*command, str(Path(__file__).parent)])
    reader = Store(path)
    while len(reader.list_conversations(limit=1000)) < 20:
        assert process.poll() is None
    process.kill()
    process.wait()
    done = len(Store(path).list_conversations(limit=10**6))
    assert done >= 20
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_readings_stand_in_the_order_of_updates_with_the_verdicts_of_today(store: Store) -> None:
    store.add_turns([turn("a"), turn("b", "a"), turn("c", "b"), turn("d", conversation="c2")])
    with store.engine.begin() as c:
        c.execute(insert(schema.verdicts), [{"turn": x, "reward": -1.0, "created": 1.0} for x in "abcd"])
        c.execute(insert(schema.updates), [{"number": n, "metrics": "{}", "created": 1.0} for n in (1, 2)])
        add_readings(c, 1, NewReadings("", "me", [("d", b"4"), ("a", b"1")], 3))
        add_readings(c, 2, NewReadings("", "me", [("c", b"3"), ("b", b"2")], 3))
    assert store.add_feedback("ann", "c", 0.5, 2.0)
    found = [(one.turn, one.update, one.body, one.reward) for one in kept_readings(store, "", "me")]
    assert found == [("a", 1, b"1", -1.0), ("c", 2, b"3", 0.5), ("b", 2, b"2", -1.0)], "the oldest goes"
    assert kept_readings(store, "ann", "me") == kept_readings(store, "", "you") == []
    assert read_before(store, "me", ["a", "d"]) == {"a"}
    assert read_before(store, "you", ["a"]) == set()
    with store.engine.begin() as c:  # another model reads a turn anew
        add_readings(c, 2, NewReadings("", "you", [("b", b"5")], 3))
    assert [one.body for one in kept_readings(store, "", "you")] == [b"5"]
    assert [one.turn for one in kept_readings(store, "", "me")] == ["a", "c"]
    store.forget(conversation="c1")
    assert kept_readings(store, "", "me") == []
