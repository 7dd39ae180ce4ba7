"""Notices: what a real server hears of versions, brakes and a judge that is down; and nobody waits for it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from talktune.config import LiveConfig, check_config
from talktune.errors import UserError
from talktune.live.notify import TRIES, Notices
from talktune.live.roles import _notices
from talktune.store import schema
from talktune.store.learning import LEASE, Learning, NewVersion
from talktune.store.policies import Policies
from talktune.store.queues import lease
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message

from .conftest import World, tiny_config


class Hook(ThreadingHTTPServer):
    """A webhook: `heard` has what was posted, `statuses` what it answers first, `hold` lets it take its time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        self.came = threading.Condition()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/secret"

    def wait(self, count: int) -> list[dict[str, Any]]:
        with self.came:
            assert self.came.wait_for(lambda: len(self.heard) >= count, 60), self.heard
        return self.heard


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        assert self.headers["Content-Type"] == "application/json"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.came:
            self.server.heard.append(body)
            self.server.came.notify_all()
        self.server.hold.wait(60)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Generator[Hook]:
    with Hook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.hold.set()
        server.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Generator[Store]:
    opened = Store(tmp_path / "store.db")
    yield opened
    opened.close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 3.0  # each look is due
        return self.now


def step(notices: Notices) -> bool:
    """Look, and post one; a server has a thread for each."""
    assert not notices.look()
    return notices.post()


def decide(store: Store, number: int, *reasons: str) -> None:
    policies = Policies(store)
    live = policies.live()
    turn = NewTurn(
        id=f"t{number}",
        user="ann",
        conversation=f"c{number}",
        parent=None,
        hash=f"t{number}".encode(),
        messages=(Message("user", "?"),),
        answer=Message("assistant", "!"),
        engine="host",
        created=1.0,
    )
    store.add_turns([turn])
    store.add_feedback("ann", turn.id, 1.0, 1.0)
    assert lease(store, LEASE, "me:0")
    made = NewVersion(number, None if live is None else live.number, "", f"/policies/{number}")
    Learning(store).commit("me:0", made, {}, [turn.id], 1, 2.0)
    policies.decide(number, reasons, {})


