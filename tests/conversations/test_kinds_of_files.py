"""Files as others write them: what can be used is, and what cannot costs its own line only."""

import json
from pathlib import Path
from typing import Any

import pytest

from talktune.conversations.files import json_line
from talktune.conversations.readers import read_conversations
from talktune.conversations.records import conversation_from_dict, conversation_to_dict
from talktune.conversations.turns import skip_reason, turns_of
from talktune.errors import UserError
from talktune.types import Conversation

CASES = Path(__file__).resolve().parents[1] / "data" / "files"
TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "thanks"}]


def only(path: Path) -> Conversation:
    (found,) = read_conversations([path], strict=True).conversations
    return found


def test_an_answer_of_weight_0_is_a_side_turn() -> None:
    bad, good = turns_of(only(CASES / "weight0.jsonl"))
    assert (bad.answer.content, skip_reason(bad)) == ("BAD do not train", "side")
    assert (good.answer.content, skip_reason(good)) == ("good", None)
    again = conversation_from_dict(conversation_to_dict(only(CASES / "weight0.jsonl")))
    assert again.kinds == {1: "side"}


@pytest.mark.parametrize("weight", [0.5, 2, True, "0"])
def test_a_weight_is_0_or_1(weight: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_line({"messages": [TALK[0], TALK[1] | {"weight": weight}, TALK[2]]}))
    with pytest.raises(UserError, match="is neither 0 nor 1"):
        read_conversations([path], strict=True)


def test_sharegpts_list_with_role_and_content() -> None:
    assert [(m.role, m.content) for m in only(CASES / "conv_role.jsonl").messages] == [
        ("user", "q"),
        ("assistant", "a"),
        ("user", "thanks"),
    ]


def test_hermes_calls_and_results_become_tool_calls() -> None:
    talk = only(CASES / "hermes_tool.jsonl")
    call, answer = turns_of(talk)
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in call.answer.tool_calls] == [("w", "{}")]
    assert call.answer.content == ""
    assert [m.content for m in call.next_state] == ['{"t":3}']
    assert [m.content for m in answer.next_state] == ["thanks"]
    assert conversation_from_dict(conversation_to_dict(talk)) == talk


def test_hermes_calls_as_python_writes_them_several_at_once(tmp_path: Path) -> None:
    python = "{'name': 'f', 'arguments': {'x': 'it is'}}"
    calls = f"Let me look.\n<tool_call>\n{python}\n</tool_call>\n<tool_call>\n{{'name': 'g'}}\n</tool_call>"
    results = "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"
    said = [("human", "q"), ("gpt", calls), ("tool", results), ("gpt", "done"), ("human", "no")]
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_line({"conversations": [{"from": who, "value": text} for who, text in said]}))
    first, _ = turns_of(only(path))
    assert first.answer.content == "Let me look."
    assert [c["function"]["name"] for c in first.answer.tool_calls] == ["f", "g"]
    assert json.loads(first.answer.tool_calls[0]["function"]["arguments"]) == {"x": "it is"}
    assert [m.content for m in first.next_state] == ["1", "2"]


@pytest.mark.parametrize("name", ["inf_meta.jsonl", "inf_tool.jsonl"])
def test_a_number_that_is_too_large_costs_its_own_line(name: str) -> None:
    result = read_conversations([CASES / name])
    assert len(result.conversations) == 1
    (problem,) = result.problems
    assert problem.line == 1
    assert "too large for a number" in problem.reason
    for conversation in result.conversations:
        json_line(conversation_to_dict(conversation))


def test_a_number_that_is_too_large_within_json_text(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_line({"messages": TALK, "tools": '[{"x": 1e999}]'}) + json_line({"messages": TALK}))
    result = read_conversations([path])
    assert ([p.line for p in result.problems], len(result.conversations)) == ([1], 1)


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (json.dumps([{"messages": TALK}, {"conversations": TALK[:2]}]), 2),
        (json.dumps([TALK, TALK[:2]]), 2),
        (json.dumps(TALK), 1),
        (json.dumps(TALK, indent=1), 1),
        (json.dumps(TALK) + "\n" + json.dumps(TALK[:2]) + "\n", 2),
        (json.dumps([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]), 1),
    ],
)
def test_lists_of_conversations_and_of_messages(tmp_path: Path, content: str, count: int) -> None:
    path = tmp_path / "in.json"
    path.write_text(content)
    assert len(read_conversations([path], strict=True).conversations) == count


@pytest.mark.parametrize("name", ["talks.csv", "talks.TSV", "talks.arrow", "talks.xlsx", "talks.zip"])
def test_what_is_not_read_gets_a_sentence_that_says_what_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"prompt,answer\nq,a\n")
    with pytest.raises(UserError, match=r"which is not read: give JSON lines .* or Parquet\."):
        read_conversations([path])


def test_a_hugging_face_dataset_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"x")
    with pytest.raises(UserError, match="is a directory of a Hugging Face dataset; write it to a file"):
        read_conversations([tmp_path])


def test_parquet_by_its_first_bytes_and_with_empty_numbers(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "talks.data"
    table = pyarrow.table(
        {"messages": [TALK, TALK[:2]], "score": pyarrow.array([float("nan"), 1.0], from_pandas=False)}
    )
    parquet.write_table(table, str(path))
    first, second = read_conversations([path], strict=True).conversations
    assert (first.metadata["score"], second.metadata["score"]) == (None, 1.0)
    json_line(conversation_to_dict(first))
