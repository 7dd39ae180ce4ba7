from itertools import permutations
from math import log, sqrt

import pytest
import torch

from talktune.rl.trust import LEAST, concordance, earned_trust, expert_weights, log_losses, mixed

PRIOR = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)


def test_losses_are_of_what_came_true():
    p = torch.tensor([[[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]], dtype=torch.float64)
    assert log_losses(p, torch.tensor([2])).tolist() == [pytest.approx([-log(0.5), -log(0.8)])]


def test_weights_are_by_bayes():
    losses = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.2, 0.5]], dtype=torch.float64)
    weights = expert_weights(losses, PRIOR)
    assert weights[0].tolist() == pytest.approx(PRIOR.tolist())
    wanted = PRIOR * torch.exp(-losses[1])
    assert weights[1].tolist() == pytest.approx((wanted / wanted.sum()).tolist())


def test_a_mixture_is_the_weighted_mean():
    told = torch.randn(5, 3, 3, dtype=torch.float64).softmax(-1)
    weights = expert_weights(torch.rand(3, dtype=torch.float64), PRIOR)
    assert torch.allclose(mixed(told, weights), sum(told[:, k] * weights[k] for k in range(3)))


def test_order_counts_pairs_with_different_verdicts():
    # Pairs (0, 1), (0, 2), (1, 2) of classes: two in order, one not; a tie of scores is neither.
    assert concordance(torch.tensor([0.1, 0.3, 0.2]), torch.tensor([0, 1, 2]))[0] == pytest.approx(1 / 3)
    assert concordance(torch.tensor([0.1, 0.3, 0.3]), torch.tensor([0, 1, 2]))[0] == pytest.approx(2 / 3)


def test_the_error_of_two_classes_is_that_of_mann_and_whitney():
    scores, classes = torch.arange(12.0), torch.tensor([0, 2, 0, 0, 2, 0, 0, 0, 2, 2, 0, 0])
    few, many = 4, 8
    assert concordance(scores, classes)[1] == pytest.approx(2 * sqrt((few + many + 1) / (12 * few * many)))


@pytest.mark.parametrize("ties", [False, True], ids=["scores differ", "scores tie"])
def test_the_error_is_the_spread_over_all_orders(ties: bool):
    scores = torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0, 2.0] if ties else [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    classes = [0, 0, 1, 1, 2, 0]
    found = [concordance(scores, torch.tensor(order))[0] for order in permutations(classes)]
    spread = torch.tensor(found, dtype=torch.float64).std(correction=0)
    assert concordance(scores, torch.tensor(classes))[1] == pytest.approx(float(spread))


def test_trust_is_the_order_shrunk_by_its_error():
    scores, classes = torch.arange(20.0), torch.tensor([0] * 10 + [1] * 10)
    error = concordance(scores, classes)[1]
    assert earned_trust(scores, classes) == pytest.approx(1 - error**2)
    assert earned_trust(-scores, classes) == 0.0


def test_an_order_within_one_error_earns_nothing():
    scores, classes = torch.tensor([1.0, 0, 0, 0, 0, 1, 0, 1, 0, 0]), torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    order, error = concordance(scores, classes)
    assert 0 < order < error
    assert earned_trust(scores, classes) == 0.0


def test_few_predictions_and_alike_ones_earn_nothing():
    assert earned_trust(torch.arange(LEAST - 1.0), torch.arange(LEAST - 1)) == 0.0
    assert earned_trust(torch.arange(20.0), torch.zeros(20)) == 0.0
    assert earned_trust(torch.zeros(20), torch.arange(20) % 3) == 0.0


def test_scores_that_say_nothing_are_believed_one_time_in_six_and_little():
    made = torch.Generator().manual_seed(0)
    trusts = [
        earned_trust(torch.rand(64, generator=made), torch.randint(0, 3, (64,), generator=made)) for _ in range(500)
    ]
    assert 0.10 < sum(trust > 0 for trust in trusts) / 500 < 0.22
    assert sum(trusts) / 500 < 0.025
