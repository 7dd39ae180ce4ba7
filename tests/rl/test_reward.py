"""The length penalty: golden numbers, its zones, both shapes, tensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from talktune.rl.reward import overlong_reward

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["overlong"])
def test_meets_the_golden_numbers(case: dict[str, Any]) -> None:
    penalty = overlong_reward(case["length"], case["l_max"], case["l_cache"])
    assert penalty == pytest.approx(case["penalty"], rel=0, abs=1e-9)


@given(st.integers(0, 2000), st.integers(0, 1000), st.integers(0, 1000))
def test_quadratic_is_minus_the_square_of_linear(n: int, a: int, b: int) -> None:
    l_max, l_cache = max(a, b), min(a, b)
    linear = overlong_reward(n, l_max, l_cache)
    assert overlong_reward(n, l_max, l_cache, "quadratic") == pytest.approx(-(linear**2))
    assert -1 <= overlong_reward(n + 1, l_max, l_cache) <= linear <= 0


def test_no_cache_is_a_hard_limit() -> None:
    assert [overlong_reward(n, 10, 0) for n in (0, 9, 10, 11, 99)] == [0, 0, 0, -1, -1]


@pytest.mark.parametrize("shape", ["linear", "quadratic"])
def test_a_tensor_gives_the_same_numbers(shape: Any) -> None:
    lengths = torch.tensor([[0, 800, 801], [900, 1000, 1300]])
    expected = [[overlong_reward(n, shape=shape) for n in row] for row in lengths.tolist()]
    torch.testing.assert_close(overlong_reward(lengths, shape=shape), torch.tensor(expected))
    doubles = overlong_reward(lengths.double(), shape=shape)
    torch.testing.assert_close(doubles, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"L_max": 100}, "L_cache is 200 and L_max 100"),
        ({"L_cache": -1}, "L_cache is -1"),
        ({"shape": "cubic"}, "shape is 'cubic'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        overlong_reward(10, **options)
