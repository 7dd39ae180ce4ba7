"""Text, reasoning, tool calls and stop strings, wherever the text happens to be cut into tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from talktune.host.answer_parser import AnswerParser, TextStream, parse_calls

CALL = '{"name": "get_weather", "arguments": {"city": "Zürich"}}'
LLAMA = '{"name": "get_weather", "parameters": {"city": "Zürich"}}'
ARGUMENTS = '{"city": "Zürich"}'

CASES: list[tuple[dict[str, Any], str, tuple[str, str, list[str]]]] = [
    ({}, " Hi there. \n", (" Hi there. \n", "", [])),
    ({}, "", ("", "", [])),
    ({}, "a < b <think", ("a < b <think", "", [])),
    ({}, "<think>\nhm\n</think>\n\nYes.\n", ("Yes.", "hm", [])),
    ({}, "<think>\n\n</think>\n\nYes.", ("Yes.", "", [])),
    ({}, "<think>\nno end", ("", "no end", [])),
    ({}, "I <think> so", ("I <think> so", "", [])),
    ({"thinking": True}, "hm\n</think>\nYes.", ("Yes.", "hm", [])),
    ({}, f"<tool_call>{CALL}</tool_call>", (f"<tool_call>{CALL}</tool_call>", "", [])),
    ({"tools": ["get_weather"]}, "plain", ("plain", "", [])),
    ({"tools": ["get_weather"]}, f"<tool_call>\n{CALL}\n</tool_call>", ("", "", [ARGUMENTS])),
    ({"tools": ["get_weather"]}, f"Wait.\n<tool_call>\n{CALL}\n</tool_call>\n", ("Wait.", "", [ARGUMENTS])),
    (
        {"tools": ["get_weather"]},
        f"<think>x</think>\n\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>",
        ("", "x", [ARGUMENTS, ARGUMENTS]),
    ),
    ({"tools": ["get_weather"]}, f"<tool_call>[{CALL}, {CALL}]</tool_call>", ("", "", [ARGUMENTS, ARGUMENTS])),
    ({"tools": ["get_weather"]}, f"<tool_call>\n{CALL}", ("", "", [ARGUMENTS])),
    ({"tools": ["get_weather"]}, "<tool_call>\nnonsense", ("<tool_call>\nnonsense", "", [])),
    (
        {"tools": ["get_weather"]},
        "So <tool_call>nonsense</tool_call> it is",
        ("So <tool_call>nonsense</tool_call> it is", "", []),
    ),
    ({"tools": ["get_weather"]}, LLAMA, ("", "", [ARGUMENTS])),
    ({"tools": ["get_weather"]}, f"{LLAMA}; {LLAMA}", ("", "", [ARGUMENTS, ARGUMENTS])),
    ({"tools": ["other"]}, LLAMA, (LLAMA, "", [])),
    ({"tools": ["get_weather"]}, '{"a": 1}', ('{"a": 1}', "", [])),
    ({"tools": ["get_weather"], "forced": "get_weather"}, '"city": "Zürich"}</tool_call> and', ("", "", [ARGUMENTS])),
    ({"tools": ["get_weather"], "forced": "get_weather"}, '"city": "Zü', ("", "", ['{"city": "Zü'])),
    ({"stops": ["END", "E"]}, "to the END of it", ("to the ", "", [])),
    ({"stops": ["\n\n"]}, "one\ntwo\n\nthree", ("one\ntwo", "", [])),
    ({"stops": ["zzz"]}, "a zz", ("a zz", "", [])),
]


def parse(options: dict[str, Any], pieces: list[str]) -> tuple[str, str, list[str]]:
    parser = AnswerParser(**options)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    deltas += parser.close()
    calls = [delta for delta in deltas if delta.kind == "call"]
    assert len({call.id for call in calls}) == len(calls) == parser.calls
    text = {kind: "".join(d.text for d in deltas if d.kind == kind) for kind in ("content", "reasoning")}
    return text["content"], text["reasoning"], [call.text for call in calls]


@pytest.mark.parametrize(("options", "text", "expected"), CASES)
def test_cases_whole_and_letter_by_letter(
    options: dict[str, Any], text: str, expected: tuple[str, str, list[str]]
) -> None:
    assert parse(options, [text]) == expected
    assert parse(options, list(text)) == expected


@given(st.sampled_from(CASES), st.data())
def test_how_the_text_is_cut_changes_nothing(case: Any, data: st.DataObject) -> None:
    options, text, expected = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(options, pieces) == expected


@given(st.text(alphabet='<>/think_ol{"ca}é\n ;', max_size=40), st.booleans())
def test_without_markers_nothing_is_lost(text: str, tools: bool) -> None:
    content, reasoning, calls = parse({"tools": ["f"] if tools else []}, list(text))
    if "<think>" not in text and "<tool_call>" not in text:
        assert (content, reasoning, calls) == (text, "", [])


def test_text_streams_before_the_answer_is_over_and_stops_are_named() -> None:
    parser = AnswerParser(tools=["f"], stops=["END"])
    assert [delta.text for delta in parser.feed("One two. Three")] == ["One two. Three"]
    parser.feed(" ENDless")
    assert parser.stopped == "END"
    assert parser.feed("more") == []


def test_a_forced_call_is_complete_with_its_last_brace() -> None:
    parser = AnswerParser(tools=["f"], forced="f")
    assert parser.feed('"a": {"b": "}"}') == []
    assert not parser.complete
    [delta] = parser.feed("} and more")
    assert parser.complete
    assert (delta.name, json.loads(delta.text)) == ("f", {"a": {"b": "}"}})


def test_calls_with_arguments_as_text_keep_them_and_other_json_is_no_call() -> None:
    assert parse_calls('{"name": "f", "arguments": "{}"}') == [("f", "{}")]
    assert parse_calls('{"name": "f"}') == [("f", "{}")]
    for other in ("", "1", "[" * 100_000, "[]", '{"name": 1}', '[{"name": "f"}, 2]', "nope"):
        assert parse_calls(other) == []


@given(text=st.text(max_size=30))
def test_ids_become_the_text_that_was_encoded(tiny_tokenizer: Any, text: str) -> None:
    stream = TextStream(tiny_tokenizer)
    said = "".join(stream.feed(token) for token in tiny_tokenizer.encode(text, add_special_tokens=False))
    assert said + stream.close() == text


def test_half_a_character_comes_at_the_end(tiny_tokenizer: Any) -> None:
    stream = TextStream(tiny_tokenizer)
    ids = tiny_tokenizer.encode("aé", add_special_tokens=False)
    assert [stream.feed(token) for token in ids[:-1]] == ["a", ""]
    assert stream.close() == "�"


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)
