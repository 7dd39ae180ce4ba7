# ruff: noqa: E501 (a reply reads best in one line)
"""Engines' replies of every kind: what the client gets, and what is stored, is the answer that was meant."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.serve.dialects.recorder import Recorder
from talktune.serve.dialects.wire import BadRequest
from talktune.serve.engines.engine_error import EngineError
from talktune.serve.engines.normalise import read_stream, read_whole
from talktune.types import Message


def chunk(delta: Any, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": "x", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish} | more]}


def sse(*bodies: Any, done: bool = True) -> bytes:
    lines = [f"data: {body if isinstance(body, str) else json.dumps(body)}\n\n" for body in bodies]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def stream(data: bytes, cuts: Sequence[int] = (), error: Exception | None = None) -> list[dict[str, Any]]:
    async def chunks() -> AsyncIterator[bytes]:
        at = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
        for start, stop in pairwise(at):
            yield data[start:stop]
        if error is not None:
            raise error

    async def read() -> list[dict[str, Any]]:
        return [json.loads(json.dumps(body, allow_nan=False)) async for body in read_stream(chunks())]

    return asyncio.run(read())


def stored(bodies: list[dict[str, Any]]) -> tuple[Message, str | None]:
    recorder = Recorder()
    for body in bodies:
        for entry in body["choices"]:
            recorder.add(entry)
    return recorder.message(), recorder.finish


def client(bodies: list[dict[str, Any]]) -> tuple[str, list[tuple[str, str, str]]]:
    """As OpenAI's own client adds deltas up: whatever is text is appended."""
    text, calls = "", {}
    for body in bodies:
        for entry in body["choices"]:
            text += entry["delta"].get("content") or ""
            for call in entry["delta"].get("tool_calls") or ():
                whole = calls.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
                whole["id"] += call.get("id") or ""
                for key in ("name", "arguments"):
                    whole[key] += call["function"].get(key) or ""
    return text, [tuple(calls[i].values()) for i in sorted(calls)]


def checked(data: bytes) -> tuple[Message, str | None]:
    """What is stored, which is what the client has."""
    bodies = stream(data)
    message, finish = stored(bodies)
    text, calls = client(bodies)
    assert text == message.content
    assert calls == [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.tool_calls]
    assert [entry["finish_reason"] for body in bodies for entry in body["choices"]].count(finish) == 1
    assert all(isinstance(call["id"], str) and call["id"] for call in message.tool_calls)
    return message, finish


def calls_of(message: Message) -> list[tuple[str, Any]]:
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.tool_calls]


def piece(index: Any = ..., id: Any = ..., **function: Any) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "function", "function": function}
    return out | ({} if index is ... else {"index": index}) | ({} if id is ... else {"id": id})


def call_stream(*pieces: Any, finish: str = "tool_calls") -> bytes:
    return sse(*[chunk({"tool_calls": p if isinstance(p, list) else [p]}) for p in pieces], chunk({}, finish))


