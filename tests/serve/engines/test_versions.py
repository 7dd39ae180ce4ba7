"""Which version answers: engines are given each under its own name, and what they refuse costs no answer."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx2

from talktune.store.policies import Policies
from talktune.store.store import Store

from ...versions import make_versions, name_versions
from ..conftest import serving


def ask(server: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_vllm_is_given_each_version_under_its_own_name(tmp_path: Path, vllm: Any) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    name_versions(store, tmp_path / "policies", 2)
    names = {number: Policies(store).engine_name(number) for number in (1, 2)}
    with serving(path, "--upstream", vllm.url) as server:
        ask(server)
        Policies(store).promote(1)
        time.sleep(0.1)
        ask(server)
        Policies(store).promote(2)
        time.sleep(0.1)
        ask(server)
        assert [body["model"] for body in vllm.asked] == ["m", names[1], names[2]]
        assert vllm.loaded == {names[2]: str(tmp_path / "policies" / "policy-000002")}
        vllm.loaded.clear()  # started again behind the server's back
        ask(server)
        assert vllm.asked[-1]["model"] == names[2]
        assert list(vllm.loaded) == [names[2]]
        # One that a client brought before it is live takes the place of the one before all the same.
        named = {"model": "policy-000001", "messages": [{"role": "user", "content": "hi"}]}
        for number in (1, 2):
            httpx2.post(f"{server.url}/v1/chat/completions", json=named, timeout=30)
            Policies(store).promote(number)
            time.sleep(0.1)
            ask(server)
            assert list(vllm.loaded) == [names[number]]
            named["model"] = "policy-000002"
        # What cannot be loaded does not cost an answer.
        vllm.adapter_refusal = (400, {"error": {"message": "no room", "type": "BadRequestError"}})
        Policies(store).promote(1)
        time.sleep(0.1)
        ask(server)
        assert vllm.asked[-1]["model"] == names[2]
        refused = httpx2.post(f"{server.url}/v1/chat/completions", json=named | {"model": "policy-000001"}, timeout=30)
        assert refused.status_code == 503  # what the engine said may name a path
        assert refused.json()["error"]["message"] == "policy-000001 could not be loaded into the engine."
        assert "policy-000001 could not be loaded" in httpx2.get(f"{server.url}/health").json()["version"]
    store.close()
    with sqlite3.connect(path) as c:
        models = c.execute("SELECT engine FROM turns ORDER BY created").fetchall()
    assert len(models) == 9


def test_a_client_may_name_a_version(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    make_versions(tiny_model, store, tmp_path / "policies", 2)
    Policies(store).promote(2)
    options = ["--model", str(tiny_model), "--device", "cpu", "--no-judge", "--no-learn", "--max-answer-tokens", "4"]
    with serving(path, *options) as server:
        assert ask(server)["model"] == "policy-000002"
        body = {"model": "policy-000002", "messages": [{"role": "user", "content": "hi"}]}
        reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
        assert reply.json()["model"] == "policy-000002"
        body["model"] = "gpt-4o"  # any name is the live version's
        reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
        assert reply.json()["model"] == "policy-000002"
        body["model"] = "policy-000007"
        reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
        assert (reply.status_code, "policy-000002" in reply.json()["error"]["message"]) == (404, True)
    store.close()


def test_an_adapter_that_is_given_serves_as_the_first_version(tiny_model: Path, tmp_path: Path) -> None:
    other = Store(tmp_path / "other.db")
    make_versions(tiny_model, other, tmp_path / "made", 1)
    other.close()
    path = tmp_path / "store.db"
    options = ["--model", str(tiny_model), "--device", "cpu", "--no-judge", "--no-learn", "--max-answer-tokens", "4"]
    options += ["--adapter", str(tmp_path / "made" / "policy-000001"), "--policies", str(tmp_path / "policies")]
    with serving(path, *options) as server:
        assert ask(server)["model"] == "policy-000001"
    with serving(path, *options) as server:  # started again, it is there already
        assert ask(server)["model"] == "policy-000001"
    store = Store(path)
    assert [(v.state, v.reason) for v in Policies(store).versions()] == [("published", "given as policy-000001")]
    store.close()
