"""Self-distillation: golden numbers, the gradient derived by hand, padding, micro-batches, what the centring does."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from talktune.rl.distill import centred_gaps, distill_loss
from talktune.rl.metrics import METRICS, merge

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "golden_distill.json").read_text())
WRONG = [float("nan"), float("inf"), -float("inf"), 1e30]
T, K, V = 5, 4, 9

Batch = dict[str, Tensor]
lengths = st.lists(st.integers(0, T), min_size=1, max_size=5)
seeds = st.integers(0, 10_000)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def random_batch(lengths: Sequence[int], seed: int = 0, moved: float = 0.4) -> Batch:
    """Log-probs of K of V tokens; `moved` says how far the new policy is from the old one."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(lengths), T, V, generator=g, dtype=torch.float64)

    def near(spread: float) -> Tensor:
        other = logits + spread * torch.randn(logits.shape, generator=g, dtype=torch.float64)
        return other.log_softmax(-1)[..., :K]

    return {
        "old": near(0),
        "new": near(moved),
        "teacher": near(1.5),
        "mask": torch.arange(T) < torch.tensor(lengths)[:, None],
    }


def run(batch: Batch, **options: Any) -> tuple[float, Tensor, dict[str, float]]:
    """Loss, its gradient by the new log-probs, metrics."""
    new = batch["new"].clone().requires_grad_()
    loss, metrics = distill_loss(**{**batch, "new": new, **options})
    loss.backward()
    assert new.grad is not None
    return loss.item(), new.grad, metrics


@pytest.mark.parametrize("case", GOLDEN)
def test_meets_the_golden_numbers(case: dict[str, Any]) -> None:
    """Candidates, gaps, loss and the gradient by the logits, computed with 50 digits and central differences."""
    names = ("old_logits", "teacher_logits", "new_logits")
    old_z, teacher_z, new_z = (torch.tensor(case[name], dtype=torch.float64) for name in names)
    new_z.requires_grad_()
    temperature, bound = float(case["temperature"]), float(case["bound"])
    old, teacher, new = ((z / temperature).log_softmax(-1) for z in (old_z, teacher_z, new_z))
    top = old.topk(case["k"]).indices
    mask = torch.tensor(case["mask"]) != 0
    old, teacher, new = (x.gather(2, top) for x in (old, teacher, new))
    gaps = centred_gaps(teacher, old, bound)
    for b, valid in enumerate(mask):
        assert top[b, valid].tolist() == case["candidates"][b]
        close(gaps[b, valid], torch.tensor(case["gaps"][b], dtype=torch.float64))
    settings = {"eps_low": float(case["eps_low"]), "eps_high": float(case["eps_high"]), "bound": bound}
    loss, metrics = distill_loss(new, old, teacher, mask, **settings)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=0, abs=1e-12)
    assert metrics["distill_loss"] == loss.item()
    assert new_z.grad is not None
    close(new_z.grad, torch.tensor(case["gradient"], dtype=torch.float64))


@given(seeds, st.sampled_from([0.0, 0.1, 0.8]))
def test_the_gradient_is_the_one_that_was_derived_by_hand(seed: int, moved: float) -> None:
    g = torch.Generator().manual_seed(seed)
    old_z, teacher_z, by = torch.randn(3, 1, T, V, generator=g, dtype=torch.float64)
    z = (old_z + moved * by).requires_grad_()
    top = old_z.topk(K).indices
    old, teacher, new = (x.log_softmax(-1).gather(2, top) for x in (old_z, teacher_z, z))
    loss, _ = distill_loss(new, old, teacher, torch.ones(1, T))
    loss.backward()
    gap = centred_gaps(teacher, old)
    ratio = (new - old).detach().exp()
    follows = torch.where(gap > 0, ratio <= 1.28, ratio >= 0.8)
    push = new.detach().exp() * gap * follows
    p = z.detach().softmax(-1)
    expected = torch.zeros_like(p).scatter_(2, top, push) - p * push.sum(-1, keepdim=True)
    assert z.grad is not None
    close(-z.grad, expected / T)
    if moved == 0:
        close(-z.grad, torch.zeros_like(p).scatter_(2, top, new.detach().exp() * gap) / T)


