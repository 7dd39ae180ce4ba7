"""The config tree: its defaults hold, its rules name the option, and TOML gives it back."""

import math
import tomllib
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from talktune import config
from talktune.config import (
    AlgorithmConfig,
    Config,
    DemoConfig,
    FreshConfig,
    GateConfig,
    JudgeConfig,
    LiveConfig,
    ModelConfig,
    Range,
    SampleConfig,
    ServeConfig,
    TrainConfig,
    check_config,
    config_from_json,
    config_to_json,
    range_of,
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


def is_number(kind: Any) -> bool:
    """Whether a type holds int or float: `int`, `float | None`, `tuple[float, float]`, each annotated or not."""
    return kind in (int, float) or any(map(is_number, get_args(kind)))


def message(part: Any) -> str:
    with pytest.raises(UserError) as error:
        check_config(part)
    return str(error.value)


KINDS = [kind for kind in vars(config).values() if is_dataclass(kind) and kind not in (Config, Range)]
FIELDS = [(kind, field) for kind in KINDS for field in fields(kind) if is_number(field.type)]


def test_every_number_has_a_range() -> None:
    from talktune.cli import app

    without = [f"{kind.__name__}.{field.name}" for kind, field in FIELDS if range_of(field.type) is None]
    commands = [command for name in app if not name.startswith("-") for command in (app[name], *app[name].subapps)]
    for function in (command.default_command for command in commands):
        numbers = {name: kind for name, kind in getattr(function, "__annotations__", {}).items() if is_number(kind)}
        without += [f"{function}: {name}" for name in numbers.keys() - {"return"} if range_of(numbers[name]) is None]
    assert not without
    assert len(FIELDS) > 60


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda each: getattr(each, "name", None))
def test_a_number_out_of_its_range_is_named(kind: Any, field: Any) -> None:
    check_config(kind())
    allowed = range_of(field.type)
    assert allowed is not None
    outside = [math.nan, math.inf, -math.inf]
    for end, step, kept in ((allowed.low, -1, allowed.ends[0] == "["), (allowed.high, 1, allowed.ends[1] == "]")):
        outside += [end + step if kept else end, end + 4 * step]
    for value in outside:
        wrong = (0.0, value) if get_origin(field.type) is tuple else value
        said = message(replace(kind(), **{field.name: wrong}))
        assert said.startswith(f"--{field.name.replace('_', '-')} is {wrong}: it must be ")
        assert said.endswith(".")
        assert ("finite" in said) == (not math.isfinite(value))


def test_a_number_in_its_range_is_taken() -> None:
    assert check_config(TrainConfig(updates=1, seed=2**32 - 1)).updates == 1
    assert check_config(AlgorithmConfig(eps_low=0.0, dual_clip=1.001, L_max=10**30, L_cache=10**30)).eps_low == 0
    assert [AlgorithmConfig(distill=d).distills for d in ("off", 0, "auto", 0.1)] == [False, False, True, True]
    assert check_config(GateConfig(gate_facts=1.0, gate_length_low=2.0, gate_length_high=2.0))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (AlgorithmConfig(L_cache=1001), "--L-cache is 1001: it must be between 0 and L_max (1000)."),
        (AlgorithmConfig(distill="on"), "--distill is on: it must be auto, off or a weight."),  # type: ignore[arg-type]
        (AlgorithmConfig(distill=-0.5), "--distill is -0.5: it must be 0 or more."),
        (FreshConfig(1), "--fresh-answers is 1: one answer has nothing to be compared with; it must be 0, 2 or more."),
        (FreshConfig(-1), "--fresh-answers is -1: it must be 0 or more."),
        (LiveConfig(brake_judge=(1.0, -1.0)), "--brake-judge is (1.0, -1.0): it must be a lower and a higher number."),
        (GateConfig(gate_length_low=2.0), "--gate-length-low is 2.0: it must be at most --gate-length-high (1.5)."),
        (ServeConfig(side_patterns=("(",)), "--side-patterns '(': is not a regular expression"),
        (TrainConfig(learning_rate=0.0), "--learning-rate is 0.0: it must be greater than 0."),
        (TrainConfig(epochs=0), "--epochs is 0: it must be 1 or more."),
        (LiveConfig(holdout=1.0), "--holdout is 1.0: it must be in [0, 1)."),
        (ServeConfig(temperature=-0.1), "--temperature is -0.1: it must be between 0 and 2."),
    ],
)
def test_a_wrong_value_is_one_sentence_wherever_it_stands(part: Any, words: str) -> None:
    assert message(part).startswith(words)
    sections = {field.name: part for field in fields(Config) if type(part) in (field.type, *get_args(field.type))}
    assert message(Config(**sections)).startswith(words)


def test_another_process_is_given_the_same_tree() -> None:
    tree = Config(
        model=ModelConfig(adapter=Path("a b")),
        live=LiveConfig(brake_judge=(-0.5, 0.5)),
        serve=ServeConfig(keys=Path("keys")),
        gate=GateConfig(),
        fresh=FreshConfig(6),
    )
    assert config_from_json(config_to_json(tree)) == tree


def test_toml_gives_the_tree_back() -> None:
    from talktune.learner.run_directory import config_to_toml

    config = Config(model=ModelConfig(adapter=Path("a b")), train=TrainConfig(seed=7), demo=DemoConfig())
    tree = tomllib.loads(config_to_toml(config))
    expected = {
        section: {name: str(v) if isinstance(v, Path) else v for name, v in options.items() if v is not None}
        for section, options in asdict(config).items()
        if options is not None
    }
    assert tree == expected
    assert "demo" not in tomllib.loads(config_to_toml(Config()))
