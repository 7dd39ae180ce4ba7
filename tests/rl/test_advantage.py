"""Advantages: golden numbers, every grouping, every variant, the running baseline."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from talktune.rl.advantage import (
    RunningBaseline,
    advantages_for,
    compute_grpo_advantages,
    pooled_advantages,
    zero_variance,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())

values = st.integers(-4, 4).map(lambda n: n / 4)
labelled = st.lists(st.tuples(values, st.sampled_from("abc")), min_size=1, max_size=20)
variants = st.fixed_dictionaries(
    {"scale": st.sampled_from(["std", "none"]), "baseline": st.sampled_from(["mean", "leave-one-out"])}
)


def close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", GOLDEN["advantages"])
def test_meets_the_golden_numbers(case: dict[str, Any]) -> None:
    close(compute_grpo_advantages(case["rewards"]), case["advantages"])
    close(compute_grpo_advantages(torch.tensor(case["rewards"], dtype=torch.float64)), case["advantages"])


@pytest.mark.parametrize("case", GOLDEN["loss"])
def test_meets_the_golden_numbers_of_the_loss(case: dict[str, Any]) -> None:
    close(compute_grpo_advantages(case["rewards"]), case["advantages"])


@given(st.data(), labelled, variants)
def test_permuting_answers_permutes_advantages(
    data: st.DataObject, samples: list[tuple[float, str]], variant: dict[str, Any]
) -> None:
    """Within groups and across them: neither the order of answers nor that of groups matters."""
    order = data.draw(st.permutations(range(len(samples))))
    rewards, groups = zip(*samples, strict=True)
    plain = compute_grpo_advantages(rewards, groups, **variant)
    shuffled = compute_grpo_advantages([rewards[i] for i in order], [groups[i] for i in order], **variant)
    close(shuffled, plain[list(order)])


@given(labelled, variants)
def test_a_group_does_not_see_the_others(samples: list[tuple[float, str]], variant: dict[str, Any]) -> None:
    rewards, groups = zip(*samples, strict=True)
    together = compute_grpo_advantages(rewards, groups, **variant)
    numbers = torch.tensor(["abc".index(label) for label in groups])
    close(compute_grpo_advantages(rewards, numbers, **variant), together)
    for label in set(groups):
        mine = [i for i, group in enumerate(groups) if group == label]
        close(together[mine], compute_grpo_advantages([rewards[i] for i in mine], **variant))


@given(labelled, variants)
def test_no_variance_gives_zeros_and_is_marked(samples: list[tuple[float, str]], variant: dict[str, Any]) -> None:
    rewards, groups = zip(*samples, strict=True)
    advantages = compute_grpo_advantages(rewards, groups, **variant)
    silent = zero_variance(rewards, groups)
    assert torch.isfinite(advantages).all()
    for i, label in enumerate(groups):
        alike = len({r for r, g in samples if g == label}) == 1
        assert bool(silent[i]) == alike
        assert not alike or advantages[i] == 0


@given(st.lists(values, min_size=2, max_size=9))
def test_variants_follow_their_formulas(rewards: list[float]) -> None:
    n, mean = len(rewards), sum(rewards) / len(rewards)
    centred = [r - mean for r in rewards]
    others = [r - (sum(rewards) - r) / (n - 1) for r in rewards]
    close(compute_grpo_advantages(rewards, scale="none"), centred)
    close(compute_grpo_advantages(rewards, scale="none", baseline="leave-one-out"), others)
    std = stdev(rewards) or float("inf")
    close(compute_grpo_advantages(rewards), [x / std for x in centred])
    close(compute_grpo_advantages(rewards, baseline="leave-one-out"), [x / std for x in others])


def test_keeps_the_dtype() -> None:
    assert compute_grpo_advantages([1, 0]).dtype == torch.float64
    assert compute_grpo_advantages(torch.tensor([1, 0])).dtype == torch.float32
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert compute_grpo_advantages(torch.tensor([1, 0], dtype=dtype)).dtype == dtype
    assert compute_grpo_advantages([]).shape == (0,)


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_not_variance(reward: float, dtype: torch.dtype) -> None:
    rewards = torch.full((7,), reward, dtype=dtype)
    assert zero_variance(rewards).all()
    assert (compute_grpo_advantages(rewards) == 0).all()


@given(st.lists(values, min_size=2, max_size=60), st.integers(0, 60))
def test_running_statistics_are_the_weighted_ones(rewards: list[float], cut: int) -> None:
    decay = 0.9
    state = RunningBaseline(decay=decay).update(rewards[:cut]).update(rewards[cut:])
    weights = [decay ** (len(rewards) - 1 - i) for i in range(len(rewards))]
    weights = [w / sum(weights) for w in weights]
    mean = sum(w * r for w, r in zip(weights, rewards, strict=True))
    var = sum(w * (r - mean) ** 2 for w, r in zip(weights, rewards, strict=True))
    assert state.count == len(rewards)
    assert state.mean == pytest.approx(mean, abs=1e-12)
    assert state.var == pytest.approx(var, abs=1e-12)
    assert state.std**2 == pytest.approx(var / (1 - sum(w * w for w in weights)), abs=1e-9)


def test_a_running_baseline_that_forgets_slowly_is_the_plain_one() -> None:
    rewards = [1.0, -1.0, 0.0, 1.0, 1.0]
    state = RunningBaseline(decay=1 - 1e-9).update(rewards)
    assert state.mean == pytest.approx(0.4, abs=1e-6)
    assert state.std == pytest.approx(stdev(rewards), abs=1e-6)


def test_a_running_baseline_compares_with_the_past() -> None:
    state = RunningBaseline()
    close(state.advantages([1.0, -1.0]), [0.0, 0.0])
    close(state.update([1.0]).advantages([1.0, -1.0]), [0.0, -2.0])
    close(state.update([1.0] * 50).advantages([1.0, -1.0]), [0.0, -2.0])
    past = state.update([1.0, 0.0, -1.0, 1.0])
    close(past.advantages([1.0, -1.0]), [(1 - past.mean) / past.std, (-1 - past.mean) / past.std])
    close(past.advantages([1.0], scale="none"), [1 - past.mean])


def test_a_running_baseline_survives_json_exactly() -> None:
    state = RunningBaseline(decay=0.97).update([0.3, -0.7, 1.0])
    assert RunningBaseline(**json.loads(json.dumps(asdict(state)))) == state


def test_each_grouping_means_what_it_says() -> None:
    rewards, groups = [1.0, 0.0, -1.0, -1.0], ["a", "a", "b", "b"]
    state = RunningBaseline().update([0.5, -0.5, 1.0])
    for group in ("prompt", "conversation"):
        close(advantages_for(rewards, groups, group), compute_grpo_advantages(rewards, groups))
    close(advantages_for(rewards, groups, "batch"), compute_grpo_advantages(rewards))
    close(advantages_for(rewards, groups, "running", running=state), state.advantages(rewards))
    close(advantages_for(rewards, groups, "none"), rewards)
    loo = advantages_for(rewards, groups, "prompt", scale="none", baseline="leave-one-out")
    close(loo, [1.0, -1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compute_grpo_advantages([1.0, float("nan")]), "not finite"),
        (lambda: compute_grpo_advantages([1.0], ["a", "b"]), "1 rewards came with 2 group labels"),
        (lambda: compute_grpo_advantages(torch.zeros(2, 2)), r"shape \(2, 2\)"),
        (lambda: compute_grpo_advantages([1.0], scale="var"), "scale is 'var'"),  # pyright: ignore
        (lambda: compute_grpo_advantages([1.0], baseline="min"), "baseline is 'min'"),  # pyright: ignore
        (lambda: advantages_for([1.0], ["a"], "running"), "statistics of past rewards"),
        (lambda: advantages_for([1.0], ["a"], "user"), "group is 'user'"),  # pyright: ignore
        (lambda: RunningBaseline(decay=1.0), "decay is 1.0"),
    ],
)
def test_wrong_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_pooled_advantages_leave_a_group_without_spread_small() -> None:
    # Deviations −1, 1 and −0.1, 0.1: the root of the mean square is √(2.02 / 4).
    found = pooled_advantages([0.0, 2.0, 5.0, 5.2], ["a", "a", "b", "b"])
    root = (2.02 / 4) ** 0.5
    close(found, [-1 / root, 1 / root, -0.1 / root, 0.1 / root])


@given(labelled)
def test_pooled_advantages_have_mean_zero_in_each_group_and_mean_square_one(pairs: list[tuple[float, str]]) -> None:
    rewards, groups = zip(*pairs, strict=True)
    found = pooled_advantages(rewards, groups)
    for group in set(groups):
        assert abs(sum(a for a, g in zip(found.tolist(), groups, strict=True) if g == group)) < 1e-9
    mean_square = float(found.square().mean())
    assert mean_square == pytest.approx(1.0) or not bool(found.any())


@given(st.lists(values, min_size=2, max_size=8), variants)
def test_each_meaning_of_a_group_keeps_scale_and_baseline(rewards: list[float], variant: dict[str, Any]) -> None:
    ones = [0] * len(rewards)
    whole = compute_grpo_advantages(rewards, ones, **variant)
    assert advantages_for(rewards, range(len(rewards)), "batch", **variant).tolist() == whole.tolist()
    assert advantages_for(rewards, ones, "prompt", **variant).tolist() == whole.tolist()
    past = RunningBaseline().update([1.0, -1.0, 0.5])
    found = advantages_for(rewards, ones, "running", running=past, **variant)
    assert found.tolist() == past.advantages(rewards, scale=variant["scale"]).tolist()


@pytest.mark.parametrize("group", ["prompt", "batch", "running", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_advantages_have_the_rewards_type(group: Any, dtype: torch.dtype) -> None:
    rewards = torch.tensor([1.0, -1.0, 0.0], dtype=dtype)
    for past in (RunningBaseline(), RunningBaseline().update([1.0, -1.0])):
        assert advantages_for(rewards, [0, 0, 0], group, running=past).dtype == dtype
    assert pooled_advantages(rewards, [0, 0, 0]).dtype == dtype


def test_a_decay_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="decay"):
        RunningBaseline(decay=0.0)
