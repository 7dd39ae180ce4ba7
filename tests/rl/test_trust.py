from math import log, sqrt

import pytest
import torch

from talktune.rl.trust import LEAST, earned_trust, expert_weights, log_losses, mixed

PRIOR = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)


def test_losses_are_of_what_came_true():
    p = torch.tensor([[[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]], dtype=torch.float64)
    assert log_losses(p, torch.tensor([2])).tolist() == [pytest.approx([-log(0.5), -log(0.8)])]


def test_the_first_weights_are_the_prior_and_the_last_are_by_bayes():
    losses = torch.tensor([[0.1, 0.2, 0.3], [1.0, 0.0, 0.5]], dtype=torch.float64)
    weights = expert_weights(losses, PRIOR)
    assert weights[0].tolist() == pytest.approx(PRIOR.tolist())
    wanted = PRIOR * torch.exp(-losses.sum(0))
    assert weights[2].tolist() == pytest.approx((wanted / wanted.sum()).tolist())


@pytest.mark.parametrize("seed", range(20))
def test_a_mixture_loses_no_more_than_the_log_of_its_prior_against_any_expert(seed: int):
    torch.manual_seed(seed)
    told, classes = torch.randn(60, 3, 3, dtype=torch.float64).softmax(-1), torch.randint(0, 3, (60,))
    losses = log_losses(told, classes)
    mixture = log_losses(mixed(told, expert_weights(losses, PRIOR)[:-1])[:, None], classes).sum()
    # Equal to −log Σ prior exp(−loss), so within −log prior of each.
    assert float(mixture) == pytest.approx(-float(torch.logsumexp(PRIOR.log() - losses.sum(0), 0)))
    assert bool((mixture <= losses.sum(0) - PRIOR.log() + 1e-9).all())


def test_trust_is_the_root_of_the_share_that_is_saved():
    gains, losses = torch.full((20,), 0.09, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    assert earned_trust(gains, losses) == pytest.approx(0.3)
    assert earned_trust(gains * 100, losses) == 1.0


def test_trust_takes_the_band_off():
    gains = torch.tensor([0.0, 0.5] * 10, dtype=torch.float64)
    low = 0.25 - float(gains.std()) / sqrt(20)
    assert earned_trust(gains, torch.ones(20, dtype=torch.float64)) == pytest.approx(sqrt(low))
    assert earned_trust(gains, torch.ones(20, dtype=torch.float64), band=10.0) == 0.0


def test_few_predictions_and_losses_earn_nothing():
    assert earned_trust(torch.ones(LEAST - 1), torch.ones(LEAST - 1)) == 0.0
    assert earned_trust(-torch.ones(50), torch.ones(50)) == 0.0
    assert earned_trust(torch.zeros(50), torch.zeros(50)) == 0.0
