import torch

from talktune.lab.clip import grow, surrogate_and_gradient


def test_the_gradient_ends_where_the_range_does() -> None:
    ratios = torch.tensor([0.5, 1.0, 1.19, 1.21, 1.27, 1.29, 3.0], dtype=torch.float64)
    for eps_high, inside in ((0.2, 3), (0.28, 5), (10.0, 7)):
        values, slopes = surrogate_and_gradient(eps_high, 1.0, ratios)
        assert [slope != 0 for slope in slopes] == [i < inside for i in range(7)]
        assert max(values) <= 1 + eps_high
    _, slopes = surrogate_and_gradient(0.28, -1.0, ratios)
    assert slopes[0] == 0
    assert all(slope != 0 for slope in slopes[1:])


def test_a_wider_range_lets_a_rare_token_grow_further() -> None:
    narrow, higher, loose = (grow(eps_high) for eps_high in (0.2, 0.28, 10.0))
    assert narrow.probability[0] == higher.probability[0] == loose.probability[0]
    for held, bound in ((narrow, 1.2), (higher, 1.28)):
        assert held.stopped_at is not None
        assert held.probability[held.stopped_at - 2] <= bound * held.probability[0] <= held.probability[-1]
        assert held.probability[-1] == held.probability[held.stopped_at - 1]
    assert narrow.probability[-1] < higher.probability[-1] < loose.probability[-1]
