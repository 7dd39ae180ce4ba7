"""Every knob, once: these frozen dataclasses are the options, the TOML file and the Python API.

A docstring under a field is its `--help` text, its type holds its range. No torch here.
"""

from talktune.config.check import check_config, check_values
from talktune.config.demo import (
    DemoAlgorithmConfig,
    DemoConfig,
    DemoFreshConfig,
    DemoSampleConfig,
    DemoTrainConfig,
    GreedySampleConfig,
    LabConfig,
)
from talktune.config.ranges import Count, Natural, Range, range_of
from talktune.config.serving import GateConfig, LiveConfig, LiveTrainConfig, ServeConfig
from talktune.config.training import (
    AlgorithmConfig,
    ExportFormat,
    FreshConfig,
    Grouping,
    JudgeConfig,
    ModelConfig,
    SampleConfig,
    Tracker,
    TrainConfig,
)
from talktune.config.tree import Config, config_from_json, config_to_json

__all__ = [
    "AlgorithmConfig",
    "Config",
    "Count",
    "DemoAlgorithmConfig",
    "DemoConfig",
    "DemoFreshConfig",
    "DemoSampleConfig",
    "DemoTrainConfig",
    "ExportFormat",
    "FreshConfig",
    "GateConfig",
    "GreedySampleConfig",
    "Grouping",
    "JudgeConfig",
    "LabConfig",
    "LiveConfig",
    "LiveTrainConfig",
    "ModelConfig",
    "Natural",
    "Range",
    "SampleConfig",
    "ServeConfig",
    "Tracker",
    "TrainConfig",
    "check_config",
    "check_values",
    "config_from_json",
    "config_to_json",
    "range_of",
]
