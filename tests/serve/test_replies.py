"""The server as a process, in front of engines whose replies are odd: a right stream, and a right turn."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from talktune.conversations.turns import turns_of
from talktune.serve.engines import upstream
from talktune.store.store import Store

HI = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def odd(start_engine: Any) -> Iterator[Any]:
    with start_engine() as made:
        yield made


@pytest.fixture(scope="module")
def before_odd(start_server: Any, odd: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with start_server(tmp_path_factory.mktemp("odd") / "s.db", "--upstream", odd.url) as running:
        yield running


@pytest.fixture(scope="module")
def vllm(start_engine: Any) -> Iterator[Any]:
    with start_engine() as made:
        made.version = {"version": "0.11"}
        yield made


@pytest.fixture(scope="module")
def before_vllm(start_server: Any, vllm: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with start_server(tmp_path_factory.mktemp("vllm") / "s.db", "--upstream", vllm.url) as running:
        yield running


def ask(server: Any, **more: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/v1/chat/completions", json={"messages": [HI]} | more, timeout=30)


def newest(server: Any) -> Any:
    store = Store(server.store)
    try:
        turns = [turn for conversation in store.export() for turn in turns_of(conversation)]
        return turns[-1]
    finally:
        store.close()


def sse(*bodies: Any) -> list[bytes]:
    return [f"data: {json.dumps(body)}\n\n".encode() for body in bodies] + [b"data: [DONE]\n\n"]


def part(delta: Any, finish: Any = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "error": None}


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"index": None, "type": "function", "function": {"name": "look", "arguments": arguments}} | more


CALLS = {
    "named in every piece": sse(
        part({"tool_calls": [call('{"x"', id="1")]}), part({"tool_calls": [call(": 1}")]}), part({}, "tool_calls")
    ),
    "function_call": sse(
        part({"function_call": {"name": "look", "arguments": '{"x": '}}),
        part({"function_call": {"arguments": "1}"}}),
        part({}, "function_call"),
    ),
    "arguments as an object": sse(part({"tool_calls": [call({"x": 1})]}), part({}, "tool_calls")),
}


@pytest.mark.parametrize("raw", CALLS.values(), ids=CALLS)
def test_a_tool_call_reaches_client_and_store_alike(before_odd: Any, odd: Any, raw: list[bytes]) -> None:
    odd.raw = raw
    client = openai.OpenAI(base_url=f"{before_odd.url}/v1", api_key="x", max_retries=0)
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "Hi"}]) as stream:
        (got,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert (got.function.name, json.loads(got.function.arguments)) == ("look", {"x": 1})
    turn = newest(before_odd)
    (kept,) = turn.answer.tool_calls
    assert (kept["id"], kept["function"]["arguments"]) == (got.id, got.function.arguments)
    assert (turn.kind, turn.finish) == ("main", "tool_calls")


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        (sse(part({"content": "one "}, "stop"), part({"content": "two"}, "stop")), "stop"),
        (sse(part({"content": "one "}), part({"content": "two"})), "stop"),
        (sse(part({"content": ["one "]}), part({"content": "two"}), part({}, "length")), "length"),
        ([b'data: {"choices": [{"delta": {"content": "one two"}}]}\n\ndata:\n\n', b"data: [DONE]"], "stop"),
    ],
)
def test_a_text_is_kept_whole_with_its_finish(before_odd: Any, odd: Any, raw: list[bytes], finish: str) -> None:
    odd.raw = raw
    lines = [line[6:] for line in ask(before_odd, stream=True).text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    ends = [json.loads(line)["choices"][0]["finish_reason"] for line in lines[:-1]]
    assert ends == [None] * (len(ends) - 1) + [finish]
    turn = newest(before_odd)
    assert (turn.answer.content, turn.finish, turn.kind) == ("one two", finish, "main")


@pytest.mark.parametrize("raw", [b'{"error": "out of memory"}', b'{"error": {"message": "out of memory"}}', b"<html>"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_error_with_status_200(before_odd: Any, odd: Any, raw: bytes, stream: bool) -> None:
    odd.raw = [raw]
    reply = ask(before_odd, stream=stream)
    assert "error" in reply.text
    assert "[DONE]" not in reply.text
    assert stream or reply.status_code == 502


def test_when_to_come_again_is_the_engines_word(before_odd: Any, odd: Any) -> None:
    odd.raw, odd.headers = [], {"Retry-After": "17"}
    try:
        for status in (429, 503):
            odd.status = status
            reply = ask(before_odd)
            assert (reply.status_code, reply.headers["retry-after"]) == (status, "17")
    finally:
        odd.status, odd.headers = 200, {}


def test_a_locked_store_ends_a_stream_with_an_error(start_server: Any, odd: Any, tmp_path: Path) -> None:
    odd.raw = sse(part({"content": "locked"}), part({}, "stop"))
    impatient = "from talktune.store import store\nstore.BUSY_MS = 100"
    with start_server(tmp_path / "s.db", "--upstream", odd.url, before=impatient) as server:
        other = sqlite3.connect(server.store, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            reply = ask(server, stream=True)
        finally:
            other.execute("ROLLBACK")
            other.close()
        last = [line for line in reply.text.splitlines() if line][-1]
        assert "locked" in reply.text
        assert json.loads(last[6:])["error"]["message"] == "The answer could not be stored; the server's log says why."
        odd.raw = sse(part({"content": "free"}), part({}, "stop"))
        assert "[DONE]" in ask(server, stream=True).text


def test_nothing_leaves_a_stream_without_its_end(before_odd: Any, odd: Any) -> None:
    half = {"index": 0, "function": {"name": "f", "arguments": "\ud800"}}
    strange = {"choices": [{"delta": {"content": "b"}, "logprobs": ["x"], "token_ids": 3}], "model": {}}
    for body in (part({"content": "a", "tool_calls": [half]}), strange):
        odd.raw = sse(body, part({}, "stop"))
        assert ask(before_odd, stream=True).text.endswith("data: [DONE]\n\n")


def told(logprob: str) -> list[bytes]:
    return [
        b'data: {"choices": [{"index": 0, "delta": {"content": ""}}], "prompt_token_ids": [1, 2]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "token_ids": [5], "logprobs": {"content": '
        b'[{"token": "a", "logprob": -0.5, "top_logprobs": []}]}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "b"}, "token_ids": [6], "finish_reason": "stop", '
        b'"logprobs": {"content": [{"token": "b", "logprob": ' + logprob.encode() + b', "top_logprobs": '
        b'[{"token": "b", "logprob": ' + logprob.encode() + b"}]}]}}]}\n\n",
        b"data: [DONE]\n\n",
    ]


@pytest.mark.parametrize("logprob", ["NaN", "-Infinity", "null", "-1e999", "-9999.0", "3.5"])
def test_a_log_prob_that_is_none_means_that_the_turn_has_none(before_vllm: Any, vllm: Any, logprob: str) -> None:
    vllm.raw = told(logprob)
    reply = ask(before_vllm, stream=True, temperature=1, logprobs=True, top_logprobs=1)
    assert "NaN" not in reply.text
    assert "Infinity" not in reply.text
    lines = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    entries = [e for line in lines for c in line["choices"] for e in (c.get("logprobs") or {}).get("content", ())]
    assert all(isinstance(one["logprob"], float) for entry in entries for one in (entry, *entry["top_logprobs"]))
    sampled = newest(before_vllm).sampled
    assert (sampled.answer_ids, sampled.logprobs) == ((5, 6), None)


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"temperature": 1}, True),
        ({"temperature": 1, "top_p": 1, "top_k": -1, "tool_choice": "auto"}, True),
        ({"temperature": 0.5}, False),
        ({"temperature": 1, "top_p": 0.9}, False),
        ({"temperature": 1, "top_k": 20}, False),
        ({"temperature": 1, "min_p": 0.1}, False),
        ({"temperature": 1, "presence_penalty": 1}, False),
        ({"temperature": 1, "logit_bias": {"5": 3}}, False),
        ({"temperature": 1, "response_format": {"type": "json_object"}}, False),
    ],
)
def test_log_probs_are_kept_where_they_are_those_that_sampled(
    before_vllm: Any, vllm: Any, more: dict[str, Any], kept: bool
) -> None:
    vllm.raw = told("-0.25")
    ask(before_vllm, stream=True, **more)
    sampled = newest(before_vllm).sampled
    assert sampled.answer_ids == (5, 6)
    assert sampled.logprobs == ((-0.5, -0.25) if kept else None)
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {key: vllm.asked[-1][key] for key in neutral} == neutral | {k: v for k, v in more.items() if k in neutral}


def test_a_cold_engine_keeps_nobody_waiting_and_is_asked_how_it_computes_log_probs_until_it_answers(
    vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "processed", True)
    monkeypatch.setattr(vllm, "cold_seconds", 1.0)
    monkeypatch.setattr(upstream, "PROBE_SECONDS", 0.1)

    async def scaled() -> tuple[bool, bool]:
        engine = upstream.Upstream(vllm.url)
        try:
            assert await engine.kind() == "vllm"
            early = engine.scaled
            while not engine.scaled:
                await asyncio.sleep(0.05)
            engine._kind = None  # as one who came at the same time finds it, and ends after the answer
            assert await engine.kind() == "vllm"
            return early, engine.scaled
        finally:
            await engine.close()

    assert asyncio.run(asyncio.wait_for(scaled(), 30)) == (False, True)


def test_vllms_processed_log_probs_are_kept_at_every_temperature(start_server: Any, vllm: Any, tmp_path: Path) -> None:
    vllm.processed, vllm.raw = True, told("-0.25")
    with start_server(tmp_path / "s.db", "--upstream", vllm.url) as server:
        ask(server, stream=True)
        assert newest(server).sampled.logprobs == (-0.5, -0.25)
        assert newest(server).sampled.temperature == pytest.approx(0.8)
        ask(server, stream=True, top_p=0.5)
        assert newest(server).sampled.logprobs is None