TWO = [("f", {"a": 1}), ("g", {"b": 2})]


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(0, "1", name="f", arguments='{"a"'), piece(0, arguments=": 1}"), piece(1, "2", name="g", arguments='{"b": 2}')],
        [piece(id="1", name="f", arguments='{"a"'), piece(arguments=": 1}"), piece(id="2", name="g", arguments='{"b": 2}')],
        [piece(None, "1", name="f", arguments='{"a"'), piece(None, None, arguments=": 1}"), piece(None, "2", name="g", arguments='{"b": 2}')],
        [piece(0, "1", name="f", arguments='{"a"'), piece(0, "1", name="f", arguments=": 1}"), piece(1, "2", name="g", arguments='{"b": 2}')],
        [piece(id="1", name="f", arguments='{"a"'), piece(id="1", name="f", arguments=": 1}"), piece(id="2", name="g", arguments=""), piece(id="2", name="g", arguments='{"b": 2}')],
        [piece(0, "1", name="f", arguments='{"a": 1}'), piece(0, "2", name="g", arguments='{"b": 2}')],
        [piece(name="f", arguments='{"a": 1}'), piece(name="g", arguments='{"b": 2}')],
        [[piece(name="f", arguments={"a": 1}), piece(name="g", arguments={"b": 2})]],
        [[piece(id="", name="f", arguments=""), piece(id="", name="g", arguments="")], [piece(arguments='{"a": 1}'), piece(arguments='{"b": 2}')]],
        [piece(0, "1", name="f"), piece(1, "2", name="g"), piece(1, arguments='{"b": 2}'), piece(0, arguments='{"a": 1}')],
        [{"id": "1", "name": "f", "arguments": {"a": 1}}, {"id": "2", "name": "g", "arguments": {"b": 2}}],
        [piece(7, "1", name="f", arguments=""), piece(7, arguments='{"a": 1}'), piece(9, "2", name="g", arguments='{"b": 2}')],
    ],
)  # fmt: skip
def test_tool_calls_in_pieces_of_every_kind(pieces: list[Any]) -> None:
    message, finish = checked(call_stream(*pieces))
    assert calls_of(message) == TWO
    assert finish == "tool_calls"


@pytest.mark.parametrize(
    "names",
    [["look_up", None, None], ["look_up", "look_up", "look_up"], ["look", "_up", None], ["look", "look_up", "look_up"]],
)
def test_a_name_is_not_appended_twice(names: list[str | None]) -> None:
    pieces = [piece(0, "1", name=name, arguments=text) for name, text in zip(names, ("", '{"a"', ": 1}"), strict=True)]
    message, _ = checked(call_stream(*pieces))
    assert calls_of(message) == [("look_up", {"a": 1})]


def test_a_call_to_the_same_tool_with_the_same_arguments_is_another_call() -> None:
    twice = [piece(0, id, name="f", arguments="{}") for id in "12"]
    assert calls_of(checked(call_stream(*twice))[0]) == [("f", {}), ("f", {})]


def test_the_retired_function_call() -> None:
    data = sse(
        chunk({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}),
        chunk({"function_call": {"arguments": '{"a": '}}),
        chunk({"function_call": {"arguments": "1}"}}),
        chunk({}, "function_call"),
    )
    message, finish = checked(data)
    assert calls_of(message) == TWO[:1]
    assert finish == "tool_calls"


@pytest.mark.parametrize(
    "data",
    [
        sse(chunk({"role": "assistant", "content": ""}, "stop"), chunk({"content": "a "}, "stop"), chunk({"content": "b"}, "stop")),
        sse(chunk({"role": "assistant"}), chunk({"content": "a "}), chunk({"content": "b"})),
        sse(chunk({"content": "a "}), chunk({"content": "b"}, ""), chunk({"content": None}, "null")),
        sse(chunk({"content": "a "}), chunk({"content": "b"}), chunk({}, "stop"), done=False),
        sse(chunk({"content": "a "}), chunk({"content": "b"}, "stop")),
        sse(chunk({"content": "a "}), chunk({"content": "b"}, "eos"), chunk({}, "stop")),
        sse(chunk({"content": "a "}) | {"error": None}, "", chunk({"content": "b"}) | {"error": ""}, "", chunk({}, "STOP")),
        sse(chunk({"content": [{"type": "text", "text": "a "}]}), chunk({"content": [{"type": "text", "text": "b"}]}), chunk({}, "stop")),
        sse(chunk({"content": ["a ", {"type": "output_text", "text": "b"}]}), chunk({}, {"type": "stop"})),
        sse({"id": "x", "choices": []}, chunk({"content": "a b"}), chunk({}, "stop"), {"choices": [], "usage": {"total_tokens": 3}}),
        sse({"choices": [{"delta": {"content": "a "}}]}, {"choices": [{"message": {"content": "b"}, "finish_reason": "stop"}]}),
        sse({"choices": [{"text": "a "}]}, {"choices": [{"text": "b", "finish_reason": "stop"}]}),
        sse({"choices": [{"delta": "a "}]}, {"choices": [{"delta": {"content": {"text": "b"}}, "finish_reason": "stop"}]}),
        b": ping\n\ndata:\n\n" + sse(chunk({"content": "a b"}), chunk({}, "stop")).replace(b"\n", b"\r\n"),
        sse(chunk({"content": "a b"}), chunk({}, "stop")).replace(b"\n\n", b"\n"),
        sse(chunk({"content": "a b"}), chunk({}, "stop")).rstrip(),
        sse(chunk({"content": "a b"}), chunk({}, "stop"), done=False).rstrip(),
        json.dumps({"choices": [{"message": {"content": "a b"}, "finish_reason": "stop"}]}, indent=1).encode(),
    ],
)  # fmt: skip
def test_a_text_of_every_kind(data: bytes) -> None:
    assert checked(data) == (Message("assistant", "a b"), "stop")


