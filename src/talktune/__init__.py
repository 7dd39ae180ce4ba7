"""talktune trains a language model on how people react to its answers (GRPO-TCR).

Names load when they are used, so that `import talktune` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from talktune.api.conversations import load_conversations
    from talktune.api.evaluate import evaluate
    from talktune.api.score import score
    from talktune.api.train import train
    from talktune.config import (
        AlgorithmConfig,
        FreshConfig,
        JudgeConfig,
        ModelConfig,
        SampleConfig,
        TrainConfig,
    )
    from talktune.conversations.scored import ScoredTurns
    from talktune.errors import UserError
    from talktune.judge.endpoint import EndpointJudge
    from talktune.judge.local import LocalJudge
    from talktune.policy.load import Policy
    from talktune.report.compare import compare
    from talktune.report.read_run import Run, read_run
    from talktune.rl.advantage import compute_grpo_advantages
    from talktune.rl.loss import clip_higher, grpo_tcr_loss
    from talktune.rl.reward import overlong_reward
    from talktune.rl.votes import majority_vote, vote_distribution, weighted_vote
    from talktune.types import Conversation, Message, Turn

__version__ = "0.1.0"

__all__ = [
    "AlgorithmConfig",
    "Conversation",
    "EndpointJudge",
    "FreshConfig",
    "JudgeConfig",
    "LocalJudge",
    "Message",
    "ModelConfig",
    "Policy",
    "Run",
    "SampleConfig",
    "ScoredTurns",
    "TrainConfig",
    "Turn",
    "UserError",
    "__version__",
    "clip_higher",
    "compare",
    "compute_grpo_advantages",
    "evaluate",
    "grpo_tcr_loss",
    "load_conversations",
    "majority_vote",
    "overlong_reward",
    "read_run",
    "score",
    "train",
    "vote_distribution",
    "weighted_vote",
]

_HOME = {
    "AlgorithmConfig": "talktune.config",
    "Conversation": "talktune.types",
    "EndpointJudge": "talktune.judge.endpoint",
    "FreshConfig": "talktune.config",
    "JudgeConfig": "talktune.config",
    "LocalJudge": "talktune.judge.local",
    "Message": "talktune.types",
    "ModelConfig": "talktune.config",
    "Policy": "talktune.policy.load",
    "Run": "talktune.report.read_run",
    "SampleConfig": "talktune.config",
    "ScoredTurns": "talktune.conversations.scored",
    "TrainConfig": "talktune.config",
    "Turn": "talktune.types",
    "UserError": "talktune.errors",
    "clip_higher": "talktune.rl.loss",
    "compare": "talktune.report.compare",
    "compute_grpo_advantages": "talktune.rl.advantage",
    "evaluate": "talktune.api.evaluate",
    "grpo_tcr_loss": "talktune.rl.loss",
    "load_conversations": "talktune.api.conversations",
    "majority_vote": "talktune.rl.votes",
    "overlong_reward": "talktune.rl.reward",
    "read_run": "talktune.report.read_run",
    "score": "talktune.api.score",
    "train": "talktune.api.train",
    "vote_distribution": "talktune.rl.votes",
    "weighted_vote": "talktune.rl.votes",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
