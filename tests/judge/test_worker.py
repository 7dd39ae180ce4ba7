"""The judge beside a server: outages, turns that are beyond it, claims that run out, feedback that overrules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from talktune.judge.function import CallJudge
from talktune.judge.worker import JudgeWorker
from talktune.store import schema
from talktune.store.queues import Judging
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message, Turn


def turn(id: str, parent: str | None = None, said: str = "hm", **more: Any) -> NewTurn:
    name = id.rpartition("+")[0] or id
    values: dict[str, Any] = {
        "user": "ann",
        "conversation": f"c-{name}",
        "hash": id.encode(),
        "messages": (Message("user", said),),
        "answer": Message("assistant", f"answer of {id}"),
        "engine": "e",
        "created": 0.0,
    }
    return NewTurn(id=id, parent=parent, **(values | more))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = Store(tmp_path / "store.db")
    yield opened
    opened.close()


def talk(store: Store, count: int) -> list[str]:
    """`count` turns that were reacted to."""
    turns: list[NewTurn] = []
    for i in range(count):
        turns += [turn(f"t{i:04d}", created=float(i)), turn(f"t{i:04d}+", f"t{i:04d}", said="good", created=i + 0.5)]
    for at in range(0, len(turns), 200):
        store.add_turns(turns[at : at + 200])
    return [f"t{i:04d}" for i in range(count)]


def judged(store: Store) -> list[str]:
    v = schema.verdicts.c
    with store.reading() as c:
        return list(c.execute(select(v.turn).order_by(v.created, v.turn)).scalars())


def worker(store: Store, judge: Callable[[Turn], Any], clock: Clock, votes: int = 5) -> JudgeWorker:
    store.now = lambda _: clock()  # type: ignore[method-assign]
    return JudgeWorker(store, CallJudge(judge), votes, clock=clock)


def test_a_judge_that_is_down_for_1000_turns_leaves_them_waiting_and_catches_up_oldest_first(store: Store) -> None:
    ids = talk(store, 1000)
    clock, up, asked = Clock(), False, list[str]()

    def judge(one: Turn) -> int:
        if not up:
            raise OSError("connection refused")
        asked.append(one.conversation_id)
        return 1

    w = worker(store, judge, clock)
    for _ in range(300):
        w.step()
        clock.now += 10
    assert judged(store) == []
    assert w.queue.waiting() == 1000
    assert "connection refused" in w.trouble
    with store.reading() as c:
        assert c.execute(select(func.count()).select_from(schema.learning)).scalar() == 0
    up = True
    clock.now += 100
    while w.queue.waiting():
        w.step(limit=16)
        clock.now += 1
    order = list(dict.fromkeys(asked))
    newest = order.pop(order.index("c-t0999"))  # it was asked first, to see whether the judge is back
    assert order == [f"c-{id}" for id in ids[:-1]]
    assert newest == "c-t0999"
    assert w.trouble == ""
    with store.reading() as c:
        assert set(c.execute(select(schema.verdicts.c.reward)).scalars()) == {1.0}


def test_early_stop_writes_three_votes_where_five_could_be(store: Store) -> None:
    talk(store, 1)
    w = worker(store, lambda _: 1, Clock())
    assert w.step()
    assert not w.step()
    with store.reading() as c:
        rows = c.execute(select(schema.votes).order_by(schema.votes.c.number)).all()
    assert [(row.label, row.judge) for row in rows] == [(1, "<lambda>")] * 3
    assert all(row.cost >= 0 for row in rows)


def test_turns_that_are_beyond_the_judge_do_not_hold_up_the_others(store: Store) -> None:
    talk(store, 12)
    clock = Clock()

    def judge(one: Turn) -> int:
        if one.conversation_id in ("c-t0000", "c-t0001", "c-t0002", "c-t0003"):
            raise ValueError("too hard")
        return -1

    w = worker(store, judge, clock)
    for _ in range(50):
        w.step()
        clock.now += 1
    assert judged(store) == [f"t{i:04d}" for i in (11, 4, 5, 6, 7, 8, 9, 10)] or set(judged(store)) == {
        f"t{i:04d}" for i in range(4, 12)
    }
    assert w.queue.waiting() == 4


def test_a_claim_runs_out_and_a_late_verdict_counts_for_nothing(store: Store) -> None:
    from talktune.types import Verdict, Vote

    talk(store, 1)
    slow, fast = Judging(store, "elsewhere:1"), Judging(store, "elsewhere:2")
    clock = Clock()
    store.now = lambda _: clock()  # type: ignore[method-assign]
    [mine] = slow.claim(4)
    clock.now += 20.0
    assert slow.renew([mine.id])
    clock.now += 20.0
    assert fast.claim(4) == []
    clock.now += 5.0
    [theirs] = fast.claim(4)
    assert not slow.renew([mine.id])
    good = Verdict((Vote(1, judge="j"),), 1.0)
    assert fast.settle(theirs.id, good, 0.1, 12.0)
    assert not slow.settle(mine.id, Verdict((Vote(-1, judge="j"),), -1.0), 0.1, 13.0)
    assert judged(store) == ["t0000"]
    with store.reading() as c:
        assert c.execute(select(schema.verdicts.c.reward)).scalars().all() == [1.0]


def test_without_a_next_state_nothing_waits(store: Store) -> None:
    store.add_turns([turn("a")])
    store.add_turns([turn("b", "a", kind="side")])
    queue = Judging(store)
    assert queue.waiting() == 0
    # A retry says nothing: it waits until the judge looks, and is dropped.
    store.add_turns([turn("x", said="same"), turn("x+", "x", said="same")])
    assert queue.waiting() == 1
    assert queue.claim(4) == []
    assert queue.waiting() == 0
    store.add_turns([turn("x++", "x", said="thanks", conversation="c-x")])
    assert [one.id for one in queue.claim(4)] == ["x"]


def test_what_arrives_while_a_turn_is_claimed_makes_it_wait_anew(store: Store) -> None:
    talk(store, 1)
    queue = Judging(store, "elsewhere:1")
    [claimed] = queue.claim(1)
    store.add_turns([turn("fork", claimed.id, said="another reply", conversation="c-t0000", created=9.0)])
    queue._drop([claimed.id])
    assert queue.waiting() == 1


def test_a_persons_word_overrules_before_and_after_the_judge(store: Store) -> None:
    ids = talk(store, 3)
    assert store.add_feedback("ann", ids[0], -1.0, 1.0)
    w = worker(store, lambda _: 1, Clock())
    while w.step():
        pass
    assert judged(store) == ids[1:], "the judge was asked about what a person had said"
    assert store.add_feedback("ann", ids[1], -1.0, 2.0)
    rewards = {id: one.verdict.reward for id, one in store.turns(ids).items() if one.verdict}
    assert rewards == {ids[0]: -1.0, ids[1]: -1.0, ids[2]: 1.0}
    with store.reading() as c:
        assert c.execute(select(func.count()).select_from(schema.learning)).scalar() == 3


def test_what_is_forgotten_while_it_is_judged_leaves_nothing(store: Store) -> None:
    from talktune.types import Verdict, Vote

    talk(store, 1)
    queue = Judging(store)
    [claimed] = queue.claim(1)
    store.forget(user="ann")
    assert not queue.settle(claimed.id, Verdict((Vote(1, judge="j"),), 1.0), 0.1, 1.0)
    assert judged(store) == []
