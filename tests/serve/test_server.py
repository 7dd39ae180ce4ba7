"""The server as a process, in front of an engine that does what the test says."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from talktune.conversations.turns import turns_of
from talktune.serve.keys import KEY_ENV
from talktune.store.store import Store

HI = {"role": "user", "content": "Hi"}


def ask(server: Any, messages: list[Any], headers: dict[str, str] | None = None, **more: Any) -> httpx2.Response:
    body = {"model": "m", "messages": messages} | more
    return httpx2.post(f"{server.url}/v1/chat/completions", json=body, headers=headers or {}, timeout=30)


def said(reply: httpx2.Response) -> str:
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def events(reply: httpx2.Response) -> list[Any]:
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def stored(server: Any, user: str | None = None) -> list[Any]:
    store = Store(server.store)
    try:
        return list(store.export(user))
    finally:
        store.close()


def test_a_conversation_without_headers_and_its_next_states(server: Any) -> None:
    messages: list[Any] = [{"role": "developer", "content": "Be kind."}]
    for text in ("Hi", "No, shorter.", "Thanks"):
        messages.append({"role": "user", "content": [{"type": "text", "text": text}]})
        messages.append({"role": "assistant", "content": said(ask(server, messages)), "refusal": None})
    (conversation,) = stored(server)
    turns = list(turns_of(conversation))
    assert [turn.kind for turn in turns] == ["main"] * 3
    assert [[m.content for m in turn.next_state] for turn in turns] == [["No, shorter."], ["Thanks"], []]
    assert turns[0].prompt[0].role == "system"
    assert all(turn.sampled is None for turn in turns)  # this engine gave no ids: none are made up


def test_a_stream_goes_on_chunk_by_chunk_and_its_turn_is_there_before_its_end(server: Any, engine: Any) -> None:
    engine.says("one two three")
    said, held = threading.Event(), list[bool]()
    engine.before_end = lambda: held.append(said.wait(20))
    arrived = 0
    with httpx2.stream(
        "POST", f"{server.url}/v1/chat/completions", json={"messages": [HI], "stream": True}, timeout=30
    ) as reply:
        found = False
        for line in reply.iter_lines():
            if not line:
                continue
            arrived += 1
            body = {} if line == "data: [DONE]" else json.loads(line[6:])
            if body and body["choices"][0]["delta"].get("content") == " three":
                said.set()
            if body and body["choices"][0]["finish_reason"] and not found:
                found = True
                (conversation,) = stored(server)
                assert conversation.messages[-1].content == "one two three"
    assert found
    assert arrived == 6
    assert held == [True], "the words came only with the end"
    assert engine.asked[0]["messages"] == [HI]


def test_what_the_client_sends_reaches_the_engine(server: Any, engine: Any) -> None:
    options = {"stop": ["x"], "seed": 3, "user": "u", "store": True, "reasoning_effort": "low", "response_format": {}}
    ask(server, [HI], **options, tools=[], tool_choice="auto", max_completion_tokens=10**9, session_id="s", top_p=None)
    (asked,) = engine.asked
    assert {key: asked[key] for key in options} == options
    assert asked["max_completion_tokens"] == 4096
    assert not {"tools", "tool_choice", "session_id", "top_p"} & set(asked)


def test_a_known_engine_gets_plain_messages_and_the_temperature_of_the_server(
    start_server: Any, engine: Any, tmp_path: Path
) -> None:
    engine.version = {"version": "0.11"}
    with start_server(tmp_path / "s.db", "--upstream", engine.url + "/v1/", "--temperature", "0.6") as server:
        assert "vllm" in server.said[0]
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        ask(server, [{"role": "developer", "content": parts}, HI], max_tokens=-1)
    (asked,) = engine.asked
    assert asked["messages"] == [{"role": "system", "content": "a\nb"}, HI]
    assert (asked["temperature"], asked["max_tokens"]) == (0.6, 4096)
    assert asked["logprobs"]
    assert asked["return_token_ids"]


def test_ids_and_log_probs_are_stored_and_not_told_to_a_client_that_did_not_ask(
    start_server: Any, engine: Any, tmp_path: Path
) -> None:
    engine.version = {"version": "0.11"}
    entries = [{"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "b", "logprob": -0.25, "bytes": [98]}]
    engine.reply["choices"][0] |= {"logprobs": {"content": entries}, "token_ids": [5, 6]}
    engine.reply |= {"prompt_token_ids": [1, 2, 3], "model": "policy-000017"}
    with start_server(tmp_path / "s.db", "--upstream", engine.url) as server:
        plain = ask(server, [HI], temperature=1.0).json()
        told = ask(server, [HI], temperature=1.0, logprobs=True, return_token_ids=True).json()
        first, second = stored(server)
    assert "prompt_token_ids" not in plain
    assert not {"token_ids", "logprobs"} & set(plain["choices"][0])
    assert told["prompt_token_ids"] == [1, 2, 3]
    assert told["choices"][0]["logprobs"]["content"] == entries
    for conversation in (first, second):
        sampled = conversation.sampled[1]
        assert (sampled.prompt_ids, sampled.answer_ids, sampled.logprobs) == ((1, 2, 3), (5, 6), (-0.5, -0.25))
        assert (sampled.temperature, sampled.policy_version) == (1.0, 17)


def test_a_retry_is_no_reaction_and_an_edit_is_a_fork(server: Any, engine: Any) -> None:
    first = said(ask(server, [HI]))
    history = [HI, {"role": "assistant", "content": first}]
    for _ in range(2):  # the client did not get the answer and asks again
        ask(server, [*history, {"role": "user", "content": "More?"}])
    engine.says("Something else")
    ask(server, [*history, {"role": "user", "content": "Less?"}])
    main, *forks = stored(server)
    assert len(forks) == 2
    reactions = [
        [m.content for m in turn.next_state] for c in (main, *forks) for turn in turns_of(c) if turn.kind == "main"
    ]
    assert reactions == [["More?"], [], [], []]


def test_n_choices_are_branches(server: Any, engine: Any) -> None:
    two = [
        {"index": i, "message": {"role": "assistant", "content": t}, "finish_reason": "stop"}
        for i, t in enumerate("AB")
    ]
    engine.reply["choices"] = two
    id = ask(server, [HI], n=2).json()["id"]
    engine.says("Fine")
    said(ask(server, [HI, {"role": "assistant", "content": "B"}, {"role": "user", "content": "Good"}]))
    main, fork = stored(server)
    assert [m.content for m in main.messages[:3]] == ["Hi", "B", "Good"]
    assert [m.content for m in fork.messages] == ["Hi", "A"]
    reply = httpx2.post(f"{server.url}/v1/feedback", json={"completion_id": id, "choice": 1, "thumbs": "up"})
    assert reply.json()["score"] == 1.0
    assert stored(server)[0].verdicts[1].reward == 1.0


def test_sessions_kinds_and_closing(server: Any, engine: Any) -> None:
    for text in ("a", "b"):
        ask(server, [{"role": "user", "content": text}], {"X-Session-Id": "mine"})
    ask(server, [{"role": "user", "content": "c"}], {"X-Turn-Type": "side"})
    ask(server, [{"role": "user", "content": "Generate a concise title for this conversation."}])
    ask(server, [{"role": "user", "content": "d"}], {"X-Session-Done": "true"})
    listed = httpx2.get(f"{server.url}/v1/conversations").json()
    assert [(c["session"], c["turns"], c["closed"] is not None) for c in listed["data"]] == [
        (None, 1, True),
        (None, 1, False),
        (None, 1, False),
        ("mine", 2, False),
    ]
    kinds = {c.messages[0].content: dict(c.kinds) for c in stored(server)}
    assert kinds["c"] == {1: "side"}
    assert kinds["Generate a concise title for this conversation."] == {1: "side"}
    assert kinds["a"] == kinds["d"] == {}


def test_two_first_requests_of_a_session_at_once(server: Any, engine: Any) -> None:
    engine.pause = 0.5
    said_at_once = [[{"role": "user", "content": text}] for text in "ab"]
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda m: ask(server, m, session_id="s", session_done=True), said_at_once))
    assert [reply.status_code for reply in replies] == [200, 200]
    (listed,) = httpx2.get(f"{server.url}/v1/conversations").json()["data"]
    assert (listed["session"], listed["turns"], listed["closed"] is not None) == ("s", 2, True)


def test_a_side_turn_in_a_conversation_is_no_reaction(server: Any) -> None:
    history: list[Any] = [HI, {"role": "assistant", "content": said(ask(server, [HI]))}]
    ask(server, [*history, {"role": "user", "content": "Suggest a short title for this chat."}])
    ask(server, [*history, {"role": "user", "content": "Great!"}])
    main, side = stored(server)
    (turn, last) = turns_of(main)
    assert [m.content for m in turn.next_state] == ["Great!"]
    assert not last.next_state
    assert all(turn.kind == "side" for turn in turns_of(side))


def test_an_idle_conversation_is_closed(start_server: Any, engine: Any, tmp_path: Path) -> None:
    with start_server(tmp_path / "s.db", "--upstream", engine.url, "--idle-minutes", "0.005") as server:
        ask(server, [HI])
        wait_for(lambda: httpx2.get(f"{server.url}/v1/conversations").json()["data"][0]["closed"] is not None)


def wait_for(true: Callable[[], object]) -> None:
    for _ in range(300):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def test_a_client_that_leaves_stops_the_engine_and_its_turn_is_partial(server: Any, engine: Any) -> None:
    engine.says(" ".join(["word"] * 200))
    engine.pause = 0.05
    with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json={"messages": [HI], "stream": True}) as reply:
        for line in reply.iter_lines():
            if "word" in line:
                break
    assert engine.ended.wait(10)
    wait_for(lambda: stored(server))
    (conversation,) = stored(server)
    assert conversation.messages[1].content.startswith("word")
    assert conversation.kinds == {1: "side"}
    wait_for(lambda: httpx2.get(f"{server.url}/health").json()["running"] == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_breaks_off_is_not_a_whole_answer(server: Any, engine: Any, stream: bool) -> None:
    engine.chunks = engine.chunks[:-1]
    engine.breaks = True
    engine.reply = {"choices": []}
    reply = ask(server, [HI], stream=stream)
    if stream:
        got = events(reply)
        assert "[DONE]" not in got
        assert got[-1]["error"]["code"] == "engine_unavailable"
        wait_for(lambda: stored(server))
        assert stored(server)[0].kinds == {1: "side"}
        with pytest.raises(openai.APIError):
            list(openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0).chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
            ))  # fmt: skip
    else:
        assert reply.status_code == 502
        assert stored(server) == []


def test_an_engine_that_is_not_there(start_server: Any, engine: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with start_server(tmp_path / "s.db", "--upstream", nobody) as server:
        assert "cannot be reached" in server.said[0]
        reply = ask(server, [HI])
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
        assert httpx2.get(f"{server.url}/health").status_code == 503
        assert httpx2.get(f"{server.url}/healthz").status_code == 200


@pytest.mark.parametrize(
    ("status", "ours"), [(400, 400), (404, 404), (422, 422), (429, 429), (500, 502), (503, 503), (401, 502)]
)
def test_what_the_engine_refuses(shared: Any, status: int, ours: int) -> None:
    server, engine = shared
    engine.status = status
    reply = ask(server, [HI])
    assert reply.status_code == ours
    assert reply.json()["error"]["message"]


def test_restarts_forget_nothing(start_server: Any, engine: Any, tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    with start_server(store, "--upstream", engine.url) as server:
        answer = said(ask(server, [HI]))
        server.process.kill()
    with start_server(store, "--upstream", engine.url) as server:
        said(ask(server, [HI, {"role": "assistant", "content": answer}, {"role": "user", "content": "Well"}]))
        (conversation,) = stored(server)
    assert len(conversation.messages) == 4


def test_sigterm_lets_answers_finish(start_server: Any, engine: Any, tmp_path: Path) -> None:
    engine.says(" ".join(["w"] * 10))
    engine.pause = 0.1
    with start_server(tmp_path / "s.db", "--upstream", engine.url) as server:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(ask, server, [HI], stream=True)
            wait_for(lambda: engine.asked)
            server.process.send_signal(signal.SIGTERM)
            assert events(running.result())[-1] == "[DONE]"
        assert server.process.wait(20) == 0
        assert len(stored(server)) == 1


def test_sigterm_keeps_what_does_not_finish(start_server: Any, engine: Any, tmp_path: Path) -> None:
    engine.says(" ".join(["w"] * 1000))
    engine.pause = 0.05
    body = {"messages": [HI], "stream": True}
    with start_server(tmp_path / "s.db", "--upstream", engine.url, "--grace", "1") as server:
        with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=30) as reply:
            next(line for line in reply.iter_lines() if '"w"' in line)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
        (conversation,) = stored(server)
    assert conversation.kinds == {1: "side"}


def test_users_do_not_see_each_other(start_server: Any, engine: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# users\nann key-a\nbob key-b\n")
    with start_server(tmp_path / "s.db", "--upstream", engine.url, "--keys", str(keys)) as server:
        ann, bob = ({"Authorization": f"Bearer key-{x}"} for x in "ab")
        done = ask(server, [HI], ann).json()
        answer = done["choices"][0]["message"]["content"]
        ask(server, [HI, {"role": "assistant", "content": answer}, {"role": "user", "content": "x"}], bob)
        mine = httpx2.get(f"{server.url}/v1/conversations", headers=ann).json()["data"]
        assert [c["turns"] for c in mine] == [1]
        path = f"{server.url}/v1/conversations/{mine[0]['id']}"
        assert httpx2.get(path, headers=ann).status_code == 200
        assert httpx2.get(path, headers=bob).status_code == 404
        feedback = {"completion_id": done["id"], "score": -1}
        assert httpx2.post(f"{server.url}/v1/feedback", json=feedback, headers=bob).status_code == 404
        assert httpx2.post(f"{server.url}/v1/feedback", json=feedback, headers=ann).status_code == 200
        for wrong in ({}, {"Authorization": "Bearer key-c"}, {"Authorization": "Basic key-a"}):
            for route in ("/v1/conversations", "/v1/models", "/metrics"):
                assert httpx2.get(server.url + route, headers=wrong).status_code == 401
            assert ask(server, [HI], wrong).status_code == 401
        assert httpx2.get(f"{server.url}/health").status_code == 200
        assert len(stored(server, "ann")) == len(stored(server, "bob")) == 1


def test_pages_and_export(server: Any) -> None:
    for text in "abcde":
        ask(server, [{"role": "user", "content": text}])
    seen: list[str] = []
    after = ""
    while True:
        page = httpx2.get(f"{server.url}/v1/conversations", params={"limit": 2, "after": after}).json()
        seen += [c["id"] for c in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert len(seen) == len(set(seen)) == 5
    reply = httpx2.get(f"{server.url}/v1/conversations", params={"limit": 3, "format": "jsonl"})
    assert [json.loads(line)["id"] for line in reply.text.splitlines()] == seen[:3]
    assert reply.headers["x-last-id"] == seen[2]
    one = httpx2.get(f"{server.url}/v1/conversations/{seen[0]}", params={"format": "jsonl"})
    assert json.loads(one.text)["messages"][0]["content"] == "e"


def test_models_metrics_and_description(server: Any) -> None:
    ask(server, [HI])
    assert httpx2.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "m"
    assert httpx2.get(f"{server.url}/v1/models/m").json()["id"] == "m"
    assert httpx2.get(f"{server.url}/v1/models/other").status_code == 404
    assert 'talktune_turns_total{kind="main"} 1.0' in httpx2.get(f"{server.url}/metrics").text
    assert "/v1/chat/completions" in httpx2.get(f"{server.url}/openapi.json").json()["paths"]


def test_more_requests_than_allowed(start_server: Any, engine: Any, tmp_path: Path) -> None:
    refused, held = threading.Event(), list[bool]()
    engine.before_end = lambda: held.append(refused.wait(20))
    with start_server(tmp_path / "s.db", "--upstream", engine.url, "--max-running", "1") as server:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(ask, server, [HI], stream=True)
            wait_for(lambda: engine.asked)
            reply = ask(server, [HI])
            refused.set()
            assert (reply.status_code, "retry-after" in reply.headers) == (429, True)
            assert running.result().status_code == 200
            assert held == [True]
        assert ask(server, [HI]).status_code == 200


def test_the_key_of_the_environment(start_server: Any, engine: Any, tmp_path: Path) -> None:
    with start_server(tmp_path / "s.db", "--upstream", engine.url, env={KEY_ENV: "secret"}) as server:
        assert ask(server, [HI]).status_code == 401
        assert ask(server, [HI], {"Authorization": "Bearer secret"}).status_code == 200