@given(seeds)
def test_it_falls_along_the_kl_on_the_candidates(seed: int) -> None:
    """On the first step and without clipping: P_t times the gradient of KL(p‖p̄), both on the K candidates alone."""
    g = torch.Generator().manual_seed(seed)
    z, teacher_z = torch.randn(2, 1, T, V, generator=g, dtype=torch.float64)
    z.requires_grad_()
    top = z.topk(K).indices
    new, teacher = z.log_softmax(-1).gather(2, top), teacher_z.log_softmax(-1).gather(2, top)
    loss, _ = distill_loss(new, new, teacher, torch.ones(1, T), bound=1e9)
    (ours,) = torch.autograd.grad(loss, z, retain_graph=True)
    p, q = new.log_softmax(-1), teacher.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    (theirs,) = torch.autograd.grad((kl * new.detach().exp().sum(-1)).mean(), z)
    close(ours, theirs)


@given(lengths, st.lists(st.sampled_from(WRONG), min_size=1, max_size=5), st.integers(0, 3))
def test_padding_changes_nothing(lengths: list[int], wrong: list[float], columns: int) -> None:
    """NaN and infinities in padding, whole columns and rows of it: equal to the last bit."""
    batch = random_batch(lengths)
    clean = run(batch)
    dirt = torch.tensor(wrong, dtype=torch.float64).repeat(5 * 8 * K)
    mask = torch.cat([batch["mask"], torch.zeros(len(lengths), columns, dtype=torch.bool)], dim=1)

    def soil(x: Tensor) -> Tensor:
        wide = torch.cat([x, x.new_zeros(len(x), columns, K)], dim=1)
        return torch.where(mask[..., None], wide, dirt[: wide.numel()].reshape(wide.shape))

    loss, gradient, metrics = run({name: mask if name == "mask" else soil(x) for name, x in batch.items()})
    assert (loss, metrics) == (clean[0], clean[2])
    assert torch.equal(gradient[:, :T], clean[1])
    assert (gradient[~mask] == 0).all()


@given(st.data(), lengths)
def test_any_cut_into_micro_batches_gives_the_same_update(data: st.DataObject, lengths: list[int]) -> None:
    batch = random_batch(lengths)
    loss, gradient, metrics = run(batch)
    part_of = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    parts: list[dict[str, float]] = []
    summed_loss, summed = 0.0, torch.zeros_like(gradient)
    for part in set(part_of):
        rows = [i for i, p in enumerate(part_of) if p == part]
        part_loss, part_gradient, found = run({k: x[rows] for k, x in batch.items()}, total=sum(lengths))
        summed_loss += part_loss
        summed[rows] += part_gradient
        parts.append(found)
    assert summed_loss == pytest.approx(loss, rel=0, abs=1e-12)
    close(summed, gradient)
    assert merge(parts) == pytest.approx(metrics, rel=1e-12, abs=1e-12)


@given(st.permutations(range(K)), st.permutations(range(3)))
def test_the_order_of_candidates_and_answers_does_not_matter(order: list[int], rows: list[int]) -> None:
    batch = random_batch([5, 0, 3])
    loss, gradient, metrics = run(batch)
    shuffled = {name: x[rows] if name == "mask" else x[rows][..., order] for name, x in batch.items()}
    again, moved, found = run(shuffled)
    assert again == pytest.approx(loss, rel=0, abs=1e-12)
    assert found == pytest.approx(metrics)
    close(moved, gradient[rows][..., order])


@given(seeds, st.sampled_from([0.1, 1.0, 3.0]))
def test_gaps_are_centred_and_bounded(seed: int, bound: float) -> None:
    batch = random_batch([5, 5], seed)
    gap = centred_gaps(batch["teacher"], batch["old"], bound)
    weighted = batch["old"].exp() * gap
    close(weighted.sum(-1), torch.zeros(2, T, dtype=torch.float64), 1e-15)  # and so over each answer, however long
    assert gap.abs().max() <= 2 * bound
    assert ((gap[..., :, None] - gap[..., None, :]).abs() <= 2 * bound + 1e-12).all()


