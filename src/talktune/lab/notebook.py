"""The names that a course notebook on GRPO-TCR uses, over the functions that train real models.

The course's conventions hold here: an objective is to be *maximised*, the ratio is against the reference policy,
ρ = exp(new − ref), and the KL term is β · mean(new − ref). Everywhere else in talktune the loss is minimised and the
ratio is against the policy that sampled.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from talktune.judge.oracle import OracleJudge
from talktune.lab.policy import blank_model
from talktune.rl.advantage import compute_grpo_advantages
from talktune.rl.loss import clip_higher as _clip_higher
from talktune.rl.loss import grpo_tcr_loss as _grpo_tcr_loss
from talktune.rl.reward import overlong_reward as _overlong_reward
from talktune.rl.votes import LABELS, majority_vote
from talktune.types import Label, Message, Turn

__all__ = [
    "ProcessRewardModel",
    "SimplePolicyModel",
    "SyntheticBatch",
    "clip_higher",
    "compute_grpo_advantages",
    "generate_synthetic_batch",
    "grpo_clipped_loss",
    "grpo_tcr_loss",
    "measure_majority_voting_accuracy",
    "overlong_reward",
]


class ProcessRewardModel:
    """A judge that is right with probability `accuracy` per vote, and is asked `num_votes` times.

    Wrong votes fall on the two other labels evenly. The same seed gives the same votes in the same order of calls.
    """

    def __init__(self, accuracy: float = 0.8, num_votes: int = 5, seed: int = 0) -> None:
        """Make a judge; ValueError for fewer than one vote, UserError for an accuracy outside of 0 … 1."""
        if num_votes < 1:
            raise ValueError(f"num_votes is {num_votes}: it must be at least 1")
        self.accuracy = accuracy
        self.num_votes = num_votes
        self._judge = OracleJudge(_truth, accuracy, seed)
        self._asked = 0

    def evaluate_single(self, true_quality: float) -> Label:
        """One vote, −1, 0 or +1, on an answer of that true quality (−1, 0 or +1, else ValueError)."""
        return self._votes(true_quality, 1)[0]

    def evaluate_with_majority_voting(self, true_quality: float) -> tuple[Label, list[Label]]:
        """(reward, votes): `num_votes` votes and their majority; a tie for first place is 0."""
        votes = self._votes(true_quality, self.num_votes)
        return majority_vote(votes) or 0, votes

    def _votes(self, true_quality: float, n: int) -> list[Label]:
        if true_quality not in LABELS:
            raise ValueError(f"true_quality is {true_quality!r}: it must be -1, 0 or 1")
        self._asked += 1
        turn = Turn(
            conversation_id=str(self._asked),
            index=1,
            prompt=(),
            answer=Message("assistant", ""),
            next_state=(Message("user", str(int(true_quality))),),
        )
        votes = self._judge.vote([(turn, k) for k in range(n)])
        return [cast(Label, vote.label) for vote in votes]


def _truth(turn: Turn) -> Label:
    return cast(Label, int(turn.next_state[0].content))


def measure_majority_voting_accuracy(accuracy: float, num_votes: int, num_trials: int = 2000, seed: int = 0) -> float:
    """Share of `num_trials` answers, of true quality −1, 0 and +1 in turn, whose majority is right.

    The exact value is `talktune.rl.votes.majority_accuracy(accuracy, num_votes)`.
    """
    judge = ProcessRewardModel(accuracy, num_votes, seed)
    truths = [LABELS[i % 3] for i in range(num_trials)]
    return sum(judge.evaluate_with_majority_voting(truth)[0] == truth for truth in truths) / num_trials


def overlong_reward(response_length: float, L_max: int = 1000, L_cache: int = 200) -> float:
    """The length penalty in [−1, 0]: 0 up to L_max − L_cache tokens, then linear, −1 from L_max on."""
    return _overlong_reward(response_length, L_max, L_cache)


def clip_higher(ratio: Tensor | float, eps_low: float = 0.2, eps_high: float = 0.28) -> Tensor:
    """The ratio clipped to [1 − ε_low, 1 + ε_high], as a tensor of the same shape."""
    return _clip_higher(torch.as_tensor(ratio), eps_low, eps_high)


def grpo_clipped_loss(
    log_probs_new: Tensor,
    log_probs_ref: Tensor,
    advantages: Tensor,
    eps_low: float = 0.2,
    eps_high: float = 0.28,
    beta_kl: float = 0.01,
) -> Tensor:
    """The objective to maximise, mean of min(ρA, clip(ρ)A) − β·(new − ref), as a scalar tensor.

    log_probs_new, log_probs_ref: (B, T) in nats, or (B,) of single tokens; advantages: (B,) or (B, T).
    """
    new, ref = _rows(log_probs_new), _rows(log_probs_ref)
    return _objective(new, ref, advantages, torch.ones_like(new), eps_low, eps_high, beta_kl)[0]


def grpo_tcr_loss(
    log_probs_new: Tensor,
    log_probs_ref: Tensor,
    response_lengths: Tensor | Sequence[int],
    prm_rewards: Tensor | Sequence[float],
    eps_low: float = 0.2,
    eps_high: float = 0.28,
    beta_kl: float = 0.01,
    L_max: int = 1000,
    L_cache: int = 200,
) -> tuple[Tensor, dict[str, float]]:
    """(objective, metrics) of one group: rewards + length penalty -> advantages -> the clipped, token-level objective.

    log_probs_new, log_probs_ref: (B, T) in nats; the first `response_lengths` (B,) tokens of a row count (all T of a
    longer answer). prm_rewards: (B,). Metrics: those of the loss, with `objective` as returned, and `mean_advantage`,
    `mean_length_penalty`, `mean_reward` (after the penalty) and `mean_kl`, the mean of new − ref in nats.
    """
    new, ref = _rows(log_probs_new), _rows(log_probs_ref)
    lengths = torch.as_tensor(response_lengths)
    penalties = torch.tensor([overlong_reward(n, L_max, L_cache) for n in lengths.tolist()], dtype=torch.float64)
    rewards = torch.as_tensor(prm_rewards, dtype=torch.float64) + penalties
    advantages = compute_grpo_advantages(rewards)
    mask = torch.arange(new.shape[1]) < lengths[:, None]
    objective, metrics = _objective(new, ref, advantages, mask, eps_low, eps_high, beta_kl)
    return objective, {
        **metrics,
        "objective": objective.item(),
        "mean_advantage": advantages.mean().item(),
        "mean_length_penalty": penalties.mean().item(),
        "mean_reward": rewards.mean().item(),
        "mean_kl": (new - ref)[mask].mean().item(),
    }


def _objective(
    new: Tensor, ref: Tensor, advantages: Tensor, mask: Tensor, eps_low: float, eps_high: float, beta: float
) -> tuple[Tensor, dict[str, float]]:
    loss, metrics = _grpo_tcr_loss(
        new, ref, ref, advantages, mask, eps_low=eps_low, eps_high=eps_high, beta=beta, kl="k1"
    )
    return -loss, metrics


def _rows(log_probs: Tensor) -> Tensor:
    return log_probs[:, None] if log_probs.ndim == 1 else log_probs


class SimplePolicyModel(nn.Module):
    """A small causal transformer over token ids, with random weights (they depend on torch's seed)."""

    def __init__(self, vocab_size: int = 100, hidden_size: int = 32, num_layers: int = 1) -> None:
        super().__init__()
        self.model = blank_model(num_layers, hidden_size, vocab_size)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of token_ids (B, T)."""
        return self.model(token_ids, use_cache=False).logits

    def get_log_probs(self, token_ids: Tensor) -> Tensor:
        """Log-probs (B, T − 1) in nats of the tokens from the second on, each given those before it."""
        logits = self(token_ids)[:, :-1].float()
        return torch.log_softmax(logits, -1).gather(2, token_ids[:, 1:, None]).squeeze(2)


class SyntheticBatch(NamedTuple):
    """Made-up answers, to try the arithmetic on: nothing can be learned from random tokens."""

    token_ids: Tensor
    """(B, T)."""
    response_lengths: Tensor
    """(B,), from 1 to 1.2 L_max."""
    true_qualities: list[Label]
    """B of them."""


def generate_synthetic_batch(
    batch_size: int = 8, seq_len: int = 32, vocab_size: int = 100, L_max: int = 1000, seed: int = 0
) -> SyntheticBatch:
    """Random tokens, lengths and true qualities; the same seed gives the same batch."""
    generator = torch.Generator().manual_seed(seed)
    rng = Random(seed)
    return SyntheticBatch(
        torch.randint(vocab_size, (batch_size, seq_len), generator=generator),
        torch.randint(1, int(1.2 * L_max) + 1, (batch_size,), generator=generator),
        [rng.choice(LABELS) for _ in range(batch_size)],
    )
