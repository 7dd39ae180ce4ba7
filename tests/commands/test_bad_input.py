"""Whatever a user does wrong is answered with one sentence on stderr and exit code 2, never a traceback."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ANSWER = {"role": "assistant", "content": "x"}
USER = {"role": "user", "content": "x"}

FILES: dict[str, tuple[str, str]] = {
    "empty": ("", "is empty"),
    "starts with the assistant": (json.dumps({"messages": [ANSWER, USER]}), "line 1: it starts with the assistant"),
    "unknown role": (json.dumps({"messages": [{"role": "wizard", "content": "x"}, ANSWER]}), "unknown role 'wizard'"),
    "no next state": (json.dumps({"messages": [USER, ANSWER]}), "no turn with a next state"),
    "not JSON": ("hello", "line 1: it is not JSON"),
}


@pytest.mark.parametrize("command", ["train", "score"])
@pytest.mark.parametrize("name", FILES)
def test_files(talktune: Any, tiny_model: Path, tmp_path: Path, command: str, name: str) -> None:
    text, words = FILES[name]
    file = tmp_path / "talks.jsonl"
    file.write_text(text)
    more = ("--model", tiny_model) if command == "train" else ()
    sentence = talktune(command, file, *more, "--judge", "oracle", "--output", tmp_path / "out").sentence
    assert words in sentence
    assert str(file) in sentence or name == "no next state"


@pytest.mark.parametrize("command", ["train", "score", "export", "judge-eval", "judge-train", "eval", "report"])
def test_missing_files(talktune: Any, tiny_model: Path, tmp_path: Path, command: str) -> None:
    missing = tmp_path / "missing.jsonl"
    more: dict[str, tuple[Any, ...]] = {
        "export": ("--format", "kto", "-o", tmp_path / "out"),
        "judge-eval": (),
        "eval": ("--model", tiny_model, "--adapter", tmp_path, "--prompts", missing),
        "report": (),
    }
    arguments = more.get(command, ("-o", tmp_path / "out"))
    said = talktune(command, *(() if command == "eval" else (missing,)), *arguments)
    assert str(missing) in said.sentence
    assert "does not exist" in said.sentence


VALUES: dict[str, tuple[str, ...]] = {
    "--votes": ("many", "0", "-1"),
    "--judge-accuracy": ("1.5", "nan"),
    "--judge": ("nobody", "no.such.module:judge", "json:no_such_function"),
    "--kl": ("k9",),
    "--group": ("everything",),
    "--eps-low": ("1.5",),
    "--dual-clip": ("0.5",),
    "--learning-rate": ("0", "fast"),
    "--weight-decay": ("-1",),
    "--max-grad-norm": ("0",),
    "--lora-alpha": ("nan",),
    "--lora-rank": ("-1",),
    "--updates": ("0",),
    "--L-cache": ("2000",),
    "--device": ("abacus",),
    "--seed": ("-1", "99999999999999999999"),
    "--no-such-option": ("1",),
}


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, values in VALUES.items() for v in values])
def test_wrong_values(talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path, option: str, value: str) -> None:
    judge = () if option == "--judge" else ("--judge", "oracle")
    said = talktune("train", talks, "--model", tiny_model, *judge, "-o", tmp_path / "run", option, value)
    assert value in said.sentence or option in said.sentence


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("serve", "--gate-kl", "nan"),
        ("serve", "--gate-empty", "-5"),
        ("serve", "--brake-length", "-5"),
        ("serve", "--timer-minutes", "inf"),
        ("learn", "--holdout", "nan"),
        ("learn", "--gate-length-low", "2"),
        ("judge", "--seed", "-1"),
        ("chat", "--seed", "-1"),
        ("eval", "--temperature", "inf"),
        ("judge-eval", "--votes", "0"),
        ("judge-train", "--lora-alpha", "nan"),
    ],
)
def test_wrong_numbers(talktune: Any, tmp_path: Path, command: str, option: str, value: str) -> None:
    nowhere = tmp_path / "nothing"
    more = {"eval": ("--prompts", nowhere), "judge-eval": (nowhere,), "judge-train": (nowhere, "-o", nowhere)}
    if command in ("serve", "judge", "learn"):
        more[command] = ("--store", nowhere)
    assert f"{option} is {value}" in talktune(command, *more.get(command, ()), option, value).sentence
    assert not nowhere.exists()


def test_a_version_that_cannot_be(talktune: Any) -> None:
    assert "--number is -1: it must be 0 or more" in talktune("policies", "show", "--", "-1").sentence
    assert "list" in talktune("policies").out


@pytest.mark.parametrize("option", ["--questions", "--answers", "--max-new-tokens", "--lora-rank"])
def test_wrong_values_of_the_demo(talktune: Any, tiny_model: Path, tmp_path: Path, option: str) -> None:
    said = talktune("demo", "--model", tiny_model, "--judge", "oracle", "-o", tmp_path / "run", option, "0")
    assert option in said.sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [(), ("train",), ("eval",), ("nonsense",), ("score", "x.jsonl")])
def test_incomplete_commands(talktune: Any, arguments: tuple[str, ...]) -> None:
    said = talktune(*arguments)
    if arguments:
        assert said.sentence
    else:
        assert said.code == 0
        assert "talktune" in said.out  # the help


TOML: dict[str, tuple[str, str]] = {
    "unknown key": ("colour = 3\n", "there is no option colour"),
    "unknown key in a section": ("[train]\nupdatez = 3\n", "there is no option updatez"),
    "broken": ("votes = \n", "is not TOML"),
    "wrong type": ('votes = "many"\n', "--votes"),
    "out of range": ("[judge]\nvotes = 0\n", "--votes is 0"),
    "of another command": ("[gate]\ngate_kl = 1\njson = true\n[train]\nepochs = 0\n", "--epochs is 0"),
}


@pytest.mark.parametrize("name", TOML)
def test_config_files(talktune: Any, talks: Path, tmp_path: Path, name: str) -> None:
    text, words = TOML[name]
    config = tmp_path / "config.toml"
    config.write_text(text)
    sentence = talktune("--config", config, "train", talks, "-o", tmp_path / "run").sentence
    assert words in sentence
    assert str(config) in sentence or words.endswith(" is 0")


def test_a_config_file_that_is_not_there(talktune: Any, talks: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    assert str(config) in talktune("train", talks, "--config", config, "-o", tmp_path / "run").sentence


def test_outputs_that_cannot_be_written(talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Under a regular file: not even root can."""
    below = talks / "below"
    judge = ("--judge", "oracle")
    for command, more in (
        ("train", (talks, "--model", tiny_model, *judge)),
        ("score", (talks, *judge)),
        ("demo", ("--model", tiny_model, *judge)),
    ):
        sentence = talktune(command, *more, "--output", below).sentence
        assert str(below) in sentence
        assert "cannot be written" in sentence
    assert "is a directory" in talktune("score", talks, *judge, "-o", tmp_path).sentence.lower()
    sentence = talktune("chat", "--model", tiny_model, "--save", below, stdin="hi\n").sentence
    assert f"--save {below}: cannot be written" in sentence


