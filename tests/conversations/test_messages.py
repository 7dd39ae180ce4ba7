import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.conversations.messages import (
    BadConversation,
    caller_of,
    message_from_dict,
    message_to_dict,
    messages_from_list,
)
from talktune.types import Message

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}


def test_developer_becomes_system() -> None:
    assert message_from_dict({"role": "developer", "content": "Be brief."}) == Message("system", "Be brief.")


def test_content_parts_are_joined_and_images_flagged() -> None:
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "text", "text": "this?"},
    ]
    assert message_from_dict({"role": "user", "content": parts}) == Message("user", "What is\nthis?", has_image=True)


@pytest.mark.parametrize("kind", ["image", "image_url", "input_image", "input_audio", "file"])
def test_media_parts_of_every_kind_are_flagged(kind: str) -> None:
    assert message_from_dict({"role": "user", "content": [{"type": kind}]}).has_image


def test_null_content_and_null_fields_are_absent() -> None:
    raw = {"role": "assistant", "content": None, "tool_calls": None, "function_call": None, "refusal": None}
    assert message_from_dict(raw) == Message("assistant")


def test_refusal_is_the_content_of_an_answer_without_one() -> None:
    assert message_from_dict({"role": "assistant", "content": None, "refusal": "No."}).content == "No."


def test_reasoning_is_kept_under_either_name() -> None:
    for key in ("reasoning_content", "reasoning"):
        message = message_from_dict({"role": "assistant", "content": "4", key: "2 + 2"})
        assert message.reasoning_content == "2 + 2"
        assert message_to_dict(message)["reasoning_content"] == "2 + 2"


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ('{"at":1}', '{"at":1}'),
        ('{"at": 1,  "b": 2}', '{"at": 1,  "b": 2}'),
        ("{broken", "{broken"),
        ({"at": "Köln"}, '{"at": "Köln"}'),
        (None, "{}"),
    ],
)
def test_tool_arguments_are_a_json_string_and_strings_stay_as_sent(arguments: object, kept: str) -> None:
    raw = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": arguments}}],
    }
    (call,) = message_from_dict(raw).tool_calls
    assert call == {"id": "a", "type": "function", "function": {"name": "f", "arguments": kept}}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("hello", "not an object"),
        ({"content": "x"}, "no role"),
        ({"role": "robot", "content": "x"}, "unknown role 'robot'"),
        ({"role": ["user"], "content": "x"}, "unknown role"),
        ({"role": "user", "content": 3}, "content is neither"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "'hologram'"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "'text'"),
        ({"role": "user", "content": [7]}, "content part"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "only the assistant"),
        ({"role": "assistant", "tool_calls": "f()"}, "not a list"),
        ({"role": "assistant", "tool_calls": ["f"]}, '"function"'),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "no function name"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}, "arguments"),
        ({"role": "assistant", "tool_calls": [{"id": 4, "function": {"name": "f"}}]}, "id of tool call"),
        ({"role": "assistant", "content": "x", "reasoning_content": 1}, "reasoning_content"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "retired function_call"),
        ({"role": "tool", "content": "x", "tool_call_id": 5}, "tool_call_id"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(raw: object, reason: str) -> None:
    with pytest.raises(BadConversation) as error:
        message_from_dict(raw, "message 3")
    assert reason in str(error.value)
    assert str(error.value).startswith("message 3")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("x", "not a list"),
        ([], "no messages"),
        (
            [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Hi"}],
            "starts with the assistant",
        ),
        ([{"role": "user", "content": "Hi"}], "no assistant message"),
        (
            [
                {"role": "user", "content": "Hi"},
                {"role": "tool", "content": "4", "tool_call_id": "c1"},
                {"role": "assistant", "content": "x"},
            ],
            "message 2 is a tool result (tool_call_id 'c1')",
        ),
        (
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "4", "tool_call_id": "other"},
            ],
            "message 3 is a tool result (tool_call_id 'other')",
        ),
    ],
)
def test_what_is_wrong_with_a_conversation_is_said(raw: object, reason: str) -> None:
    with pytest.raises(BadConversation) as error:
        messages_from_list(raw)
    assert reason in str(error.value)


def test_a_result_belongs_to_the_nearest_call_with_its_id() -> None:
    messages = (
        Message("user", "go"),
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "1", tool_call_id="c1"),
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "2", tool_call_id="c1"),
        Message("tool", "3"),
    )
    assert [caller_of(messages, i) for i in (2, 4, 5)] == [1, 3, 3]


text = st.text(st.characters(codec="utf-8"), max_size=20)
calls = st.builds(
    lambda name, arguments, call_id: {
        **({"id": call_id} if call_id else {}),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    st.text("abc_", min_size=1, max_size=5),
    text,
    st.none() | st.text("abc123", min_size=1, max_size=4),
)
messages = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user"]), text, name=st.none() | text, has_image=st.booleans()),
    st.builds(
        Message,
        st.just("assistant"),
        text,
        tool_calls=st.lists(calls, max_size=3).map(tuple),
        reasoning_content=st.none() | text,
    ),
    st.builds(Message, st.just("tool"), text, tool_call_id=st.none() | text),
)


@given(messages)
def test_a_message_comes_back_from_json_as_it_was(message: Message) -> None:
    assert message_from_dict(json.loads(json.dumps(message_to_dict(message)))) == message
