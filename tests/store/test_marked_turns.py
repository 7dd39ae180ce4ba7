from pathlib import Path

from talktune.conversations.marks import answer_mark, line_mark, skeleton
from talktune.store import schema
from talktune.store.marked_turns import FEW, MarkedTurns
from talktune.store.overview import overview
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message


def turn(id: str, conversation: str, answer: str, **more: object) -> NewTurn:
    fields: dict[str, object] = {"parent": None, "messages": (Message("user", "?"),), "created": 1.0} | more
    return NewTurn(
        id=id, user="ann", conversation=conversation, hash=id.encode(), answer=Message("assistant", answer), engine="e",
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def test_an_answer_that_many_turns_gave_tells_nothing_by_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    store.add_turns([turn(f"t{i}", f"c{i}", "Ok.") for i in range(FEW + 1)])
    store.add_turns([turn("x", "cx", "No."), turn("y", "cx", "Ok.", parent="x"), turn("z", "cx", "So.", parent="y")])
    ok, no = (answer_mark(Message("assistant", text)) for text in ("ok", "no"))
    assert ok is not None
    assert no is not None
    with store.reading() as c:
        candidates = MarkedTurns(c, "ann")
        assert candidates.answered([ok]) is None
        found = candidates.answered([no])
        assert found is not None
        assert [one.id for one in found] == ["x"]
        of_session = MarkedTurns(c, "ann", "cx").answered([ok])
        assert of_session is not None
        (y,) = of_session
        assert [one.id for one in candidates.children(["x"])] == ["y"]
        (z,) = candidates.children(["y"])
        assert set(candidates.with_ancestors([z], 1)) == {"z", "y"}
        assert set(candidates.with_ancestors([z, y], 8)) == {"x", "y", "z"}
    store.close()


def test_a_side_turn_is_found_by_its_longest_line_in_older_stores_as_well(tmp_path: Path) -> None:
    line = "All commands were run; their results are known and nothing is open any more."
    told = f"<analysis>{'Let me think. ' * 9}</analysis>\n<summary>\n1. {line}\n2. So much for that.\n</summary>"
    store = Store(tmp_path / "s.db")
    store.add_turns([turn("a", "c", "Done."), turn("b", "c", "Hm", parent="a", kind="side")])
    store.add_turns([turn("s", "c", told, parent="b", kind="side"), turn("x", "d", told, kind="side", created=2.0)])
    mark = line_mark(skeleton(line))
    for _ in range(2):
        with store.reading() as c:
            candidates = MarkedTurns(c, "ann")
            assert [one.id for one in candidates.sides([mark])] == ["x", "s"]
            (s,) = MarkedTurns(c, "ann", "c").sides([mark])
            above = candidates.main_above(s)
            assert above is not None
            assert above.id == "a"
            assert candidates.main_above(candidates.sides([mark])[0]) is None
            assert MarkedTurns(c, "bob").sides([mark]) == candidates.sides([]) == []
        with store.engine.begin() as c:
            c.exec_driver_sql("UPDATE turns SET mark = NULL WHERE kind = 'side'")
            c.execute(schema.steps.delete().where(schema.steps.c.number >= schema.STEPS.index(schema._side_marks)))
        store.close()
        store = Store(tmp_path / "s.db")
    store.close()


def test_a_changed_history_is_kept_once_and_forgotten_with_its_conversation(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    history = (Message("user", "Hi"), Message("assistant", "Good morning"))
    asked = (Message("user", "[10:00] Hi"),)
    store.add_turns([turn("a", "c", "Good morning", messages=asked)])
    more = [turn(f"b{i}", "c", f"Fine {i}", parent="a", history=history, created=2.0 + i) for i in range(2)]
    store.add_turns([*more, turn("l", "c2", "So", lost="ambiguous")])
    with store.reading() as c:
        assert c.exec_driver_sql("SELECT count(*) FROM sent").scalar() == 2
    (first, *_) = store.show("c")
    assert first.prompts[3] == (*history, Message("user", "?"))
    assert first.messages[0] == Message("user", "[10:00] Hi", words="Hi")
    assert overview(store)["lost"] == {"ambiguous": 1}
    store.forget(conversation="c")
    with store.reading() as c:
        assert c.exec_driver_sql("SELECT count(*) FROM sent").scalar() == 0
    store.close()
