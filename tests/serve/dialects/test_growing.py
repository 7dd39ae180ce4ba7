"""Any split of a stream into chunks tells the same, in each dialect, and the same as the whole reply."""

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from talktune.serve.dialects import anthropic
from talktune.serve.dialects.growing import Growing
from talktune.serve.dialects.responses.events import ResponsesForm
from talktune.serve.dialects.responses.to_chat import chat_of

from ..conftest import chunk

TEXT = st.text(st.sampled_from("ab \n{}é"), max_size=12)
CALLS = st.lists(st.dictionaries(st.sampled_from("xy"), TEXT, max_size=2), max_size=3)
OPEN = {"messages": [{"role": "user", "content": "Hi"}], "model": "m"}


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """A message, a stream that says it, and how it ends."""
    message: dict[str, Any] = {"role": "assistant", "content": draw(TEXT), "reasoning_content": draw(TEXT)}
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": f"f{i}", "arguments": json.dumps(arguments)}}
        for i, arguments in enumerate(draw(CALLS))
    ]
    message |= {"tool_calls": calls} if calls else {}
    finish = "tool_calls" if calls else draw(st.sampled_from(["stop", "length"]))
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning_content", "content"):
        deltas += [{name: piece} for piece in draw(pieces(message[name]))]
    for index, call in enumerate(calls):
        function = call["function"]
        first, *rest = ["", *draw(pieces(function["arguments"]))]
        deltas.append({"tool_calls": [call | {"index": index, "function": function | {"arguments": first}}]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in rest]
    return message, [chunk(delta) for delta in deltas] + [chunk({}, finish)], finish


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)) | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(cuts)]


def joined(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events with neighbours that only add text made one, and without their numbers."""
    found: list[dict[str, Any]] = []
    for event in events:
        event = {k: v for k, v in event.items() if k != "sequence_number"}
        added = event.get("delta")
        if found and found[-1]["type"] == event["type"] and isinstance(added, str):
            found[-1]["delta"] += added
        elif event["type"] == "content_block_delta" and found and found[-1]["type"] == event["type"]:
            (kind, key), (_, before) = [next(iter(list(e["delta"].items())[1:])) for e in (event, found[-1])]
            if found[-1]["delta"]["type"] == event["delta"]["type"]:
                found[-1] = event | {"delta": event["delta"] | {kind: before + key}}
            else:
                found.append(event)
        else:
            found.append(event)
    return found


def whole(message: dict[str, Any], finish: str) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


@given(streams())
def test_responses(drawn: tuple[dict[str, Any], list[dict[str, Any]], str]) -> None:
    message, chunks, finish = drawn
    form, other = ResponsesForm(OPEN, OPEN), ResponsesForm(OPEN, OPEN)
    other.id = form.id
    other._head = form._head
    events = [event for one in chunks for event in form.add(one)] + form.close()
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    at_once = other.add(whole(message, finish)) + other.close()
    for last in (events[-1], at_once[-1]):
        last["response"]["completed_at"] = None
    assert joined(events) == joined(at_once)
    # The items that came one by one are those of the end, and say what the engine said.
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert sorted(done, key=lambda i: i["id"]) == sorted(events[-1]["response"]["output"], key=lambda i: i["id"])
    back = chat_of({"input": done}, {})["messages"]
    assert [m["role"] for m in back] == ["assistant"]
    assert (back[0]["content"] or "").strip() == message["content"].strip()
    assert back[0].get("tool_calls", []) == message.get("tool_calls", [])


@given(streams())
def test_anthropic(drawn: tuple[dict[str, Any], list[dict[str, Any]], str]) -> None:
    message, chunks, finish = drawn
    form, other, third = (anthropic.AnthropicForm(OPEN) for _ in range(3))
    other.id = third.id = form.id
    events = [event for one in chunks for event in form.add(one)] + form.close()
    assert joined(events) == joined(other.add(whole(message, finish)) + other.close())
    # Blocks one after the other, each closed before the next; together they are the whole reply.
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"] | {"json": ""})
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            _, (name, more) = event["delta"].items()
            name = {"partial_json": "json"}.get(name, name)
            blocks[-1][name] += more
    said = [block.pop("json") for block in blocks]
    for block, text in zip(blocks, said, strict=True):
        if block["type"] == "tool_use":
            block["input"] = json.loads(text)
    assert blocks == third.whole(whole(message, finish))["content"]


def test_calls_that_grow_at_once_and_words_after_them() -> None:
    def call(index: int, **function: str) -> dict[str, Any]:
        return {"index": index, "function": function} | ({"id": f"c{index}"} if "name" in function else {})

    chunks = [
        chunk({"content": "a"}),
        chunk({"tool_calls": [call(0, name="f", arguments="{"), call(1, name="g", arguments="[")]}),
        chunk({"tool_calls": [call(1, arguments="]"), call(0, arguments="}")]}),
        chunk({"content": "\n"}),
        chunk({"content": "b"}),
        chunk({}, "tool_calls"),
    ]
    form = anthropic.AnthropicForm(OPEN)
    events = [event for one in chunks for event in form.add(one)] + form.close()
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["text", "tool_use", "tool_use", "text"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert [list(delta.values())[1] for delta in deltas] == ["a", "{", "}", "[]", "\nb"]
    answer = ResponsesForm(OPEN, OPEN)
    for one in chunks:
        answer.add(one)
    output = answer.close()[-1]["response"]["output"]
    assert [item.get("arguments") or item["content"][0]["text"] for item in output] == ["a\nb", "{}", "[]"]


def test_a_named_tool_ends_with_a_call() -> None:
    growing = Growing()
    function = {"name": "f", "arguments": "{}"}
    growing.add(chunk({"tool_calls": [{"index": 0, "id": "c", "function": function}]}, "stop"))
    assert growing.finish == "tool_calls"
