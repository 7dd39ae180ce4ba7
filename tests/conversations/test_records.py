import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.conversations.messages import BadConversation
from talktune.conversations.records import conversation_from_dict, conversation_to_dict
from talktune.types import Conversation, Message, Sampled, Verdict, Vote

HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]

text = st.text(st.characters(codec="utf-8"), max_size=12)
number = st.floats(allow_nan=False, allow_infinity=False)
ids = st.lists(st.integers(0, 200_000), max_size=4).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)
votes = st.builds(
    Vote,
    st.sampled_from([-1, 0, 1, None]),
    st.none() | st.floats(0, 1, exclude_min=True),
    text,
    text,
)
verdicts = st.builds(Verdict, st.lists(votes, max_size=3).map(tuple), st.none() | number)


@st.composite
def sampled(draw: st.DrawFn) -> Sampled:
    answer = draw(ids)
    logprobs = st.lists(number, min_size=len(answer), max_size=len(answer)).map(tuple)
    return Sampled(
        draw(ids),
        answer,
        draw(st.none() | logprobs),
        draw(st.floats(0, 2)),
        draw(st.none() | st.integers(0, 9)),
    )


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message("user", draw(text))]
    for number_ in range(draw(st.integers(1, 3))):
        call = {"id": f"c{number_}", "type": "function", "function": {"name": "f", "arguments": draw(text)}}
        if draw(st.booleans()):
            messages += [
                Message("assistant", draw(text), tool_calls=(call,)),
                Message("tool", draw(text), (), f"c{number_}"),
            ]
        else:
            messages += [Message("assistant", draw(text), reasoning_content=draw(st.none() | text))]
            messages += [Message("user", draw(text), has_image=draw(st.booleans()))]
    answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
    some = st.sampled_from(answers)
    return Conversation(
        id=draw(st.text("abc/#7", min_size=1, max_size=6)),
        messages=tuple(messages),
        tools=tuple(draw(st.lists(st.dictionaries(text, json_values, max_size=2), max_size=2))),
        metadata=draw(st.dictionaries(text, json_values, max_size=2)),
        kinds=draw(st.dictionaries(some, st.just("side"), max_size=2)),
        sampled=draw(st.dictionaries(some, sampled(), max_size=2)),
        verdicts=draw(st.dictionaries(some, verdicts, max_size=2)),
        finishes=draw(st.dictionaries(some, st.sampled_from(["stop", "length", "content_filter"]), max_size=2)),
        wanted=draw(st.dictionaries(some, text, max_size=2)),
    )


@given(conversations())
def test_a_conversation_comes_back_from_its_line_as_it_was(conversation: Conversation) -> None:
    line = json.dumps(conversation_to_dict(conversation), allow_nan=False)
    assert conversation_from_dict(json.loads(line)) == conversation


def test_unknown_fields_are_kept_in_the_metadata() -> None:
    read = conversation_from_dict({"messages": HELLO, "source": "forum", "metadata": {"lang": "en"}})
    assert read.metadata == {"source": "forum", "lang": "en"}


def test_without_an_id_equal_messages_have_equal_names() -> None:
    first, second = (
        conversation_from_dict({"messages": HELLO}),
        conversation_from_dict({"messages": HELLO, "x": 1}),
    )
    other = conversation_from_dict({"messages": [*HELLO, {"role": "user", "content": "?"}]})
    assert first.id == second.id != other.id
    assert conversation_from_dict({"messages": HELLO, "id": 7}).id == "7"


def test_side_turns_are_marked_by_index() -> None:
    messages = [*HELLO, *HELLO]
    assert conversation_from_dict({"messages": messages, "side_turns": [3]}).kinds == {3: "side"}


def test_sharegpt_roles_system_and_tool_calls() -> None:
    raw = {
        "system": "Be short.",
        "conversations": [
            {"from": "human", "value": "Weather in Lyon?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Lyon"}}'},
            {"from": "observation", "value": "rain"},
            {"from": "gpt", "value": "Rain."},
        ],
    }
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Lyon"}'}}
    assert conversation_from_dict(raw).messages == (
        Message("system", "Be short."),
        Message("user", "Weather in Lyon?"),
        Message("assistant", tool_calls=(call,)),
        Message("tool", "rain"),
        Message("assistant", "Rain."),
    )


