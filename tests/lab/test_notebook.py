"""The course's own checks, through `talktune.lab.notebook` alone."""

import math

import pytest
import torch

from talktune.lab import notebook as course


def test_one_vote_and_a_majority() -> None:
    judge = course.ProcessRewardModel(accuracy=0.9, num_votes=5)
    assert judge.evaluate_single(1) in (-1, 0, 1)
    reward, votes = judge.evaluate_with_majority_voting(-1)
    assert len(votes) == 5
    assert set(votes) <= {-1, 0, 1}
    assert reward in (-1, 0, 1)


def test_a_perfect_judge_and_the_same_seed() -> None:
    judge = course.ProcessRewardModel(accuracy=1.0, num_votes=3)
    assert [judge.evaluate_with_majority_voting(truth) for truth in (1, 0, -1)] == [
        (1, [1, 1, 1]),
        (0, [0, 0, 0]),
        (-1, [-1, -1, -1]),
    ]
    a, b = (course.ProcessRewardModel(0.5, 7, seed=4) for _ in range(2))
    first = [a.evaluate_with_majority_voting(1) for _ in range(20)]
    assert first == [b.evaluate_with_majority_voting(1) for _ in range(20)]
    assert len({tuple(votes) for _, votes in first}) > 10


def test_accuracy_of_the_majority() -> None:
    one, five = (course.measure_majority_voting_accuracy(0.7, m, 3000) for m in (1, 5))
    assert one == pytest.approx(0.7, abs=0.03)
    assert five == pytest.approx(0.874, abs=0.03)


@pytest.mark.parametrize("bad", [{"accuracy": 1.5}, {"num_votes": 0}])
def test_a_judge_that_cannot_be(bad: dict[str, float]) -> None:
    with pytest.raises(Exception, match=r"accuracy|num_votes"):
        course.ProcessRewardModel(**bad)  # type: ignore[arg-type]


def test_a_quality_that_is_none() -> None:
    with pytest.raises(ValueError, match="true_quality is 2"):
        course.ProcessRewardModel().evaluate_single(2)


def test_advantages() -> None:
    found = course.compute_grpo_advantages(torch.tensor([1.0, -1.0, 1.0, 0.0]))
    assert [round(a, 2) for a in found.tolist()] == [0.78, -1.31, 0.78, -0.26]
    assert course.compute_grpo_advantages(torch.ones(4)).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("length", "penalty"), [(500, 0), (800, 0), (850, -0.25), (900, -0.5), (950, -0.75), (1000, -1), (1100, -1)]
)
def test_penalties(length: int, penalty: float) -> None:
    assert course.overlong_reward(length, L_max=1000, L_cache=200) == pytest.approx(penalty)


def test_clip_higher() -> None:
    found = course.clip_higher(torch.tensor([0.5, 1.0, 1.5]), 0.2, 0.28)
    assert found.tolist() == pytest.approx([0.8, 1.0, 1.28])
    assert course.clip_higher(2.0).item() == pytest.approx(1.28)


def _reference(new: torch.Tensor, ref: torch.Tensor, a: torch.Tensor, mask: torch.Tensor, beta: float) -> float:
    total = 0.0
    for i, j in mask.nonzero().tolist():
        ratio = math.exp(float(new[i, j] - ref[i, j]))
        clipped = min(max(ratio, 0.8), 1.28)
        total += min(ratio * float(a[i]), clipped * float(a[i])) - beta * float(new[i, j] - ref[i, j])
    return total / int(mask.sum())


def test_the_clipped_objective_is_a_scalar_to_be_maximised() -> None:
    torch.manual_seed(0)
    ref = -2 + 0.3 * torch.randn(4, 6, dtype=torch.float64)
    new = (ref + 0.3 * torch.randn(4, 6, dtype=torch.float64)).requires_grad_()
    advantages = course.compute_grpo_advantages(torch.tensor([1.0, -1.0, 1.0, 0.0]).double())
    objective = course.grpo_clipped_loss(new, ref, advantages, eps_low=0.2, eps_high=0.28, beta_kl=0.01)
    assert objective.ndim == 0
    assert not objective.isnan()
    assert objective.item() == pytest.approx(
        _reference(new.detach(), ref, advantages, torch.ones(4, 6), 0.01), abs=1e-12
    )
    objective.backward()
    better = course.grpo_clipped_loss(new.detach() + 0.01 * new.grad, ref, advantages, beta_kl=0.01)  # type: ignore[operator]
    assert better > objective


def test_single_tokens_may_be_a_row() -> None:
    new, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-1.1, -1.9])
    advantages = torch.tensor([1.0, -1.0])
    a = course.grpo_clipped_loss(new, ref, advantages)
    b = course.grpo_clipped_loss(new[:, None], ref[:, None], advantages)
    assert a.item() == pytest.approx(b.item())


def test_the_whole_objective_and_its_metrics() -> None:
    torch.manual_seed(1)
    ref = -2 + 0.3 * torch.randn(4, 8, dtype=torch.float64)
    new = ref + 0.2 * torch.randn(4, 8, dtype=torch.float64)
    lengths, rewards = torch.tensor([3, 900, 8, 1100]), torch.tensor([1.0, -1.0, 1.0, 0.0])
    objective, metrics = course.grpo_tcr_loss(
        new, ref, lengths, rewards, eps_low=0.2, eps_high=0.28, beta_kl=0.02, L_max=1000, L_cache=200
    )
    shaped = rewards.double() + torch.tensor([0, -0.5, 0, -1]).double()
    advantages = course.compute_grpo_advantages(shaped)
    mask = torch.arange(8) < lengths[:, None]
    assert objective.ndim == 0
    assert objective.item() == pytest.approx(_reference(new.detach(), ref, advantages, mask, 0.02), abs=1e-12)
    assert metrics["objective"] == objective.item()
    assert metrics["mean_advantage"] == pytest.approx(0, abs=1e-12)
    assert metrics["mean_length_penalty"] == pytest.approx(-1.5 / 4)
    assert metrics["mean_reward"] == pytest.approx(float(shaped.mean()))
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_policy_and_a_made_up_batch_go_through_it() -> None:
    torch.manual_seed(0)
    policy, reference = course.SimplePolicyModel(vocab_size=50), course.SimplePolicyModel(vocab_size=50)
    batch = course.generate_synthetic_batch(batch_size=4, seq_len=10, vocab_size=50, seed=3)
    again = course.generate_synthetic_batch(batch_size=4, seq_len=10, vocab_size=50, seed=3)
    assert torch.equal(batch.token_ids, again.token_ids)
    assert policy(batch.token_ids).shape == (4, 10, 50)
    new = policy.get_log_probs(batch.token_ids)
    assert new.shape == (4, 9)
    changed = batch.token_ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    torch.testing.assert_close(policy.get_log_probs(changed)[:, :-1], new[:, :-1])  # causal
    with torch.no_grad():
        frozen = reference.get_log_probs(batch.token_ids)
    objective, _ = course.grpo_tcr_loss(new, frozen, batch.response_lengths, [1, -1, 0, 1])
    objective.backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert any(g.abs().sum() > 0 for g in gradients)
