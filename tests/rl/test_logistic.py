import pytest
import torch

from talktune.rl.logistic import base_rate, fit_weight, probabilities


def test_the_base_rate_is_the_shares_with_half_a_case_of_each():
    rate = base_rate(torch.tensor([0, 0, 0, 2]))
    assert rate.tolist() == pytest.approx([3.5 / 5.5, 0.5 / 5.5, 1.5 / 5.5])
    assert base_rate(torch.tensor([], dtype=torch.long)).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("n", "width"), [(30, 4), (10, 50)], ids=["more cases", "more features"])
def test_a_fit_stands_where_the_gradient_is_zero(n: int, width: int):
    torch.manual_seed(n)
    x, y = torch.randn(n, width, dtype=torch.float64), torch.randint(0, 3, (n,))
    base = base_rate(y)
    weight = fit_weight(x, y, base, 0.7)
    wanted = torch.nn.functional.one_hot(y, 3).double()
    residual = x.T @ (wanted - probabilities(x, weight, base))
    assert torch.allclose(weight, 0.7**2 * residual, atol=1e-8)


def test_one_feature_of_two_opposite_cases_has_its_closed_form():
    # By symmetry W = (−w, 0, w) with w = s² · 2 (1 − p(+1 | x = 1)) − … : p = e^w π / Z; solved by bisection here.
    x, y = torch.tensor([[-1.0], [1.0]], dtype=torch.float64), torch.tensor([0, 2])
    base, s = torch.full((3,), 1 / 3, dtype=torch.float64), 1.5

    def residual(w: float) -> float:
        p = torch.tensor([-w, 0.0, w], dtype=torch.float64).softmax(0)
        return float((1 - p[2]) + p[0]) - w / s**2

    low, high = 0.0, 10.0
    for _ in range(100):
        low, high = (low, (low + high) / 2) if residual((low + high) / 2) < 0 else ((low + high) / 2, high)
    assert fit_weight(x, y, base, s)[0].tolist() == pytest.approx([-low, 0.0, low], abs=1e-9)


def test_without_room_to_move_it_is_the_base_rate():
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 3
    base = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    p = probabilities(x, fit_weight(x, y, base, 1e-6), base)
    assert torch.allclose(p, base.expand_as(p), atol=1e-9)


def test_no_features_are_the_base_rate():
    x, y = torch.zeros(5, 0, dtype=torch.float64), torch.zeros(5, dtype=torch.long)
    weight = fit_weight(x, y, base_rate(y), 1.0)
    assert weight.shape == (0, 3)