@pytest.mark.parametrize(("label", "reward"), [(True, 1.0), (False, -1.0)])
def test_a_kto_line_is_an_answer_with_its_reward(label: bool, reward: float) -> None:
    read = conversation_from_dict({"prompt": HELLO[:1], "completion": HELLO[1:], "label": label})
    assert read.messages == (Message("user", "Hi"), Message("assistant", "Hello."))
    assert read.verdicts == {1: Verdict((), reward)}


def test_prompt_and_completion_may_be_plain_text() -> None:
    read = conversation_from_dict({"prompt": "Hi", "completion": "Hello."})
    assert read.messages == (Message("user", "Hi"), Message("assistant", "Hello."))
    assert read.verdicts == {}


def turn(**fields: Any) -> dict[str, Any]:
    return {"messages": HELLO, "turns": [{"index": 1, **fields}]}


IDS = {"prompt_ids": [1], "answer_ids": [2, 3], "temperature": 1.0}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([], "not a JSON object"),
        ({"text": "x"}, 'none of "messages"'),
        ({"messages": HELLO, "id": 1.5}, '"id"'),
        ({"messages": HELLO, "tools": "{"}, '"tools" is text, but not JSON'),
        ({"messages": HELLO, "tools": 5}, '"tools" is not a list'),
        ({"messages": HELLO, "tools": ["f"]}, '"tools" holds'),
        ({"messages": HELLO, "metadata": [1]}, '"metadata"'),
        ({"messages": HELLO, "side_turns": [0]}, "index 0 (counted from 0) is not an assistant"),
        ({"messages": HELLO, "side_turns": ["1"]}, "'1' is not a whole number"),
        ({"messages": HELLO, "side_turns": 1}, '"side_turns" is not a list'),
        ({"messages": HELLO, "turns": [{"index": 9}]}, "index 9"),
        ({"messages": HELLO, "turns": ["x"]}, '"turns" holds'),
        (turn(kind="other"), "'other'"),
        (turn(votes=[{"label": 2}]), "the vote 2"),
        (turn(votes=[{"label": True}]), "the vote True"),
        (turn(votes=["good"]), "a vote is not an object"),
        (turn(votes=[{"label": 1, "confidence": 1.5}]), "1.5 is not in (0, 1]"),
        (turn(votes=[{"label": 1, "judge": 3}]), "judge and reason"),
        (turn(votes=[], reward="1"), "reward is not a finite number"),
        (turn(sampled=[]), '"sampled" is not an object'),
        (turn(sampled={**IDS, "answer_ids": None}), '"answer_ids" is not a list'),
        (turn(sampled={**IDS, "answer_ids": [-1]}), "not a token id"),
        (turn(sampled={**IDS, "logprobs": [-0.1]}), "1 logprobs for 2 answer_ids"),
        (turn(sampled={**IDS, "logprobs": [-0.1, None]}), "not a finite number"),
        (turn(sampled={**IDS, "temperature": -1}), "negative"),
        (turn(sampled={**IDS, "policy_version": "x"}), "policy_version"),
        ({"conversations": "x"}, '"conversations" is not a list'),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "'alien'"),
        ({"conversations": ["x"]}, "message 1"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "starts with the assistant"),
        ({"conversations": [{"from": "function_call", "value": "f("}]}, "not JSON"),
        ({"prompt": "x", "completion": []}, "no assistant message"),
        ({"prompt": "x", "completion": [HELLO[0], HELLO[1]]}, '"completion" does not start'),
        ({"prompt": "x", "completion": "y", "label": 1}, '"label"'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_said_in_one_line(raw: object, reason: str) -> None:
    with pytest.raises(BadConversation) as error:
        conversation_from_dict(raw)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
