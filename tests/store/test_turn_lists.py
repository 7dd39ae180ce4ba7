"""Turns newest first, the share of liked answers over time, and whether anything changed: right, and by an index."""

import re
from pathlib import Path

from sqlalchemy import event, insert

from talktune.store import schema
from talktune.store.changes import latest
from talktune.store.reactions import reactions
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.store.turn_lists import entries, entry
from talktune.types import Message, Sampled


def turn(number: int, user: str = "ann", parent: int | None = None) -> NewTurn:
    return NewTurn(
        id=f"t{number:03}",
        user=user,
        conversation=f"{user}-{number if parent is None else parent}",
        parent=None if parent is None else f"t{parent:03}",
        hash=f"{user}{number}".encode(),
        messages=(Message("user", f"said {number} \0"),),
        answer=Message("assistant", f"answered {number}"),
        engine="host",
        created=float(number // 2),  # two at one time
        sampled=Sampled((1,), (2, 3), (-0.5, -0.25), 1.0, 4),
    )


def judge(store: Store, rewards: dict[int, float]) -> None:
    with store.engine.begin() as c:
        rows = [{"turn": f"t{n:03}", "reward": reward, "created": 100.0 + n} for n, reward in rewards.items()]
        c.execute(insert(schema.verdicts), rows)


def test_pages_join_without_a_gap_or_a_double(store: Store) -> None:
    store.add_turns([turn(n) for n in range(11)] + [turn(50, "bob")])
    seen: list[str] = []
    before = None
    while page := entries(store, "ann", before=before, limit=3):
        seen += [one.id for one in page]
        before = page[-1].id
    assert seen == [f"t{n:03}" for n in reversed(range(11))]
    assert [one.id for one in entries(store, None, limit=1)] == ["t050"]
    assert entries(store, "ann", before="t050") == []
    assert entries(store, "ann", before="\0") == []
    assert entry(store, "bob", "t000") is None
    assert entry(store, None, "\0") is None


def test_an_entry_says_what_became_of_a_turn(store: Store) -> None:
    store.add_turns([turn(1), turn(2, parent=1), turn(3)])
    judge(store, {1: -1.0})
    with store.engine.begin() as c:
        vote = {"number": 0, "label": -1, "confidence": 0.8, "judge": "j", "reason": "r", "created": 0.0}
        c.execute(insert(schema.votes).values(turn="t001", **vote))
        c.execute(insert(schema.updates).values(number=5, version=None, created=0.0))
        c.execute(insert(schema.update_turns).values(update=5, turn="t001"))
    found = entry(store, "ann", "t001")
    assert found is not None
    assert (found.request, found.answer, found.reaction) == ("said 1 \0", "answered 1", "said 2 \0")
    assert (found.reward, found.score, found.version, found.updates) == (-1.0, None, 4, (5,))
    assert [(vote.label, vote.reason) for vote in found.votes] == [(-1, "r")]
    assert [one.id for one in entries(store, "ann", bad=True)] == ["t001"]
    assert [one.id for one in entries(store, "ann", unscored=True)] == ["t003", "t002"]
    assert store.add_feedback("ann", "t001", None, 1.0, "better \0")
    found = entry(store, "ann", "t001")
    assert found is not None
    assert (found.reward, found.score, found.better) == (-1.0, -1.0, "better \0")
    assert store.add_feedback("ann", "t001", 1.0, 2.0)
    found = entry(store, "ann", "t001")
    assert found is not None
    assert (found.reward, found.better) == (1.0, "better \0")
    assert entries(store, "ann", bad=True) == []


def test_the_share_of_liked_answers_over_time(store: Store) -> None:
    assert reactions(store, "ann").points == ()
    store.add_turns([turn(n) for n in range(30)] + [turn(50, "bob")])
    judge(store, {n: -1.0 if n < 10 else 0.0 if n < 20 else 1.0 for n in range(30)} | {50: 1.0})
    store.add_feedback("ann", "t000", 1.0, 100.0)  # a person overrules
    found = reactions(store, "ann", window=5)
    assert (found.liked, found.disliked, found.neutral, found.window) == (11, 9, 10, 5)
    assert [point.number for point in found.points] == list(range(5, 21))
    assert [point.share for point in found.points] == [0.2, *[0.0] * 5, 0.2, 0.4, 0.6, 0.8, *[1.0] * 6]
    few = reactions(store, "ann", window=5, points=4)
    assert [point.number for point in few.points] == [5, 8, 12, 16, 20]
    assert reactions(store, "ann", window=40).window == 10  # half of them: the first and the last share none
    assert reactions(store, None).liked == 12


def test_what_changed(store: Store) -> None:
    before = latest(store, ["ann", "bob"])
    assert (before.turns, before.judged, before.update) == ({"ann": None, "bob": None}, 0.0, 0)
    store.add_turns([turn(1), turn(2)])
    judge(store, {1: 1.0})
    store.add_feedback("ann", "t002", 1.0, 300.0)
    after = latest(store, ["bob", "ann"])
    assert (after.turns, after.judged) == ({"ann": "t002", "bob": None}, 300.0)


def test_no_page_reads_all_turns(tmp_path: Path) -> None:
    """SQLite's plan of each query: turns, verdicts and feedback are found by an index, and nothing is sorted."""
    store = Store(tmp_path / "s.db")
    store.add_turns([turn(1)])
    asked: list[tuple[str, tuple[object, ...]]] = []
    event.listen(store.engine, "before_cursor_execute", lambda _c, _cur, text, values, *_: asked.append((text, values)))
    for bad in (False, True):
        entries(store, "ann", before="t001", bad=bad)
    latest(store, ["ann", "bob"])
    with store.engine.connect() as c:
        for text, values in [one for one in asked if one[0].startswith("SELECT")]:
            plan = " ".join(f"{row[3]};" for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values))
            assert not re.search(r"SCAN (turns|votes|verdicts|feedback|update_turns)\b", plan), (text, plan)
            assert "LIMIT" not in text or "TEMP B-TREE" not in plan, (text, plan)
    assert len(asked) > 8
    store.close()