def test_usage_stands_behind_the_finish() -> None:
    usage = {"choices": [], "usage": {"total_tokens": 3}}
    bodies = stream(sse(chunk({"content": "a"}), chunk({}, "stop", stop_reason=7), usage))
    assert [bool(body["choices"]) for body in bodies] == [True, True, False]
    assert bodies[1]["choices"][0]["stop_reason"] == 7


def test_several_choices_end_each_for_itself() -> None:
    def part(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}

    bodies = stream(sse(part(0, "a"), part(1, "x"), part(0, "b", "stop"), part(1, "y"), part(1, "z", "length")))
    said = {0: "", 1: ""}
    for body in bodies:
        (entry,) = body["choices"]
        said[entry["index"]] += entry["delta"].get("content") or ""
    assert said == {0: "ab", 1: "xyz"}
    assert [(b["choices"][0]["index"], b["choices"][0]["finish_reason"]) for b in bodies[-2:]] == [
        (0, "stop"),
        (1, "length"),
    ]


def test_thinking_parts_are_reasoning() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]
    assert stored(stream(sse(chunk({"content": parts}), chunk({}, "stop"))))[0].reasoning_content == "hm"


@pytest.mark.parametrize(
    ("failing", "says"),
    [
        ({"error": {"message": "out of memory"}}, "out of memory"),
        ({"error": "out of memory"}, "out of memory"),
        ({"object": "error", "message": "out of memory", "code": 50000}, "out of memory"),
        ({"detail": "out of memory"}, "out of memory"),
        ({"choices": [{"index": 0, "delta": {}, "error": {"message": "out of memory"}}]}, "out of memory"),
        ("Error: out of memory", "out of memory"),
        (chunk({}, "abort"), "gave its answer up"),
        ("[1]", "no answer"),
        ({"choices": [3]}, "no list of objects"),
    ],
)
def test_an_error_of_any_kind_is_one(failing: Any, says: str) -> None:
    for begun in ([], [chunk({"content": "a"}, "stop")]):
        with pytest.raises((EngineError, BadRequest), match=says):
            stream(sse(*begun, failing))
    if isinstance(failing, dict) and "choices" not in failing:
        for data in (json.dumps(failing).encode(),):
            with pytest.raises((EngineError, BadRequest), match=says):
                read_whole(data)
            with pytest.raises((EngineError, BadRequest), match=says):
                stream(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        sse(),
        sse(chunk({"role": "assistant"})),
        sse(chunk({"content": "a"}), done=False),
        sse(chunk({"content": "a"}), done=False) + b'data: {"choices": [{"del',
    ],
)
def test_half_an_answer_is_none(data: bytes) -> None:
    with pytest.raises(EngineError):
        stream(data)