def test_an_export_that_cannot_be_written(talktune: Any, talks: Path) -> None:
    sentence = talktune("export", talks, "--format", "openai", "-o", talks / "below").sentence
    assert "cannot be written" in sentence


def test_a_run_directory_that_exists(talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path) -> None:
    arguments = ("train", talks, "--model", tiny_model, "--judge", "oracle", "--updates", "1", "-o", tmp_path / "run")
    assert talktune(*arguments).code == 0
    sentence = talktune(*arguments).sentence
    assert "--resume" in sentence
    assert "--output" in sentence
    sentence = talktune(*arguments, "--resume", "--learning-rate", "0.5").sentence
    assert "learning_rate = 0.5" in sentence
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    other = (*arguments[:-1], tmp_path / "mine")
    assert "already exists" in talktune(*other).sentence
    assert "holds no run" in talktune(*other, "--resume").sentence


def test_models_that_are_not_there(talktune: Any, talks: Path, tmp_path: Path) -> None:
    def sentence(model: object) -> str:
        return talktune("train", talks, "--model", model, "--judge", "oracle", "-o", tmp_path / "run").sentence

    assert "no such directory" in sentence("./no-such-model")
    assert "config.json" in sentence(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert str(tmp_path) in sentence(tmp_path)


def test_adapters_that_do_not_fit(talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from talktune.config import ModelConfig
    from talktune.policy.adapter import attach_adapter, save_adapter

    def sentence(adapter: Path) -> str:
        options = ("--judge", "oracle", "--updates", "1", "-o", tmp_path / "run")
        return talktune("train", talks, "--model", tiny_model, "--adapter", adapter, *options).sentence

    for name, change in (("narrow", {"hidden_size": 16}), ("deep", {"num_hidden_layers": 3})):
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model, **change))
        save_adapter(attach_adapter(model, ModelConfig(lora_rank=2), seed=0), tmp_path / name)
        assert "does not fit this model" in sentence(tmp_path / name)
    shutil.copytree(tmp_path / "narrow", tmp_path / "torn")
    (tmp_path / "torn" / "adapter_model.safetensors").write_bytes(b"torn")
    assert "does not fit this model" in sentence(tmp_path / "torn")
    assert "no adapter there" in sentence(tiny_model)
    assert "no adapter there" in sentence(tmp_path / "nothing")


def test_eval_without_an_adapter(talktune: Any, tmp_path: Path) -> None:
    assert "--adapter" in talktune("eval", "--prompts", tmp_path / "prompts.txt").sentence


def test_too_few_lines_for_a_judge(talktune: Any, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    line = {"request": "a", "response": "b", "role": "user", "next_state": "c", "label": 1}
    file.write_text(json.dumps(line) + "\n")
    sentence = talktune("judge-train", file, "--model", tiny_model, "-o", tmp_path / "head").sentence
    assert "at least 30 labelled lines" in sentence
    file.write_text(json.dumps(line | {"label": 5}) + "\n")
    assert "line 1" in talktune("judge-eval", file, "--judge", "oracle").sentence