def test_versions_and_brakes_are_told(store: Store, hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    decide(store, 1)
    decide(store, 2, "facts: 3 of 20")
    notices = Notices(store, hook.url, Clock())
    assert not step(notices), "what was there before is told"
    decide(store, 3)
    decide(store, 4, "it is worse")
    Policies(store).stop("", "entropy is 0.01")
    while step(notices):
        pass
    told = [{name: value for name, value in one.items() if name != "time"} for one in hook.heard]
    assert told == [
        {"event": "version", "text": "policy-000003 is live for everybody", "version": "policy-000003", "user": None},
        {
            "event": "stopped",
            "text": "learning of everybody is stopped: entropy is 0.01",
            "reason": "entropy is 0.01",
            "user": None,
        },
        {
            "event": "rejected",
            "text": "policy-000004 is rejected: it is worse",
            "version": "policy-000004",
            "reason": "it is worse",
            "user": None,
        },
    ]
    assert [record.message for record in caplog.records] == [one["text"] for one in told]
    Policies(store).rollback()
    assert step(notices)
    assert hook.heard[-1]["text"] == "policy-000001 is live for everybody"
    assert not step(notices)


def test_a_judge_that_is_down_for_five_minutes(store: Store, hook: Hook) -> None:
    clock = Clock()
    notices = Notices(store, hook.url, clock)

    def later(seconds: float) -> list[str]:
        clock.now += seconds
        while step(notices):
            pass
        return [one["text"] for one in hook.heard]

    assert later(1000) == [], "where nobody ever judged, nobody is down"
    store.tell("judge", "connection refused", clock.now)
    assert later(0) == later(200) == []
    store.tell("judge", "", clock.now)
    assert later(200) == [], "it was back in between"
    store.tell("judge", "connection refused", clock.now)
    later(0)
    said = later(300)
    assert said == ["the judge gives no votes, 0 turns wait for it: connection refused"]
    assert later(1000) == said, "once"
    store.tell("judge", "", clock.now)
    assert later(0) == [*said, "the judge is back"]
    assert len(later(1000)) == 2, "nothing waits for a judge that says nothing"
    decide(store, 1)
    with store.engine.begin() as c:
        c.execute(insert(schema.judging).values(turn="t1", created=0.0, after=0.0, tries=0, until=0.0))
    assert "the judge gives no votes, 1 turns wait for it: none is at work on this store" in later(0)


def test_who_takes_no_notice_is_asked_a_few_times(store: Store, hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices(store, hook.url, Clock())
    decide(store, 1)
    hook.statuses = [500, 404]
    for _ in range(2):
        with pytest.raises(UserError, match=r"127.0.0.1 took no notice \(it answers"):
            step(notices)
    assert step(notices)
    assert len({json.dumps(one) for one in hook.heard}) == 1

    decide(store, 2)
    decide(store, 3)
    hook.statuses = [500] * TRIES
    for _ in range(TRIES - 1):
        with pytest.raises(UserError):
            step(notices)
    assert step(notices), "it is given up"
    Policies(store).stop("", "why")
    assert step(notices)
    assert hook.heard[-1]["event"] == "stopped"
    assert "secret" not in caplog.text


def test_nobody_there(store: Store) -> None:
    notices = Notices(store, "http://127.0.0.1:9/", Clock())
    decide(store, 1)
    with pytest.raises(UserError, match="ConnectError"):
        step(notices)
    for number, strange in ((2, "http://a..b/"), (3, "http://[::1")):
        notices = Notices(store, strange, Clock())
        decide(store, number)
        for _ in range(4):
            with pytest.raises(UserError, match="took no notice"):
                step(notices)
        assert step(notices)  # given up, like any other
    assert not step(Notices(store, None, Clock()))
    with pytest.raises(UserError, match="--notify hooks: write it like"):
        check_config(LiveConfig(notify="hooks"))


def test_learning_does_not_wait_for_whom_it_tells(
    world: Callable[..., World], hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("talktune.live.notify.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("talktune.live.notify.POST_SECONDS", 60.0)  # on a busy machine two updates take longer than 5
    w = world(notify=hook.url)
    workers = _notices(w.store, w.learner.live)
    for worker in workers:
        worker.start()
    hook.hold.clear()
    for number in (1, 2):
        w.talk(4)
        w.judge()
        assert w.learn()
        live = w.learner.policies.live()
        assert live is not None
        assert live.number == number
        hook.wait(1)
    while "policy-000002 is live for everybody" not in caplog.text:  # nor is what happens next seen later
        time.sleep(0.05)
    assert [one["text"] for one in hook.heard] == ["policy-000001 is live for everybody"]
    hook.hold.set()
    assert hook.wait(2)[-1]["version"] == "policy-000002"
    for worker in workers:
        worker.stop()
        worker.join(60)


def test_a_learner_of_its_own_tells(tiny_model: Path, tmp_path: Path, hook: Hook) -> None:
    config = tiny_config(tiny_model, tmp_path)
    store = Store(tmp_path / "store.db")
    options = ("--store", tmp_path / "store.db", "--model", config.model.model, "--policies", tmp_path / "policies")
    learner = subprocess.Popen(
        [sys.executable, "-m", "talktune", "learn", *map(str, options), "--notify", hook.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with learner:
        assert learner.stdout
        assert learner.stderr
        assert learner.stdout.readline().startswith("learning from")
        Policies(store).stop("", "entropy is 0.01")
        [told] = hook.wait(1)
        learner.terminate()
        assert learner.wait(60) == 0
        assert told["event"] == "stopped"
        assert "learning of everybody is stopped: entropy is 0.01" in learner.stderr.read()
    store.close()


def test_a_server_before_another_engine_tells_nobody(talktune: Any) -> None:
    said = talktune("serve", "--upstream", "http://127.0.0.1:9", "--notify", "http://127.0.0.1:9/")
    assert "give it to `talktune learn`" in said.sentence
