import pytest

from talktune.lab.overlong import L_CACHE, L_MAX
from talktune.rl.reward import overlong_reward


def test_the_zone_of_the_picture_is_that_of_the_rule(results: dict) -> None:
    assert overlong_reward(L_MAX - L_CACHE, L_MAX, L_CACHE) == 0
    assert overlong_reward(L_MAX, L_MAX, L_CACHE) == -1
    middle = L_MAX - L_CACHE / 2
    assert overlong_reward(middle, L_MAX, L_CACHE) == pytest.approx(-0.5)
    assert overlong_reward(middle, L_MAX, L_CACHE, "quadratic") == pytest.approx(-0.25)
    assert results["overlong"]["numbers"]
