"""Another user with a key, a web page, a local account: none of them reaches what is not theirs."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from talktune.config import ServeConfig
from talktune.serve.dialects.wire import BadRequest
from talktune.serve.limits import READING, Limits
from talktune.store.database import shown
from talktune.store.policies import Policies
from talktune.store.store import Store

from ...versions import make_versions
from ..conftest import serving

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def key(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}-secret"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("ann ann-secret\nbob bob-secret\n")
    return path


def test_versions_of_others_do_not_exist(tiny_model: Path, keys: Path, tmp_path: Path, engine: Any) -> None:
    engine.version = {"version": "0.14.0"}
    store = Store(tmp_path / "s.db")
    make_versions(tiny_model, store, tmp_path / "policies", 2)
    with store.engine.begin() as c:
        c.exec_driver_sql("UPDATE versions SET lineage = 'ann', parent = NULL WHERE number = 1")
        c.exec_driver_sql("UPDATE versions SET lineage = 'bob', parent = NULL WHERE number = 2")
        for number in (1, 2):
            c.exec_driver_sql("INSERT INTO updates VALUES (?, ?, '{}', 0)", (number, number))
    for number in (1, 2):
        Policies(store).promote(number)
    options = ("--upstream", engine.url, "--per-user", "--keys", str(keys))
    with serving(tmp_path / "s.db", *options, env={"TALKTUNE_API_KEY": "own"}) as server:
        own = {"Authorization": "Bearer own"}
        assert httpx2.post(f"{server.url}/v1/versions/1/promote", headers=own).status_code == 404
        for user, mine, others in (("ann", 1, 2), ("bob", 2, 1)):
            asked = httpx2.post(f"{server.url}/v1/chat/completions", json=HI, headers=key(user))
            assert asked.json()["model"] == f"policy-{mine:06}"
            listed = httpx2.get(f"{server.url}/v1/models", headers=key(user))
            assert [one["id"] for one in listed.json()["data"]] == ["m", f"policy-{mine:06}"]
            assert str(tmp_path) not in listed.text
            told = httpx2.get(f"{server.url}/v1/versions", headers=key(user)).json()["data"]
            assert [(one["number"], one["live"]) for one in told] == [(mine, True)]
            with httpx2.stream("GET", f"{server.url}/v1/events", headers=key(user), timeout=30) as events:
                heard = next(json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: "))
            assert (heard["version"], heard["update"]) == (mine, mine)
            for path in ("chat/completions", "responses", "messages", "messages/count_tokens"):
                body = HI | {"input": "Hi", "model": f"policy-{others:06}"}
                refused = httpx2.post(f"{server.url}/v1/{path}", json=body, headers=key(user))
                assert refused.status_code == 404, path
                assert f"policy-{mine:06}" in refused.text
            named = httpx2.get(f"{server.url}/v1/models/policy-{others:06}", headers=key(user))
            assert named.status_code == 404
            there = httpx2.post(
                f"{server.url}/v1/chat/completions", json=HI | {"model": f"policy-{mine:06}"}, headers=key(user)
            )
            assert there.status_code == 200
    store.close()


@pytest.fixture(scope="module")
def whole(tiny_model: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A server with keys and a host of its own, started by somebody who lets all the world read their files."""
    folder = tmp_path_factory.mktemp("whole")
    before = os.umask(0)
    try:
        options = ("--model", str(tiny_model), "--device", "cpu", "--policies", str(folder / "policies"))
        with serving(folder / "s.db", *options, "--keys", str(keys), env={"TALKTUNE_API_KEY": "own"}) as server:
            yield server, folder
    finally:
        os.umask(before)


