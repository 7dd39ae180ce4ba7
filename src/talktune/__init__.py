"""talktune trains a language model on how people react to its answers (GRPO-TCR).

Names load when they are used, so that `import talktune` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from talktune.rl.advantage import compute_grpo_advantages
    from talktune.rl.loss import clip_higher, grpo_tcr_loss
    from talktune.rl.reward import overlong_reward
    from talktune.rl.votes import majority_vote, vote_distribution, weighted_vote

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "clip_higher",
    "compute_grpo_advantages",
    "grpo_tcr_loss",
    "majority_vote",
    "overlong_reward",
    "vote_distribution",
    "weighted_vote",
]

_HOME = {
    "clip_higher": "talktune.rl.loss",
    "compute_grpo_advantages": "talktune.rl.advantage",
    "grpo_tcr_loss": "talktune.rl.loss",
    "majority_vote": "talktune.rl.votes",
    "overlong_reward": "talktune.rl.reward",
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
