import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from talktune.config import ExportFormat
from talktune.conversations.export import export
from talktune.conversations.readers import read_conversations
from talktune.conversations.turns import turns_of
from talktune.errors import UserError
from talktune.types import Conversation, Message, Sampled, Turn, Verdict, Vote

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"enum": [1, "x", None]}}}
TALK = Conversation(
    "talk",
    (
        Message("user", "1 + 1?"),
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "2", tool_call_id="c1"),
        Message("assistant", "Two.", reasoning_content="The tool says 2."),
        Message("user", "Right."),
        Message("assistant", "Anything else?"),
        Message("user", "You tell me."),
        Message("assistant", "Bye."),
    ),
    tools=(TOOL,),
    kinds={5: "side"},
    sampled={3: Sampled((1, 2), (3, 4), (-0.5, -0.125), 0.7, 2)},
    verdicts={
        1: Verdict((Vote(-1, 0.5, "local"),), -1.0),
        3: Verdict((Vote(1), Vote(None, reason="late")), 1.0),
    },
)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def with_rewards(*rewards: float | None) -> list[Turn]:
    messages = tuple(Message("user" if i % 2 == 0 else "assistant", f"m{i}") for i in range(2 * len(rewards) + 1))
    verdicts = {2 * i + 1: Verdict((), reward) for i, reward in enumerate(rewards)}
    return turns_of(Conversation("c", messages, verdicts=verdicts))


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_openai_export_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    other = replace(TALK, id="other", messages=TALK.messages[:3], tools=(), kinds={}, sampled={}, verdicts={})
    path = tmp_path / name
    result = export([*turns_of(TALK), *turns_of(other)], "openai", path)
    assert (result.rows, result.turns, result.left_out) == (2, 5, {})
    assert list(read_conversations([path], strict=True).conversations) == [TALK, other]


def test_kto_has_prompt_completion_and_label_and_counts_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    result = export([*with_rewards(1.0, 0.0, -1.0, None), *turns_of(TALK)], "kto", path)
    assert result.left_out == {"neutral": 1, "unscored": 1, "side": 1, "no next state": 1}
    first, second, *_ = rows(path)
    assert first == {
        "prompt": [{"role": "user", "content": "m0"}],
        "completion": [{"role": "assistant", "content": "m1"}],
        "label": True,
    }
    assert second["label"] is False
    assert len(second["prompt"]) == 5
    assert (result.rows, result.turns) == (4, 4)


def test_grpo_has_rewards_groups_ids_and_logprobs(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    same = [replace(turn, conversation_id=f"again-{i}") for i in range(2) for turn in with_rewards(0.5)]
    export([*turns_of(TALK), *same], "grpo", path)
    call, answer, *again = rows(path)
    assert call["completion"][0]["tool_calls"] == [CALL | {"function": {"name": "add", "arguments": {"a": 1}}}]
    assert answer["prompt"][1] == call["completion"][0]
    assert (call["reward"], call["prompt_ids"], call["logprobs"]) == (-1.0, None, None)
    assert (answer["id"], answer["reward"], answer["temperature"], answer["policy_version"]) == (
        "talk/3",
        1.0,
        0.7,
        2,
    )
    assert (answer["prompt_ids"], answer["completion_ids"]) == ([1, 2], [3, 4])
    assert answer["logprobs"] == [-0.5, -0.125]
    assert again[0]["group"] == again[1]["group"] != answer["group"]
    assert again[0]["conversation"] != again[1]["conversation"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("form", ["kto", "grpo"])
def test_what_other_trainers_get_can_be_read_again(tmp_path: Path, form: ExportFormat, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    export(turns_of(TALK), form, path)
    first, second = read_conversations([path], strict=True).conversations
    assert first.messages == TALK.messages[:2]
    assert second.messages == TALK.messages[:4]
    assert [first.verdicts[1].reward, second.verdicts[3].reward] == [-1.0, 1.0]
    assert first.tools == (TOOL,)
    assert second.sampled == (TALK.sampled if form == "grpo" else {})


def test_turns_with_images_are_left_out_and_counted(tmp_path: Path) -> None:
    messages = (*TALK.messages[4:7], Message("assistant", "ok"), Message("user", "see", has_image=True))
    seen = Conversation("seen", (*messages, Message("assistant", "A cat."), Message("user", "Yes!")))
    path = tmp_path / "out.jsonl"
    result = export(turns_of(seen), "openai", path)
    assert result.left_out == {"image": 2}
    assert len(rows(path)[0]["messages"]) == 3


@pytest.mark.parametrize("form", ["openai", "kto", "grpo"])
def test_nothing_to_export_is_said(tmp_path: Path, form: ExportFormat) -> None:
    with pytest.raises(UserError, match=f"No turn can be exported as {form}"):
        export([], form, tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        export(with_rewards(1.0), "kto", tmp_path / "missing" / "out.jsonl")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install talktune\[parquet\]"):
        export(with_rewards(1.0), "kto", tmp_path / "out.parquet")
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"pip install talktune\[parquet\]"):
        read_conversations([path])


def test_a_damaged_parquet_file_gives_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError) as error:
        read_conversations([path])
    assert "is not a readable Parquet file" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_failed_export_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("before\n")
    broken = replace(with_rewards(1.0)[0], prompt=(Message("user", "\ud800"),))
    with pytest.raises(UnicodeEncodeError):
        export([broken], "kto", path)
    assert path.read_text() == "before\n"
    assert list(tmp_path.iterdir()) == [path]
