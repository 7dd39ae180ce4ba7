"""The loss: golden values and gradient, padding, micro-batches, and what each KL's gradient really is."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from talktune.rl.loss import MAX_KL_RATIO, clip_higher, grpo_tcr_loss, importance_weights, kl_estimate, surrogate
from talktune.rl.metrics import METRICS, merge

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
OBJECTIVES = [(i, key) for i, case in enumerate(GOLDEN["loss"]) for key in case["objective"]]
WRONG = [float("nan"), float("inf"), -float("inf"), 1e30]

Batch = dict[str, Tensor]
kinds = st.sampled_from(["k1", "k2", "k3", "k3xratio"])
options = st.fixed_dictionaries(
    {
        "kl": kinds,
        "beta": st.sampled_from([0.0, 0.05]),
        "aggregation": st.sampled_from(["token", "sequence"]),
        "dual_clip": st.sampled_from([None, 1.5]),
    }
)
lengths = st.lists(st.integers(0, 6), min_size=1, max_size=6)


def golden_batch(case: dict[str, Any]) -> Batch:
    keys = {"new": "log_probs_new", "old": "log_probs_old", "ref": "log_probs_ref", "mask": "mask"}
    batch = {name: torch.tensor(case[key], dtype=torch.float64) for name, key in keys.items()}
    return batch | {"advantages": torch.tensor(case["advantages"], dtype=torch.float64)}


def random_batch(lengths: Sequence[int], seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    shape = (len(lengths), 6)
    new = -2 + 0.5 * torch.randn(shape, generator=g, dtype=torch.float64)
    return {
        "new": new,
        "old": new + 0.4 * torch.randn(shape, generator=g, dtype=torch.float64),
        "ref": new + 0.4 * torch.randn(shape, generator=g, dtype=torch.float64),
        "advantages": torch.randn(shape[0], generator=g, dtype=torch.float64),
        "mask": torch.arange(shape[1]) < torch.tensor(lengths)[:, None],
        "weights": 2 * torch.rand(shape, generator=g, dtype=torch.float64),
        "entropy": torch.rand(shape, generator=g, dtype=torch.float64),
    }


def run(batch: Batch, **options: Any) -> tuple[float, Tensor, dict[str, float]]:
    """Loss, its gradient by the new log-probs, metrics."""
    new = batch["new"].clone().requires_grad_()
    loss, metrics = grpo_tcr_loss(**{**batch, "new": new, **options})
    loss.backward()
    assert new.grad is not None
    return loss.item(), new.grad, metrics


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("case", "key"), OBJECTIVES)
def test_meets_the_golden_objectives(case: int, key: str) -> None:
    aggregation, kl, beta = key.split("/")
    batch = golden_batch(GOLDEN["loss"][case])
    settings: dict[str, Any] = {"aggregation": aggregation, "beta": float(beta.removeprefix("beta="))}
    settings |= {"ref": None} if kl == "none" else {"kl": kl}
    loss, _, metrics = run(batch, **settings)
    assert -loss == pytest.approx(GOLDEN["loss"][case]["objective"][key], rel=0, abs=1e-9)
    assert metrics["loss"] == loss


@pytest.mark.parametrize("case", GOLDEN["loss"])
def test_meets_the_golden_gradient(case: dict[str, Any]) -> None:
    _, gradient, _ = run(golden_batch(case), beta=0.01)
    expected = torch.tensor(case["gradient of objective, token/k3xratio/beta=0.01"], dtype=torch.float64)
    close(-gradient, expected, 1e-6)


@given(lengths, options, st.lists(st.sampled_from(WRONG), min_size=1, max_size=5), st.integers(0, 3))
def test_padding_changes_nothing(lengths: list[int], options: dict[str, Any], wrong: list[float], columns: int) -> None:
    """NaN and infinities in padding, whole columns and rows of it: equal to the last bit."""
    batch = random_batch(lengths)
    clean = run(batch, **options)
    dirt = torch.tensor(wrong, dtype=torch.float64).repeat(6 * 9)

    def soil(x: Tensor) -> Tensor:
        wide = torch.cat([x, x.new_zeros(len(x), columns)], dim=1)
        mask = torch.cat([batch["mask"], torch.zeros(len(x), columns, dtype=torch.bool)], dim=1)
        return torch.where(mask, wide, dirt[: wide.numel()].reshape(wide.shape))

    per_token = batch["advantages"][:, None].expand(batch["new"].shape)
    dirty = {name: soil(x) for name, x in batch.items() if name not in ("advantages", "mask")}
    dirty["advantages"] = soil(per_token)
    dirty["mask"] = torch.cat([batch["mask"], torch.zeros(len(lengths), columns, dtype=torch.bool)], dim=1)
    loss, gradient, metrics = run(dirty, **options)
    assert loss == clean[0]
    assert metrics == clean[2]
    assert torch.equal(gradient[:, :6], clean[1])
    assert (gradient[:, 6:] == 0).all()
    assert torch.equal(gradient[:, :6] * ~batch["mask"], torch.zeros_like(batch["new"]))


@given(st.data(), lengths, options)
def test_any_cut_into_micro_batches_gives_the_same_update(
    data: st.DataObject, lengths: list[int], options: dict[str, Any]
) -> None:
    batch = random_batch(lengths)
    total = sum(lengths) if options["aggregation"] == "token" else sum(n > 0 for n in lengths)
    loss, gradient, metrics = run(batch, **options)
    part_of = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    parts: list[dict[str, float]] = []
    summed_loss, summed = 0.0, torch.zeros_like(gradient)
    for part in set(part_of):
        rows = [i for i, p in enumerate(part_of) if p == part]
        part_loss, part_gradient, part_metrics = run({k: x[rows] for k, x in batch.items()}, total=total, **options)
        summed_loss += part_loss
        summed[rows] += part_gradient
        parts.append(part_metrics)
    assert summed_loss == pytest.approx(loss, rel=0, abs=1e-12)
    close(summed, gradient)
    assert merge(parts) == pytest.approx(metrics, rel=1e-12, abs=1e-12)


@given(st.data(), lengths, options)
def test_the_order_of_answers_does_not_matter(data: st.DataObject, lengths: list[int], options: dict[str, Any]) -> None:
    batch = random_batch(lengths)
    order = data.draw(st.permutations(range(len(lengths))))
    loss, gradient, _ = run(batch, **options)
    shuffled_loss, shuffled, _ = run({k: x[list(order)] for k, x in batch.items()}, **options)
    assert shuffled_loss == pytest.approx(loss, rel=0, abs=1e-12)
    close(shuffled, gradient[list(order)])


def test_advantages_per_token_and_per_answer_agree() -> None:
    batch = random_batch([3, 6, 1])
    wide = batch["advantages"][:, None].expand(3, 6)
    assert run(batch)[0] == run(batch, advantages=wide)[0]


def test_a_batch_without_valid_tokens_is_zero() -> None:
    batch = random_batch([0, 0])
    for aggregation in ("token", "sequence"):
        loss, gradient, metrics = run({**batch, "new": batch["new"] * float("nan")}, aggregation=aggregation)
        assert loss == 0
        assert (gradient == 0).all()
        assert metrics == {"loss": 0, "objective": 0, "tokens": 0}


def test_on_policy_old_may_be_the_new_log_probs_themselves() -> None:
    batch = random_batch([6, 6])
    new = batch["new"].clone().requires_grad_()
    loss, _ = grpo_tcr_loss(new, new, None, batch["advantages"], batch["mask"])
    loss.backward()
    close(-new.grad, batch["advantages"][:, None].expand(2, 6) / 12)  # pyright: ignore[reportOptionalOperand]


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual_clip", "expected", "moves"),
    [
        (1.1, 1.0, None, 1.1, True),
        (1.5, 1.0, None, 1.28, False),
        (0.5, 1.0, None, 0.5, True),
        (0.5, -1.0, None, -0.8, False),
        (1.5, -1.0, None, -1.5, True),
        (9.0, -1.0, None, -9.0, True),
        (9.0, -1.0, 3.0, -3.0, False),
        (1.5, -1.0, 3.0, -1.5, True),
        (9.0, 1.0, 3.0, 1.28, False),
    ],
)
def test_the_surrogate_and_where_its_gradient_stops(
    ratio: float, advantage: float, dual_clip: float | None, expected: float, moves: bool
) -> None:
    rho = torch.tensor(ratio, dtype=torch.float64, requires_grad=True)
    s = surrogate(rho, torch.tensor(advantage, dtype=torch.float64), dual_clip=dual_clip)
    s.backward()
    assert s.item() == pytest.approx(expected)
    assert float(rho.grad) == (advantage if moves else 0)  # pyright: ignore[reportArgumentType]


def test_clip_higher_has_a_wider_upper_range() -> None:
    ratio = torch.tensor([0.5, 0.9, 1.0, 1.25, 2.0])
    close(clip_higher(ratio), torch.tensor([0.8, 0.9, 1.0, 1.25, 1.28]))
    close(clip_higher(ratio, 0.2, 10.0), torch.tensor([0.8, 0.9, 1.0, 1.25, 2.0]))


def test_metrics_say_what_happened() -> None:
    ratio = torch.tensor([[1.5, 0.5, 1.0, 99.0], [0.5, 1.5, 0.7, 99.0]], dtype=torch.float64)
    new = torch.full_like(ratio, -1.0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]])
    entropy = torch.full_like(ratio, 0.25)
    loss, metrics = grpo_tcr_loss(
        new, new - ratio.log(), new - 0.5, torch.tensor([1.0, -1.0]), mask, beta=0.1, kl="k1", entropy=entropy
    )
    objective = (1.28 + 0.5 + 1.0 - 0.8 - 1.5 - 0.8) / 6
    expected = {
        "loss": -(objective - 0.1 * 0.5),
        "objective": objective,
        "ratio_mean": 5.7 / 6,
        "ratio_max": 1.5,
        "clipped_low": 2 / 6,
        "clipped_high": 1 / 6,
        "kl_ref": 0.10653065971263342,  # e^-0.5 - 1 + 0.5
        "entropy": 0.25,
        "tokens": 6,
    }
    assert metrics == pytest.approx(expected)
    assert loss.item() == metrics["loss"]
    assert set(metrics) <= set(METRICS)
    assert all(type(value) is float for value in metrics.values())


def test_importance_weights_are_truncated_and_weigh_the_surrogate_only() -> None:
    old, rollout = torch.tensor([[-1.0, -1.0, -1.0]]), torch.tensor([[-1.0, -9.0, 0.0]])
    weights = importance_weights(old.requires_grad_(), rollout)
    assert not weights.requires_grad
    close(weights, torch.tensor([[1.0, 2.0, torch.tensor(-1.0).exp()]]), 1e-7)
    batch = random_batch([6, 4])
    plain, weighted = run(batch, weights=None, beta=0.1), run(batch, weights=batch["new"] * 0 + 2, beta=0.1)
    assert weighted[2]["objective"] == pytest.approx(2 * plain[2]["objective"])
    kl_term = plain[0] + plain[2]["objective"]
    assert weighted[0] + weighted[2]["objective"] == pytest.approx(kl_term)


@given(kinds, st.floats(-15, 15), st.floats(-3, 3))
def test_kl_estimates_follow_their_formulas(kind: Any, d: float, step: float) -> None:
    new = torch.tensor([-20.0], dtype=torch.float64)
    k3 = math.exp(-d) - 1 + d
    expected = {"k1": d, "k2": d * d / 2, "k3": k3, "k3xratio": min(math.exp(step), MAX_KL_RATIO) * k3}
    actual = kl_estimate(new, new - d, kind, new - step)
    assert actual.item() == pytest.approx(expected[kind], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("kind", "exact"), [("k1", False), ("k2", True), ("k3", False), ("k3xratio", True)])
@pytest.mark.parametrize("given_old", [True, False])
def test_the_expected_gradient_of_each_kl(
    kind: Literal["k1", "k2", "k3", "k3xratio"], exact: bool, given_old: bool
) -> None:
    """On policy, over all tokens of a categorical: k1's is zero, k3xratio's the exact reverse KL's."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-0.5, 0.6, 0.2, 0.0], dtype=torch.float64).log_softmax(-1)
    new = logits.log_softmax(-1)
    probs = new.detach().exp()
    estimate = kl_estimate(new, ref, kind, new.detach() if given_old else None)
    (sampled,) = torch.autograd.grad((probs * estimate).sum(), logits, retain_graph=True)
    (true,) = torch.autograd.grad((new.exp() * (new - ref)).sum(), logits)
    assert true.norm() > 0.1
    assert torch.allclose(sampled, true, rtol=0, atol=1e-12) == exact
    if kind == "k1":
        assert sampled.norm() < 1e-12
    if kind in ("k1", "k3", "k3xratio"):  # unbiased in value
        assert (probs * estimate).sum().item() == pytest.approx((probs * (new - ref)).sum().item())


