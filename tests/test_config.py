"""The config tree: its defaults hold, its rules name the option, and TOML gives it back."""

import tomllib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from talktune.config import (
    AlgorithmConfig,
    Config,
    DemoConfig,
    JudgeConfig,
    ModelConfig,
    SampleConfig,
    TrainConfig,
    check_config,
)
from talktune.errors import UserError

PARTS = (ModelConfig, JudgeConfig, AlgorithmConfig, TrainConfig, SampleConfig, DemoConfig)


def test_defaults_make_sense() -> None:
    assert check_config(Config()) == Config()
    assert check_config(Config(demo=DemoConfig())).demo == DemoConfig()


def test_names_are_said_once() -> None:
    """Options are flat on the command line and in a file without sections."""
    names = [field.name for part in PARTS for field in fields(part)]
    assert len(names) == len({name.lower() for name in names})


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    from talktune.cli import app

    for command, parts in (("train", PARTS[:4]), ("demo", PARTS), ("chat", (ModelConfig, SampleConfig))):
        app([command, "--help"], result_action="return_value")
        shown = capsys.readouterr().out
        for part in parts:
            for field in fields(part):
                assert f"--{field.name.replace('_', '-')}".lower() in shown


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("algorithm", "eps_low", 1.0),
        ("algorithm", "eps_high", -0.1),
        ("algorithm", "eps_high_end", -0.1),
        ("algorithm", "beta", float("nan")),
        ("algorithm", "dual_clip", 1.0),
        ("algorithm", "L_max", 0),
        ("algorithm", "L_cache", 1001),
        ("algorithm", "max_staleness", -1),
        ("train", "updates", 0),
        ("train", "epochs", 0),
        ("train", "batch_turns", 0),
        ("train", "learning_rate", 0.0),
        ("train", "weight_decay", -1.0),
        ("train", "max_grad_norm", 0.0),
        ("train", "microbatch_tokens", 0),
        ("train", "max_tokens", 0),
        ("train", "keep_checkpoints", 0),
        ("train", "seed", -1),
        ("model", "lora_rank", -1),
        ("model", "lora_alpha", float("nan")),
        ("sample", "temperature", -0.1),
        ("sample", "top_p", 0.0),
        ("sample", "top_k", -1),
        ("sample", "max_new_tokens", 0),
        ("judge", "votes", 0),
        ("judge", "judge_accuracy", 1.1),
        ("judge", "judge_timeout", 0.0),
        ("judge", "judge_retries", -1),
        ("demo", "questions", 0),
        ("demo", "answers", 0),
    ],
)
def test_a_wrong_value_is_named(section: str, name: str, value: Any) -> None:
    config = Config(demo=DemoConfig())
    wrong = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(UserError, match=rf"^{option} is .+: it must be ") as error:
        check_config(wrong)
    assert str(value) in str(error.value)


def test_toml_gives_the_tree_back() -> None:
    from talktune.learner.run import config_to_toml

    config = Config(model=ModelConfig(adapter=Path("a b")), train=TrainConfig(seed=7), demo=DemoConfig())
    tree = tomllib.loads(config_to_toml(config))
    expected = {
        section: {name: str(v) if isinstance(v, Path) else v for name, v in options.items() if v is not None}
        for section, options in asdict(config).items()
        if options is not None
    }
    assert tree == expected
    assert "demo" not in tomllib.loads(config_to_toml(Config()))
