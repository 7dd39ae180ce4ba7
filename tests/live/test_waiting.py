"""Whatever the judge and the learner wait for, answers go on; and every reason why nothing is learned is said."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from talktune.config import JudgeConfig, SampleConfig
from talktune.judge.from_config import make_judge
from talktune.live import weights
from talktune.live.engine_answers import answers
from talktune.live.roles import _judge, _learning
from talktune.live.worker import Worker
from talktune.policy.tokens import render_prompt
from talktune.types import Message, Turn

from .conftest import World

Make = Callable[..., World]


def answered(w: World) -> bool:
    """Whether the engine answers a question now."""
    ids = render_prompt(w.host.policy.tokenizer, [Message("user", "Are you there?")])
    how = SampleConfig(max_new_tokens=4)
    [one] = answers(w.host.engine, [ids], how, end_ids=w.host.end_ids, seeds=[0], lora=None)
    return len(one.answer_ids) > 0


@contextmanager
def in_a_thread(work: Callable[[], Any]) -> Generator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()


def test_a_slow_judge_of_fresh_answers_holds_no_answer(world: Make) -> None:
    asked, go_on = threading.Event(), threading.Event()
    w = world(lambda c: replace(c, algorithm=replace(c.algorithm, group="prompt")), answers=2)
    w.talk(4)
    w.judge()

    def slow(turn: Turn) -> Any:
        asked.set()
        assert go_on.wait(60)
        return 1

    w.learner.candidates._judge = make_judge(JudgeConfig(judge="oracle"), truth=slow)
    with in_a_thread(w.learn):
        assert asked.wait(60)
        assert answered(w)
        go_on.set()


def test_a_slow_disk_holds_no_answer(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()
    write = weights.write_checkpoint

    def slow(*args: Any) -> Any:
        writing.set()
        assert go_on.wait(60)
        return write(*args)

    monkeypatch.setattr(weights, "write_checkpoint", slow)
    w = world()
    w.talk(4)
    w.judge()
    with in_a_thread(w.learn):
        assert writing.wait(60)
        assert answered(w)
        go_on.set()


def test_a_locked_store_holds_no_answer(world: Make) -> None:
    w = world()
    w.talk(4)
    other = create_engine(w.store.engine.url)
    with other.connect() as c:
        c.exec_driver_sql("BEGIN IMMEDIATE")
        with in_a_thread(lambda: w.worker.step(1)) as judging:
            time.sleep(0.1)
            assert judging.is_alive(), "the judge did not wait for the store"
            assert answered(w)
            c.exec_driver_sql("ROLLBACK")
    other.dispose()


def test_reasoning_is_sampled_by_the_engine_beside_answers(world: Make) -> None:
    local = JudgeConfig(judge="local", judge_mode="reasoning", votes=3)
    w = world(lambda c: replace(c, judge=replace(local, judge_model=c.model.model)))
    judge = _judge(w.config, w.host)
    asked = [(Message("user", f"Say {i}."),) for i in range(3)]
    turns = [Turn("c", 1, one, Message("assistant", "No."), (Message("user", "?"),)) for one in asked]
    before = w.host.engine.sampled
    together = judge.vote([(turn, k) for turn in turns for k in range(2)])
    assert w.host.engine.sampled - before >= len(together) == 6
    assert [vote.reason for vote in judge.vote([(turns[2], 1)])] == [together[-1].reason], "company changed a vote"


def test_fresh_answers_are_judged_where_no_other_judge_is(world: Make) -> None:
    w = world(lambda c: replace(c, algorithm=replace(c.algorithm, group="prompt")), answers=2, no_judge=True)
    config = replace(
        w.config, judge=JudgeConfig(judge="local", judge_mode="logprobs", judge_model=w.config.model.model)
    )
    worker = _learning(config, w.host, w.store)
    assert worker._step.__self__.candidates._judge is not None  # type: ignore[attr-defined]


def test_looking_for_work_reads_no_conversation(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.talk(3, "ann")
    w.judge()
    monkeypatch.setattr(w.store, "turns", lambda ids: pytest.fail("it read conversations"))
    assert not w.learn()
    assert w.learner.trouble.startswith("3 of 4 verdicts until the next update")


def test_a_worker_goes_on_after_a_failure_and_tells_of_it() -> None:
    said: list[tuple[str, str]] = []
    done = threading.Event()
    count = iter(range(3))

    def step() -> bool:
        number = next(count, None)
        if number == 0:
            raise RuntimeError("no luck")
        if number is None:
            done.set()
        return number is not None

    worker = Worker("learner", step, lambda: "2 of 4 verdicts", lambda name, trouble: said.append((name, trouble)))
    worker.start()
    try:
        assert done.wait(60)
    finally:
        worker.stop()
        worker.join(60)
    assert said == [("learner", "it failed (RuntimeError: no luck)"), ("learner", "2 of 4 verdicts")]
    assert worker.state() == {"state": "waiting", "reason": "2 of 4 verdicts"}


def test_status_says_who_is_missing_and_why_nothing_is_learned(world: Make, capsys: Any, tmp_path: Path) -> None:
    from talktune.commands.status import status

    w = world()
    w.talk(3)
    w.judge()
    path = str(w.store.engine.url.database)
    status(store=path)
    assert "no learner is at work on this store" in " ".join(capsys.readouterr().out.split())
    assert not w.learn()
    w.store.tell("learner", w.learner.trouble, time.time())
    status(store=path)
    assert "learner: 3 of 4 verdicts until the next update" in " ".join(capsys.readouterr().out.split())
    w.talk(1)
    w.judge()
    assert w.learn()
    status(store=path)
    assert "learner: it makes an update, or examines what came of one" in capsys.readouterr().out