def test_a_connection_that_breaks_behind_the_finish_has_told_all() -> None:
    gone = EngineError("gone", broken_off=True)
    whole = sse(chunk({"content": "a"}), chunk({}, "stop"), done=False)
    assert stored(stream(whole, error=gone)) == (Message("assistant", "a"), "stop")
    with pytest.raises(EngineError):  # a finish on each chunk says nothing
        stream(sse(chunk({"content": "a"}, "stop"), chunk({"content": "b"}, "stop"), done=False), error=gone)
    with pytest.raises(EngineError):
        stream(whole, error=EngineError("out of memory"))


def test_numbers_that_json_does_not_have() -> None:
    data = (
        b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"logprob": NaN}]}}]}\n\n'
    )
    bodies = stream(data + sse(chunk({}, "stop", score=1)).replace(b'"score": 1', b'"score": -1e999'))
    assert bodies[0]["choices"][0]["logprobs"] == {"content": [{"logprob": None}]}
    assert bodies[1]["choices"][0]["score"] is None


def test_whole_replies() -> None:
    def read(message: Any, finish: Any = "stop") -> tuple[Message, str | None]:
        body = read_whole(json.dumps({"choices": [{"message": message, "finish_reason": finish}]}).encode())
        return stored([body])

    assert read({"content": [{"type": "text", "text": "a"}]}, None) == (Message("assistant", "a"), "stop")
    assert read({"content": "a"}, "max_tokens") == (Message("assistant", "a"), "length")
    for calls in (
        [piece(name="f", arguments={"a": 1}), piece(name="g", arguments='{"b": 2}')],
        [piece(0, "1", name="f", arguments={"a": 1}), piece(0, "1", name="g", arguments={"b": 2})],
    ):
        message, finish = read({"content": None, "tool_calls": calls}, None)
        assert (calls_of(message), finish) == (TWO, "tool_calls")
    message, finish = read({"content": None, "function_call": {"name": "f", "arguments": {"a": 1}}}, "function_call")
    assert (calls_of(message), finish) == (TWO[:1], "tool_calls")
    assert calls_of(read({"content": "", "tool_calls": [piece(name="f", arguments=None)]})[0]) == [("f", {})]


@pytest.mark.parametrize("code", [400, 429])
def test_an_engine_that_refuses_with_status_200(code: int) -> None:
    with pytest.raises(BadRequest) as caught:
        read_whole(json.dumps({"error": {"message": "too long", "code": code}}).encode())
    assert (caught.value.status, str(caught.value)) == (code, "too long")


DELTAS = st.lists(
    st.one_of(
        st.builds(lambda t: {"content": t}, st.text(max_size=6)),
        st.builds(lambda t: {"reasoning_content": t}, st.text(max_size=6)),
        st.builds(lambda t: {"content": [{"type": "text", "text": t}]}, st.text(max_size=6)),
        st.builds(
            lambda i, n, a: {"tool_calls": [piece(None, i, name=n, arguments=a)]},
            st.sampled_from(["1", "2", "3"]),
            st.sampled_from("fg"),
            st.text(max_size=4),
        ),
    ),
    min_size=1,
    max_size=8,
)


@given(DELTAS, st.lists(st.integers(0, 2000), max_size=40), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_however_the_bytes_are_cut_the_turn_is_the_same(
    deltas: list[Any], cuts: list[int], each: bool, end: str
) -> None:
    bodies = [
        chunk({"content": "x"}),
        *[chunk(delta, "stop" if each else None) for delta in deltas],
        chunk({}, "length"),
    ]
    data = sse(*bodies).replace(b"\n", end.encode())
    whole = stored(stream(data))
    assert stored(stream(data, cuts)) == whole
    assert whole[1] == "length"
    raw = sse(*[json.dumps(body, ensure_ascii=False) for body in bodies]) if b"\\ud" not in data else data
    assert stored(stream(raw, cuts))[0].content == whole[0].content
