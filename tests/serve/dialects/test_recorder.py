from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from talktune.serve.dialects.recorder import Recorder
from talktune.types import Message


@given(st.text(), st.text(), st.lists(st.integers(0, 20)))
def test_however_the_text_is_cut_the_message_is_the_same(content: str, reasoning: str, cuts: list[int]) -> None:
    recorder = Recorder()
    for text, key in ((reasoning, "reasoning_content"), (content, "content")):
        at = sorted({min(c, len(text)) for c in cuts} | {0, len(text)})
        for a, b in pairwise(at):
            recorder.add({"delta": {key: text[a:b]}})
    recorder.add({"delta": {}, "finish_reason": "stop"})
    assert recorder.message() == Message("assistant", content, reasoning_content=reasoning or None)
    assert recorder.finish == "stop"


def test_tool_calls_in_pieces() -> None:
    recorder = Recorder()
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "look", "arguments": ""}}
    for calls in (
        [first],
        [{"index": 0, "function": {"arguments": '{"x"'}}],
        [{"index": 1, "id": "b", "function": {"name": "go", "arguments": "{}"}}],
        [{"index": 0, "function": {"arguments": ": 1}"}}],
    ):
        recorder.add({"delta": {"tool_calls": calls}})
    recorder.add({"delta": {}, "finish_reason": "tool_calls"})
    a, b = recorder.message().tool_calls
    assert a == {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    assert b == {"id": "b", "type": "function", "function": {"name": "go", "arguments": "{}"}}


def test_a_whole_reply() -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    recorder = Recorder()
    recorder.add({"message": {"content": None, "reasoning": "hm", "tool_calls": calls}, "finish_reason": "tool_calls"})
    assert recorder.message() == Message("assistant", "", tuple(calls), reasoning_content="hm")
