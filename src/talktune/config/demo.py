"""The options of the demo and of the lab, and where their defaults differ from the usual ones."""

from dataclasses import dataclass
from typing import Annotated

from talktune.config.ranges import Count, Natural, NotNegative, Positive, Range, Seed
from talktune.config.training import AlgorithmConfig, FreshConfig, Grouping, SampleConfig, TrainConfig


@dataclass(frozen=True)
class DemoConfig:
    """The demo's rollouts: how many questions are asked at each update, and how often each is answered."""

    questions: Count = 6
    """Held-in questions of one update."""
    answers: Count = 8
    """G, answers to each of them that the user reacts to."""
    shuffle_rewards: bool = False
    """Deal the rewards out anew among the answers of an update: a control in which nothing can be learned."""


@dataclass(frozen=True)
class GreedySampleConfig(SampleConfig):
    """Sampling where a comparison wants the likeliest answer."""

    temperature: NotNegative = 0.0


@dataclass(frozen=True)
class DemoAlgorithmConfig(AlgorithmConfig):
    """GRPO-TCR as the demo runs it: the answers to one question are a group."""

    group: Grouping = "prompt"
    beta: NotNegative = 0.04


@dataclass(frozen=True)
class DemoFreshConfig(FreshConfig):
    """Fresh answers in the demo, whose user reacts to eight answers to each question."""

    fresh_answers: Natural = 0


@dataclass(frozen=True)
class DemoTrainConfig(TrainConfig):
    """The learner as the demo runs it."""

    updates: Count | None = 30
    """Stop after this many updates."""
    learning_rate: Positive = 4e-4
    microbatch_tokens: Count = 512


@dataclass(frozen=True)
class DemoSampleConfig(SampleConfig):
    """Short answers, so that the demo is quick."""

    max_new_tokens: Count = 48


@dataclass(frozen=True)
class LabConfig:
    """Sizes of the lab's experiments."""

    seed: Seed = 0
    """The first seed; experiments with several take the following ones too."""
    seeds: Count = 5
    """How many seeds a training experiment runs, for its bands."""
    updates: Annotated[int, Range(20)] = 200
    """Updates of a training experiment, at most."""
    trials: Count = 20_000
    """Simulated cases of an experiment that only draws votes or rewards."""
