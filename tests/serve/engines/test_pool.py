"""Several engines as one: what is killed under load costs no answer, and each answer's version is what sampled it."""

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from talktune.serve.engines.advice import START, advice
from talktune.store.policies import Policies
from talktune.store.store import Store

from ...load import Load
from ...versions import name_versions
from ..conftest import serving

PROGRAM = Path(__file__).parents[1] / "scripted_vllm.py"
WORD = re.compile(r"(?:m|tt-[0-9a-f]{4}-(\d{6}))/(\d+)@(\d+)")


def wait_for(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    give_up = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return found


class Process:
    """An engine that can be killed, and started again at the same place."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, str(PROGRAM), str(self.port)])

        def there() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(there)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def kill_in_an_answer(self) -> None:
        """Under load: as soon as half of an answer is on its way."""
        httpx2.post(f"{self.url}/die")
        self._process.wait(60)


@contextmanager
def engines(count: int) -> Iterator[list[Process]]:
    made: list[Process] = []
    try:
        made.extend(Process() for _ in range(count))
        yield made
    finally:
        for one in made:
            one.kill()


def health(server: Any) -> dict[str, Any]:
    return httpx2.get(f"{server.url}/health").json()


def test_an_engine_that_is_killed_under_load(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    name_versions(store, tmp_path / "policies", 3)
    policies = Policies(store)
    policies.promote(1)
    with engines(2) as (one, two), serving(path, "--upstream", one.url, "--upstream", two.url) as server:
        load = Load(server.url)
        try:
            load.wait_for(40, seconds=60)
            settled = time.time()
            policies.promote(2)
            load.wait_for(40, seconds=60)
            killed = time.time()
            one.kill_in_an_answer()
            load.wait_for(40, seconds=60)
            assert health(server)["status"] == "degraded"
            assert f"{one.url}: it does not answer" in health(server)["version"]
            policies.promote(3)  # which the one that comes back must have before it is asked
            one.start()
            wait_for(lambda: health(server)["status"] == "ok")
            back = time.time()
            load.wait_for(40, seconds=60)
            two.kill_in_an_answer()
            load.wait_for(40, seconds=60)
        finally:
            load.stop()
        assert load.broken == 0
    store.close()
    with sqlite3.connect(path) as c:
        rows = c.execute(
            "SELECT conversation, created, policy_version, answer, state, answer_ids, id FROM turns ORDER BY created"
        ).fetchall()
    assert {row[6] for row in rows} >= set(load.seen)
    ports: dict[str, set[str]] = {}  # while one version answers: an engine that has the next one first is given all
    early: set[str] = set()
    continued = 0
    for conversation, created, version, answer, state, ids, id in rows:
        words = WORD.findall(json.loads(answer)["content"])
        if id not in load.seen:
            continue  # it was asked when the clients were told to stop
        assert state == "complete"
        assert [int(number) for _, number, _ in words] == list(range(8))
        assert {int(number) for number, _, _ in words} == {version}
        assert ids is not None
        assert len(ids) == 8 * 4
        asked = {port for _, _, port in words}
        continued += len(asked) > 1
        if created < settled:
            ports.setdefault(conversation, set()).update(asked)
        if created < killed:
            early |= asked
    assert continued > 0, "nothing was killed in the middle of an answer"
    assert all(len(found) == 1 for found in ports.values())
    assert early == {str(one.port), str(two.port)}
    assert {row[2] for row in rows if row[1] < settled} == {1}
    late = [row for row in rows if row[1] > back]
    assert {row[2] for row in late} == {3}
    assert any(f"@{one.port}" in row[3] for row in late)


def test_two_stores_before_one_engine(tmp_path: Path, vllm: Any) -> None:
    servers: list[Any] = []
    stores = [Store(tmp_path / name) for name in ("a.db", "b.db")]
    for store, folder in zip(stores, ("a", "b"), strict=True):
        name_versions(store, tmp_path / folder, 1)
        Policies(store).promote(1)
    names = [Policies(store).engine_name(1) for store in stores]
    assert names[0] != names[1]
    with (
        serving(tmp_path / "a.db", "--upstream", vllm.url) as first,
        serving(tmp_path / "b.db", "--upstream", vllm.url) as second,
    ):
        servers = [first, second]
        assert vllm.loaded == {
            name: str(tmp_path / folder / "policy-000001") for name, folder in zip(names, "ab", strict=True)
        }
        for server, name in zip(servers, names, strict=True):
            reply = ask(server)
            assert (vllm.asked[-1]["model"], reply["model"]) == (name, "policy-000001")
            shown = [one["id"] for one in httpx2.get(f"{server.url}/v1/models").json()["data"]]
            assert shown == ["m", "policy-000001"]
            assert ask(server, model=names[0])["model"] == "policy-000001"  # no name of anybody's for its clients
            assert vllm.asked[-1]["model"] == name
        Policies(stores[1]).rollback()  # is told to the engine, whoever asks or not
        wait_for(lambda: list(vllm.loaded) == names[:1])
        assert ask(second)["model"] == "m"
        # Of our name and from elsewhere: it is another's, and given anew.
        vllm.loaded[names[0]] = "/somewhere/else"
        wait_for(lambda: vllm.loaded[names[0]] == str(tmp_path / "a" / "policy-000001"))
    for store in stores:
        store.close()


def test_a_version_that_cannot_be_loaded_is_told_with_what_to_set(tmp_path: Path, vllm: Any) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    name_versions(store, tmp_path / "policies", 1)
    vllm.adapter_refusal = (400, {"error": {"message": "LoRA rank 32 is greater than max_lora_rank 16."}})
    vllm.max_loras = 1
    soon = "import talktune.serve.engines.adapters as a; a.RETRY_SECONDS = 0.5"
    with serving(path, "--upstream", vllm.url, before=soon) as server:
        assert health(server)["status"] == "ok"
        Policies(store).promote(1)
        wait_for(lambda: health(server)["status"] == "degraded")
        assert ask(server)["model"] == "m"
        said = httpx2.get(f"{server.url}/health")
        assert said.status_code == 200  # it answers, though not by what is live
        assert "--max-lora-rank 32" in said.json()["version"]
        assert "policy-000001 could not be loaded" in said.json()["version"]
        Policies(store).rollback()
        wait_for(lambda: health(server)["status"] == "ok")
        vllm.adapter_refusal = None
        Policies(store).promote(1)
        wait_for(lambda: health(server).get("hints"))
        assert "--max-loras 2" in health(server)["hints"][0]
    store.close()


def ask(server: Any, model: str = "m") -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize(
    ("status", "said", "wanted"),
    [
        (400, "LoRA rank 64 is greater than max_lora_rank 16.", "--max-lora-rank 64"),
        (404, "No adapter found for /policies/policy-000001", "does not see /here"),
        (400, "Loading lora /here failed: No such file or directory", "does not see /here"),
        (404, "Not Found", START),
        (500, "LoRA is not enabled. Use --enable-lora to enable LoRA.", START),
        (400, "something else", "something else"),
    ],
)
def test_advice(status: int, said: str, wanted: str) -> None:
    assert wanted in advice(status, said, "/here")
