"""All options as one tree, and the tree as JSON for another process."""

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from talktune.config.demo import DemoConfig, LabConfig
from talktune.config.serving import GateConfig, LiveConfig, ServeConfig
from talktune.config.training import AlgorithmConfig, FreshConfig, JudgeConfig, ModelConfig, SampleConfig, TrainConfig


@dataclass(frozen=True)
class Config:
    """The whole tree, as written to `config.toml` in a run directory."""

    model: ModelConfig = field(default_factory=ModelConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    demo: DemoConfig | None = None
    lab: LabConfig | None = None
    serve: ServeConfig | None = None
    live: LiveConfig | None = None
    gate: GateConfig | None = None
    fresh: FreshConfig | None = None


def config_to_json(config: Config) -> str:
    """The whole tree for another process."""
    return json.dumps(asdict(config), default=str)


def config_from_json(text: str) -> Config:
    """The inverse of `config_to_json`."""
    return _typed(json.loads(text), Config)


def _typed(value: Any, kind: Any) -> Any:
    """A value from JSON as a field of type `kind`, or `kind | None`, holds it."""
    if isinstance(value, dict):
        part: Any = next(filter(is_dataclass, (kind, *get_args(kind))))
        return part(**{f.name: _typed(value[f.name], f.type) for f in fields(part)})
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in (kind, *get_args(kind)) else value