def test_k3xratio_stays_exact_off_policy() -> None:
    g = torch.Generator().manual_seed(1)
    logits, behaviour, reference = torch.randn(3, 5, generator=g, dtype=torch.float64)
    logits.requires_grad_()
    new, old, ref = logits.log_softmax(-1), behaviour.log_softmax(-1), reference.log_softmax(-1)
    (sampled,) = torch.autograd.grad((old.exp() * kl_estimate(new, ref, "k3xratio", old)).sum(), logits)
    (true,) = torch.autograd.grad((logits.softmax(-1) * (logits.log_softmax(-1) - ref)).sum(), logits)
    close(sampled, true)


@pytest.mark.parametrize("far", [-200.0, 200.0])
@pytest.mark.parametrize("kl", ["k1", "k2", "k3", "k3xratio"])
def test_extreme_log_probs_stay_finite(far: float, kl: str) -> None:
    batch = {name: x.float() if x.is_floating_point() else x for name, x in random_batch([6, 6]).items()}
    for name in ("old", "ref"):
        loss, gradient, metrics = run({**batch, name: batch["new"] + far}, beta=0.05, kl=kl)
        assert torch.isfinite(torch.tensor([loss, *metrics.values()])).all()
        assert torch.isfinite(gradient).all()


def test_a_sampler_that_is_wrong_by_thousands_of_nats_does_not_become_all_of_the_gradient() -> None:
    """vLLM writes −9999 where it has no log-prob."""
    batch = random_batch([6, 6])
    batch["advantages"] = batch["advantages"].abs()
    batch["old"][0, 2] = -9999.0
    _, wrong, metrics = run(batch, beta=0.05, kl="k3xratio")
    batch["old"][0, 2] = batch["new"][0, 2]
    _, right, _ = run(batch, beta=0.05, kl="k3xratio")
    assert metrics["ratio_max"] > 1e8
    assert wrong.norm() < 10 * right.norm()


def test_half_precision_is_computed_in_single() -> None:
    batch = {name: x.bfloat16() if x.is_floating_point() else x for name, x in random_batch([6, 3]).items()}
    loss, _ = grpo_tcr_loss(**batch)  # pyright: ignore[reportArgumentType]
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ref": None, "beta": 0.1}, "beta is 0.1 but ref is None"),
        ({"kl": "k4", "beta": 0.1}, "kl is 'k4'"),
        ({"aggregation": "batch"}, "aggregation is 'batch'"),
        ({"dual_clip": 1.0}, "dual_clip is 1.0"),
        ({"old": torch.zeros(2, 5)}, r"old has shape \(2, 5\)"),
        ({"new": torch.zeros(6)}, r"new has shape \(6,\)"),
        ({"advantages": torch.zeros(6)}, r"advantages have shape \(6,\)"),
    ],
)
def test_wrong_input_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        grpo_tcr_loss(**{**random_batch([6, 3]), **change})