def test_far_gaps_count_as_one_nat() -> None:
    batch = random_batch([5, 5])
    step = torch.tensor([3.0, 1.0, -1.0, -7.0], dtype=torch.float64)
    far, near = batch["old"] + step, batch["old"] + step.clamp(-1, 1)
    assert run({**batch, "teacher": far})[0] == run({**batch, "teacher": near})[0]
    probs = batch["old"].exp()
    metrics = run({**batch, "teacher": far})[2]
    share = probs / probs.sum(-1, keepdim=True)
    assert metrics["distill_gap"] == pytest.approx((share * step.abs()).sum(-1).mean().item())
    assert 0 < metrics["distill_clipped"] < 1
    assert METRICS.keys() >= metrics.keys()
    assert metrics["distill_tokens"] == 10


@given(seeds, st.floats(-1, 1))
def test_a_teacher_that_says_the_same_of_all_candidates_moves_nothing(seed: int, shift: float) -> None:
    """Also at one token among others, whatever the teacher says of those: so nothing pulls at the end of the turn."""
    batch = random_batch([5], seed, moved=0.0)
    teacher = batch["teacher"].clone()
    teacher[0, 2] = batch["old"][0, 2] + shift
    _, gradient, _ = run({**batch, "new": batch["old"], "teacher": teacher})
    close(gradient[0, 2], torch.zeros(K, dtype=torch.float64), 1e-15)
    assert gradient.abs().max() > 0


def test_a_teacher_who_agrees_leaves_no_gradient() -> None:
    batch = random_batch([5, 3])
    loss, gradient, metrics = run({**batch, "teacher": batch["old"]})
    assert loss == 0
    assert (gradient == 0).all()
    assert (metrics["distill_gap"], metrics["distill_clipped"]) == (0, 0)


def test_tokens_beyond_the_clip_are_left_alone() -> None:
    old = torch.full((1, 1, 2), -1.0, dtype=torch.float64)
    teacher = old + torch.tensor([0.5, -0.5], dtype=torch.float64)
    for ratio, moves in (((1.3, 0.7), (0, 0)), ((1.2, 0.9), (1, 1)), ((0.5, 1.5), (1, 1))):
        new = old + torch.tensor(ratio, dtype=torch.float64).log()
        _, gradient, _ = run({"new": new, "old": old, "teacher": teacher, "mask": torch.ones(1, 1)})
        assert [int(x != 0) for x in gradient[0, 0]] == list(moves)


def test_extreme_log_probs_stay_finite_and_half_precision_is_computed_in_single() -> None:
    batch = {name: x.float() if x.is_floating_point() else x for name, x in random_batch([5, 5]).items()}
    for name, far in (("old", -200.0), ("new", -200.0), ("teacher", -200.0), ("teacher", 200.0)):
        loss, gradient, metrics = run({**batch, name: batch["new"] + far})
        assert torch.isfinite(torch.tensor([loss, *metrics.values()])).all()
        assert torch.isfinite(gradient).all()
    half = {name: x.bfloat16() if x.is_floating_point() else x for name, x in batch.items()}
    assert distill_loss(**half)[0].dtype == torch.float32


def test_a_batch_without_valid_tokens_is_zero() -> None:
    batch = random_batch([0, 0])
    loss, gradient, metrics = run({**batch, "new": batch["new"] * float("nan")})
    assert loss == 0
    assert (gradient == 0).all()
    assert metrics == {"distill_loss": 0, "distill_tokens": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"new": torch.zeros(2, T)}, r"new has shape \(2, 5\)"),
        ({"mask": torch.zeros(2, 3)}, r"mask \(2, 3\)"),
        ({"old": torch.zeros(2, T, 3)}, r"old has shape \(2, 5, 3\)"),
        ({"teacher": torch.zeros(2, T)}, r"teacher has shape \(2, 5\)"),
        ({"bound": 0.0}, "bound is 0.0"),
    ],
)
def test_wrong_input_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        distill_loss(**{**random_batch([5, 3]), **change})
