from pathlib import Path

from talktune.conversations.marks import answer_mark
from talktune.store.candidates import FEW, Candidates
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
        candidates = Candidates(c, "ann")
        assert candidates.answered([ok]) is None
        found = candidates.answered([no])
        assert found is not None
        assert [one.id for one in found] == ["x"]
        of_session = Candidates(c, "ann", "cx").answered([ok])
        assert of_session is not None
        (y,) = of_session
        assert [one.id for one in candidates.children(["x"])] == ["y"]
        (z,) = candidates.children(["y"])
        assert set(candidates.with_ancestors([z], 1)) == {"z", "y"}
        assert set(candidates.with_ancestors([z, y], 8)) == {"x", "y", "z"}
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
