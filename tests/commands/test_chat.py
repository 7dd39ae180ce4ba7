"""`talktune chat` and `talktune eval`: what is sampled is what is shown, kept and compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from talktune.conversations.readers import read_conversations
from talktune.conversations.turns import turns_of

SAMPLE = ("--max-new-tokens", "6", "--temperature", "0.7")


def test_what_was_sampled_is_saved_and_read_back(talktune: Any, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save = tmp_path / "talks.jsonl"
    arguments = ("chat", "--model", tiny_model, "--save", save, *SAMPLE)
    said = talktune(*arguments, stdin="Hello there\nAnd now [bold]?[/bold]\n\n")
    assert said.code == 0, said.err
    assert talktune(*arguments, "--seed", "7", stdin="Once more\n").code == 0  # the end of input ends the talk
    first, second = read_conversations([save]).conversations
    assert [m.role for m in first.messages] == ["user", "assistant"] * 2
    assert [m.content for m in first.messages[::2]] == ["Hello there", "And now [bold]?[/bold]"]
    assert len(second.messages) == 2
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for turn in (*turns_of(first), *turns_of(second)):
        assert turn.sampled is not None
        assert turn.sampled.logprobs is not None
        assert 1 <= len(turn.sampled.answer_ids) <= 6
        assert len(turn.sampled.logprobs) == len(turn.sampled.answer_ids)
        assert turn.sampled.temperature == 0.7
        assert turn.answer.content == tokenizer.decode(turn.sampled.answer_ids, skip_special_tokens=True)
        prompt = tokenizer.decode(turn.sampled.prompt_ids)
        assert prompt.endswith("<|im_start|>assistant\n")
        assert turn.prompt[-1].content in prompt


def test_ctrl_c_keeps_the_talk(
    talktune: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["Hello", "And?"])

    def type_in(_prompt: str = "") -> str:
        try:
            return next(lines)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("builtins.input", type_in)
    save = tmp_path / "talk.jsonl"
    said = talktune("chat", "--model", tiny_model, "--save", save, *SAMPLE)
    assert said.code == 130
    [talk] = read_conversations([save]).conversations
    assert [m.content for m in talk.messages[::2]] == ["Hello", "And?"]


def test_a_saved_talk_can_be_trained_on(talktune: Any, tiny_model: Path, tmp_path: Path) -> None:
    save, scored = tmp_path / "talk.jsonl", tmp_path / "talk-with-truth.jsonl"
    assert talktune("chat", "--model", tiny_model, "--save", save, *SAMPLE, stdin="a\nb\nc\n").code == 0
    line = json.loads(save.read_text())
    scored.write_text(json.dumps(line | {"metadata": {"labels": {"1": 1, "3": -1}}}) + "\n")
    options = ("--judge", "oracle", "--lora-rank", "2", "-o", tmp_path / "run")
    said = talktune("train", scored, "--model", tiny_model, *options)
    assert said.code == 0, said.err
    turns = json.loads((tmp_path / "run" / "summary.json").read_text())["turns"]
    assert (turns["trained"], turns["retokenised"]) == (2, 0)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes every answer."""
    import torch

    from talktune.config import ModelConfig
    from talktune.policy.adapter import attach_adapter, save_adapter
    from talktune.policy.load import load_policy

    model = attach_adapter(load_policy(ModelConfig(str(tiny_model))).model, ModelConfig(lora_rank=2), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.5, generator=generator)
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(model, folder)
    return folder


def test_eval_compares_before_and_after(talktune: Any, tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Why?\nWhat for?\n")
    arguments = ("eval", "--model", tiny_model, "--adapter", adapter, "--prompts", prompts, "--max-new-tokens", "5")
    said = talktune(*arguments, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert [answer["prompt"] for answer in found["answers"]] == ["Why?", "What for?"]
    assert found["summary"]["prompts"] == 2
    assert found["summary"]["changed"] == sum(a["before"] != a["after"] for a in found["answers"]) == 2
    assert found["summary"]["mean_tokens_after"] == sum(a["tokens_after"] for a in found["answers"]) / 2
    assert json.loads(talktune(*arguments, "--json").out) == found  # greedy
    shown = talktune(*arguments)
    assert shown.code == 0
    assert "What for?" in shown.out


def test_chat_speaks_with_the_adapter(talktune: Any, tiny_model: Path, adapter: Path) -> None:
    arguments = ("chat", "--model", tiny_model, "--max-new-tokens", "6", "--temperature", "0")
    bare = talktune(*arguments, stdin="Why?\n")
    tuned = talktune(*arguments, "--adapter", adapter, stdin="Why?\n")
    assert bare.code == tuned.code == 0
    assert bare.out != tuned.out