def host_of(server: Any) -> tuple[int, str]:
    """Process and address of the host behind a server."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    (pid,) = map(int, children)
    listening = {
        line.split()[9]: int(line.split()[1].split(":")[1], 16)
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    links = [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()]
    (port,) = [listening[link[8:-1]] for link in links if link.startswith("socket:[") and link[8:-1] in listening]
    return pid, f"http://127.0.0.1:{port}"


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="finds the host by Linux's /proc")
def test_the_host_answers_the_server_alone(whole: tuple[Any, Path]) -> None:
    server, folder = whole
    pid, url = host_of(server)
    for headers in ({}, {"Authorization": "Bearer own"}, {"Host": "evil.example"}, {"Authorization": "Bearer x"}):
        assert httpx2.post(f"{url}/v1/chat/completions", json=HI, headers=headers).status_code == 401
        adapter = {"lora_name": "x", "lora_path": str(folder)}
        assert httpx2.post(f"{url}/v1/load_lora_adapter", json=adapter, headers=headers).status_code == 401
        assert httpx2.get(f"{url}/v1/models", headers=headers).status_code == 401
    asked = httpx2.post(f"{server.url}/v1/chat/completions", json=HI, headers=key("ann"), timeout=60)
    assert asked.status_code == 200
    told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    assert b"s.db" not in told


def test_a_host_by_itself_needs_a_key_where_others_reach_it(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "talktune.host", "--model", str(tiny_model), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 2
    assert "TALKTUNE_API_KEY" in done.stderr


def test_what_is_written_is_its_owners_alone(whole: tuple[Any, Path]) -> None:
    server, folder = whole
    httpx2.post(f"{server.url}/v1/chat/completions", json=HI, headers=key("ann"), timeout=60)
    assert (folder / "s.db-wal").exists()
    for path in (folder / "s.db", folder / "s.db-wal", folder / "s.db-shm"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_an_older_store_becomes_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    Store(path).close()
    path.chmod(0o644)
    Store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_password_is_printed() -> None:
    assert shown("postgresql://me:secret@db/talk") == "postgresql://…"
    assert shown("talktune.db") == "talktune.db"


def test_why_nothing_is_learned_only_the_owner_hears(whole: tuple[Any, Path]) -> None:
    server, _ = whole
    own = httpx2.get(f"{server.url}/health", headers={"Authorization": "Bearer own"}).json()
    assert {"judge", "learner"} <= own["roles"].keys()
    for headers in ({}, key("ann")):
        told = httpx2.get(f"{server.url}/health", headers=headers).json()
        assert all(state.keys() == {"state"} for state in told["roles"].values())


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Any]:
    """A server with keys, without an engine."""
    options = ("--upstream", "http://127.0.0.1:9", "--keys", str(keys), "--max-running", "4", "--key-running", "3")
    with serving(tmp_path_factory.mktemp("s") / "s.db", *options) as server:
        yield server


def test_a_page_sends_json_or_nothing(idle: Any, engine: Any, tmp_path: Path) -> None:
    told = json.dumps({"id": "chatcmpl-1", "thumbs": "up"})
    page = {"Origin": "http://localhost:5173"}
    with serving(tmp_path / "s.db", "--upstream", engine.url) as server:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "", "text/plain; x=application/json"):
            for path, body in (("feedback", told), ("chat/completions", json.dumps(HI))):
                headers = page | ({"Content-Type": kind} if kind else {})
                reply = httpx2.post(f"{server.url}/v1/{path}", content=body, headers=headers)
                assert reply.status_code == 415, (kind, path)
        # Not a simple request: the browser would ask first, and hears no.
        assert httpx2.post(f"{server.url}/v1/chat/completions", json=HI, headers=page).status_code == 200
    headers = key("ann") | page | {"Content-Type": "text/plain"}
    assert httpx2.post(f"{idle.url}/v1/feedback", content=told, headers=headers).status_code == 415


def test_slow_bodies_of_one_key_keep_nobody_else_waiting(idle: Any) -> None:
    host, port = idle.url[7:].split(":")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s-secret\r\n"
    with ExitStack() as open_:
        slow = [open_.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(12)]
        for s in slow:
            s.sendall(head % b"ann" + b"Content-Length: 100\r\n\r\n{")
        refused = [s for s in slow[3:] if b" 429 " in s.recv(4096)]
        assert len(refused) == 9  # three of hers wait for the rest of their bodies
        mine = httpx2.post(f"{idle.url}/v1/chat/completions", json=HI, headers=key("ann"))
        theirs = httpx2.post(f"{idle.url}/v1/chat/completions", json=HI, headers=key("bob"))
        assert (mine.status_code, theirs.status_code) == (429, 503)  # 503: it got as far as the engine
        assert "this key" in mine.json()["error"]["message"]


def test_limits_of_a_key() -> None:
    now = [0.0]
    config = ServeConfig(max_running=8, key_running=4, key_body_mib=1, key_rate=60)
    limits = Limits(config, keyed=True, clock=lambda: now[0])

    def refusal(user: str, size: int = 0) -> str:
        with pytest.raises(BadRequest) as refused:
            limits.take(user, size)
        assert refused.value.status == 429
        return str(refused.value)

    first = limits.take("ann", 2 << 20)  # one alone may be large
    assert "bytes" in refusal("ann", 1)
    limits.run(first, 10)
    places = [limits.take("ann", 1) for _ in range(3)]
    assert "4 requests with this key" in refusal("ann")
    for place in (first, *places):
        limits.leave(place)
    for _ in range(56):
        limits.leave(limits.take("ann", 0))
    assert "in a minute" in refusal("ann")
    limits.leave(limits.take("bob", 0))
    now[0] += 1.0
    limits.leave(limits.take("ann", 0))
    refusal("ann")
    assert limits.running == 0


def test_reads_of_one_key_have_limits_of_their_own(tmp_path: Path, keys: Path, engine: Any) -> None:
    options = ("--upstream", engine.url, "--keys", str(keys), "--key-rate", "5")
    with serving(tmp_path / "s.db", *options) as server:
        lists = ["turns", "conversations", "learning", "versions", "models", "turns"]
        codes = [httpx2.get(f"{server.url}/v1/{name}", headers=key("ann")).status_code for name in lists]
        assert codes == [200] * 5 + [429]
        refused = httpx2.get(f"{server.url}/metrics", headers=key("ann"))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert httpx2.get(f"{server.url}/v1/turns", headers=key("bob")).status_code == 200
        assert httpx2.get(f"{server.url}/health").status_code == 200
        assert httpx2.get(f"{server.url}/v1/turns").status_code == 401
        asked = httpx2.post(f"{server.url}/v1/chat/completions", json=HI, headers=key("ann"))
        assert asked.status_code == 200  # an answer is none of them


def test_reads_at_once_of_one_key() -> None:
    limits = Limits(ServeConfig(key_running=2), keyed=True)
    with limits.reads("ann"), limits.reads("ann"):
        with pytest.raises(BadRequest, match="2 requests"), limits.reads("ann"):
            pass
        with limits.reads("bob"):
            pass
        limits.leave(limits.take("ann", 0))
    with limits.reads("ann"):
        pass


def test_without_keys_there_is_one_user_who_may_take_it_all() -> None:
    config = ServeConfig(max_running=2, key_running=1, key_body_mib=1, key_rate=1)
    limits = Limits(config, keyed=False)
    with limits.reads("local"), limits.reads("local"):
        pass
    places = [limits.take("local", 1 << 20) for _ in range(READING * 2)]
    with pytest.raises(BadRequest, match="being read"):
        limits.take("local", 0)
    limits.run(places[0], 1)
    limits.run(places[1], 1)
    with pytest.raises(BadRequest, match="being answered"):
        limits.run(places[2], 1)
