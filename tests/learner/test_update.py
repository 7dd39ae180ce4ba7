"""The update: packs and cuts change nothing, a step does what the loss says."""

import random
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM

from talktune.config import AlgorithmConfig, Config, ModelConfig, TrainConfig
from talktune.errors import UserError
from talktune.learner.logprobs import make_reader
from talktune.learner.probe import WEIGHT
from talktune.learner.recompute import recompute_layers
from talktune.learner.update import Learner, NotFiniteError
from talktune.policy.adapter import attach_adapter
from talktune.policy.load import load_policy
from talktune.rl.distill import distill_loss
from talktune.rl.metrics import METRICS
from talktune.rl.packing import pack
from talktune.types import Sample


def samples(seed: int, n: int = 9) -> list[Sample]:
    """Random samples that fork anywhere: prompts and answers share beginnings."""
    rng = random.Random(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 6) for _ in range(rng.randint(low, high)))

    prompts = [ids(1, 8) for _ in range(3)]
    return [
        Sample(
            id=str(i),
            prompt_ids=prompts[i % 3],
            answer_ids=(answer := ids(1, 10)),
            reward=float(rng.choice((-1, 0, 1))),
            group=str(i % 3),
            rollout_logprobs=tuple(-rng.uniform(4, 7) for _ in answer),
            temperature=0.8,
        )
        for i in range(n)
    ]


def taught(seed: int, n: int = 9) -> list[Sample]:
    """The same samples, some of the disliked ones with a teacher's prompt."""
    rng = random.Random(seed)
    return [
        replace(s, teacher_prompt_ids=tuple(rng.randrange(3, 30) for _ in range(rng.randint(2, 12))))
        if s.reward < 0 or i == 0
        else s
        for i, s in enumerate(samples(seed, n))
    ]


def learner(model: Path, **options: object) -> Learner:
    """A learner on a fresh tiny policy whose adapter is no longer the identity."""
    policy = load_policy(ModelConfig(model=str(model), device="cpu"))
    tuned = attach_adapter(policy.model, ModelConfig(lora_rank=4), seed=1)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    train = TrainConfig(**{f.name: options.pop(f.name) for f in fields(TrainConfig) if f.name in options})  # type: ignore[arg-type]
    algorithm = AlgorithmConfig(group="prompt", beta=0.1)
    return Learner(tuned, Config(algorithm=replace(algorithm, **options), train=train), total_updates=10)  # type: ignore[arg-type]


def gradients(model: Path, batch: list[Sample], **options: object) -> dict[str, torch.Tensor]:
    """The gradient of one update, without the step."""
    it = learner(model, **options)
    advantages = torch.linspace(-1, 1, len(batch), dtype=torch.float64)
    it._gradients(batch, advantages, 0.28)
    return {name: p.grad.clone() for name, p in it.trained.items() if p.grad is not None}


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@given(seed=st.integers(0, 10_000), budget=st.integers(1, 120))
@settings(max_examples=15)
def test_any_cut_into_micro_batches_gives_the_same_gradient(
    tiny_model: Path, aggregation: str, seed: int, budget: int
) -> None:
    batch = samples(seed)
    whole = gradients(tiny_model, batch, aggregation=aggregation)
    cut = gradients(tiny_model, batch, aggregation=aggregation, microbatch_tokens=budget)
    for name, expected in whole.items():
        torch.testing.assert_close(cut[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("no_packing", [False, True])
@pytest.mark.parametrize("lora_rank", [4, 0])
def test_layers_that_are_computed_again_give_the_same_gradient(
    tiny_model: Path, no_packing: bool, lora_rank: int
) -> None:
    """LoRA with a teacher and a reference, and all weights."""
    found: list[dict[str, torch.Tensor]] = []
    for again in (False, True):
        model = load_policy(ModelConfig(model=str(tiny_model), device="cpu")).model
        if lora_rank:
            model = attach_adapter(model, ModelConfig(lora_rank=lora_rank), seed=1)
        else:
            model.requires_grad_(True)
        algorithm = AlgorithmConfig(beta=0.1 if lora_rank else 0.0, distill=0.5 if lora_rank else "off")
        train = TrainConfig(microbatch_tokens=60, no_packing=no_packing, checkpoint_layers=again)
        it = Learner(model, Config(algorithm=algorithm, train=train), total_updates=10)
        it.gradient(taught(3))
        found.append({name: p.grad.clone() for name, p in it.trained.items() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-5, atol=1e-7)


@given(seed=st.integers(0, 10_000), tokens=st.integers(1, 24), again=st.booleans())
@settings(max_examples=8)
def test_a_sample_in_pieces_gives_the_same_gradient(tiny_model: Path, seed: int, tokens: int, again: bool) -> None:
    """Trees as well as chains, with a reference and teachers, and together with --checkpoint-layers."""
    whole, cut = learner(tiny_model, distill=0.5), learner(tiny_model, distill=0.5, piece_tokens=tokens)
    if again:
        recompute_layers(cut.model)
    was, now = whole.gradient(taught(seed)), cut.gradient(taught(seed))
    assert now == pytest.approx(was, rel=1e-5, abs=1e-6)
    for name, p in cut.trained.items():
        assert p.grad is not None
        expected = whole.trained[name].grad
        assert (p.grad - expected).norm() <= 1e-5 * expected.norm() + 1e-9
    for row, one in zip(*(it.answer_logprobs(taught(seed)[:2]) for it in (cut, whole)), strict=True):
        assert row == pytest.approx(one, abs=1e-5)


def test_pieces_of_all_weights_and_of_a_sliding_window() -> None:
    config = MistralConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=5, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    found: list[dict[str, torch.Tensor]] = []
    for tokens in (None, 7):
        torch.manual_seed(0)
        model = MistralForCausalLM(config).eval()
        train = TrainConfig(piece_tokens=tokens)
        it = Learner(model, Config(algorithm=AlgorithmConfig(beta=0.0), train=train), total_updates=10)
        it.gradient(samples(3))
        found.append({name: p.grad.clone() for name, p in it.trained.items() if p.grad is not None})
    assert len(found[0]) == len(it.trained)
    for name, expected in found[0].items():
        assert (found[1][name] - expected).norm() <= 1e-5 * expected.norm()


def test_pieces_are_refused_where_they_cannot_be(tiny_model: Path) -> None:
    model = load_policy(ModelConfig(model=str(tiny_model), device="cpu")).model
    config = Config(train=TrainConfig(piece_tokens=8, no_packing=True))
    with pytest.raises(UserError, match="--piece-tokens: not with --no-packing"):
        Learner(model, config, total_updates=1)


@given(seed=st.integers(0, 10_000), budget=st.integers(1, 120))
@settings(max_examples=25)
def test_packed_logprobs_are_those_of_each_sample_alone(tiny_model: Path, seed: int, budget: int) -> None:
    model = load_policy(ModelConfig(model=str(tiny_model), device="cpu")).model
    batch = samples(seed)
    seen: set[int] = set()
    for piece in pack(batch, budget):
        flat, _ = make_reader(model).token_logprobs(piece, torch.full((len(piece.target),), 0.8))
        for i, row in zip(piece.samples, piece.rows(flat), strict=True):
            seen.add(i)
            ids = torch.tensor([batch[i].prompt_ids + batch[i].answer_ids])
            logits = model(ids).logits[0, len(batch[i].prompt_ids) - 1 : -1] / 0.8
            alone = torch.log_softmax(logits, -1).gather(1, torch.tensor(batch[i].answer_ids)[:, None])[:, 0]
            torch.testing.assert_close(row, alone, rtol=1e-5, atol=1e-5)
    assert seen == set(range(len(batch)))


def test_a_step_makes_good_answers_likelier_and_bad_ones_less(tiny_model: Path) -> None:
    good = Sample("a", (4, 5), (6, 7, 2), 1.0, "g")
    bad = Sample("b", (4, 5), (9, 8, 2), -1.0, "g")
    it = learner(tiny_model, beta=0.0)

    def total(sample: Sample) -> float:
        [piece] = pack([sample])
        return make_reader(it.model).token_logprobs(piece, torch.ones(3))[0].sum().item()

    was = total(good), total(bad)
    metrics = it.step([good, bad])
    assert total(good) > was[0]
    assert total(bad) < was[1]
    assert metrics["tokens"] == 6
    assert metrics["ratio_mean"] == pytest.approx(1.0)
    assert "kl_ref" not in metrics  # no reference pass is paid for when beta is 0
    assert learner(tiny_model, beta=0.1).step([good, bad])["kl_ref"] > 0


def test_groups_without_variance_leave_the_weights_alone(tiny_model: Path) -> None:
    it = learner(tiny_model)
    was = {name: p.detach().clone() for name, p in it.trained.items()}
    metrics = it.step([replace(s, reward=1.0) for s in samples(0)])
    assert metrics["skipped_groups"] == 3
    assert "loss" not in metrics
    assert all(torch.equal(p, was[name]) for name, p in it.trained.items())


def test_a_gradient_that_is_no_number_moves_nothing(tiny_model: Path) -> None:
    it = learner(tiny_model)
    it.step(samples(0))
    batch = [replace(s, rollout_logprobs=(float("nan"),) * len(s.answer_ids)) for s in samples(0)]
    before = {name: p.clone() for name, p in it.trained.items()}
    with pytest.raises(NotFiniteError, match=f"Update 2 is not taken.*{batch[0].id}"):
        it.step(batch)
    assert it.update == 1
    assert all(torch.equal(p, before[name]) for name, p in it.trained.items())
    it.step(samples(0))
    assert all(p.isfinite().all() for p in it.trained.values())


def test_an_update_that_is_not_taken_leaves_the_running_baseline(tiny_model: Path) -> None:
    it = learner(tiny_model, group="running")
    it.step(samples(0))
    before = it.running
    batch = [replace(s, rollout_logprobs=(float("nan"),) * len(s.answer_ids)) for s in samples(1)]
    with pytest.raises(NotFiniteError):
        it.step(batch)
    assert it.running == before


def test_stale_samples_are_not_used(tiny_model: Path) -> None:
    it = learner(tiny_model, max_staleness=2)
    it.update = 9
    batch = [replace(s, policy_version=6 if i < 4 else 7) for i, s in enumerate(samples(0))]
    metrics = it.step(batch)
    assert metrics["staleness"] == 2
    assert metrics["response_length"] == sum(len(s.answer_ids) for s in batch[4:]) / 5


def test_logs_without_logprobs_have_ratio_one_and_captured_ones_are_weighted(tiny_model: Path) -> None:
    bare = [replace(s, rollout_logprobs=None) for s in samples(1)]
    assert learner(tiny_model).step(bare)["ratio_max"] == pytest.approx(1.0)
    assert learner(tiny_model, old="recomputed").step(samples(1))["ratio_max"] == pytest.approx(1.0)
    assert learner(tiny_model).step(samples(1))["ratio_max"] != pytest.approx(1.0)


def test_the_length_penalty_joins_the_reward(tiny_model: Path) -> None:
    batch = [replace(s, reward=1.0) for s in samples(2)]
    metrics = learner(tiny_model, L_max=10, L_cache=8).step(batch)
    assert metrics["length_penalty_mean"] < 0
    assert metrics["grad_norm"] > 0


def plain_lesson(it: Learner, batch: list[Sample], weight: float) -> dict[str, torch.Tensor]:
    """The gradient of the distillation alone: each sample by itself through full logits."""
    total = sum(len(s.answer_ids) for s in batch if s.teacher_prompt_ids is not None)
    found = {name: torch.zeros_like(p) for name, p in it.trained.items()}

    def scores(prompt: tuple[int, ...], sample: Sample) -> torch.Tensor:
        logits = it.model(input_ids=torch.tensor([prompt + sample.answer_ids])).logits[:, len(prompt) - 1 : -1]
        return torch.log_softmax(logits / sample.temperature, -1)

    for s in batch:
        if s.teacher_prompt_ids is not None:
            new = scores(s.prompt_ids, s)
            top = new.topk(20).indices
            with torch.no_grad(), it.model.disable_adapter():
                teacher = scores(s.teacher_prompt_ids, s).gather(2, top)
            new = new.gather(2, top)
            loss, _ = distill_loss(new, new, teacher, torch.ones(new.shape[:2]), total=total)
            parts = torch.autograd.grad(weight * loss, list(it.trained.values()))
            for name, part in zip(it.trained, parts, strict=True):
                found[name] += part
    return found


@pytest.mark.parametrize("budget", [2048, 30])
def test_the_lesson_is_added_to_the_update(tiny_model: Path, budget: int) -> None:
    """loss = GRPO + λ · distillation, against each sample alone through full logits."""
    batch = taught(3)
    was, now = (learner(tiny_model, distill=w, microbatch_tokens=budget) for w in ("off", 0.5))
    plain, metrics = was.gradient(batch), now.gradient(batch)
    lesson = plain_lesson(now, batch, 0.5)
    for name, p in now.trained.items():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, was.trained[name].grad + lesson[name], rtol=1e-4, atol=1e-6)
    assert max(float(part.abs().max()) for part in lesson.values()) > 1e-4
    assert metrics["distill_tokens"] == sum(len(s.answer_ids) for s in batch if s.teacher_prompt_ids)
    assert metrics["distill_gap"] > 0
    assert metrics["loss"] == pytest.approx(plain["loss"] + 0.5 * metrics["distill_loss"], rel=1e-5)
    assert {name for name in metrics if name not in plain} == {n for n in METRICS if n.startswith("distill")}


@given(seed=st.integers(0, 10_000), budget=st.integers(1, 120))
@settings(max_examples=10)
def test_any_cut_into_micro_batches_gives_the_same_lesson(tiny_model: Path, seed: int, budget: int) -> None:
    whole, cut = (learner(tiny_model, distill=1.0, microbatch_tokens=n) for n in (2048, budget))
    was, now = whole.gradient(taught(seed)), cut.gradient(taught(seed))
    assert {k: now[k] for k in was} == pytest.approx(was, rel=1e-4, abs=1e-6)
    for name, p in cut.trained.items():
        torch.testing.assert_close(p.grad, whole.trained[name].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("no_packing", [False, True])
def test_without_a_teacher_the_update_is_the_same_to_the_last_bit(tiny_model: Path, no_packing: bool) -> None:
    """With samples that have none, and with samples that have one where it is off."""
    results: list[dict[str, torch.Tensor]] = []
    seen: list[dict[str, float]] = []
    for batch, weight in (
        (samples(4), "off"),
        (samples(4), 0.5),
        (taught(4), "off"),
        (taught(4), "auto"),
        (taught(4), 0),
    ):
        it = learner(tiny_model, distill=weight, no_packing=no_packing)
        metrics = it.step(batch)
        seen.append({k: v for k, v in metrics.items() if "second" not in k})
        results.append(it.trained)
    for weights, metrics in zip(results, seen, strict=True):
        assert metrics == seen[0]
        assert all(torch.equal(p, results[0][name]) for name, p in weights.items())


def test_disliked_turns_teach_where_no_group_has_variance(tiny_model: Path) -> None:
    it = learner(tiny_model, distill=0.5)
    batch = [replace(s, reward=-1.0) for s in taught(5)]
    metrics = it.step(batch)
    assert metrics["skipped_groups"] == 3
    assert metrics["tokens"] == 0
    assert metrics["grad_norm"] > 0
    assert "kl_ref" not in metrics
    assert metrics["loss"] == pytest.approx(0.5 * metrics["distill_loss"])
    for aggregation in ("token", "sequence"):
        mixed = [replace(s, reward=-1.0 if s.group == "0" else s.reward) for s in taught(5)]
        alone = learner(tiny_model, aggregation=aggregation).gradient(mixed)
        both = learner(tiny_model, aggregation=aggregation, distill=0.5).gradient(mixed)
        assert {k: both[k] for k in alone if k != "loss"} == pytest.approx(
            {k: alone[k] for k in alone if k != "loss"}, rel=1e-4
        )


def test_the_lesson_leads_to_what_the_teacher_says(tiny_model: Path) -> None:
    """Learned until the student, who never reads the reaction, says much like the teacher who does."""
    it = learner(tiny_model, distill=1.0, beta=0.0, learning_rate=0.01)
    batch = [replace(s, reward=-1.0) for s in taught(6)]
    gaps = [it.step(batch)["distill_gap"] for _ in range(40)]
    assert gaps[-1] < 0.7 * gaps[0]


def test_without_fresh_answers_the_step_is_the_same_bit_for_bit(tiny_model: Path) -> None:
    one, two = learner(tiny_model), learner(tiny_model)
    one.step(samples(1))
    two.step(samples(1), [])
    for name, weight in one.trained.items():
        assert torch.equal(weight, two.trained[name])


def test_fresh_answers_add_the_gradient_of_their_advantages(tiny_model: Path) -> None:
    real, fresh = samples(1), [replace(s, reward=0.3 * s.reward + 0.1) for s in samples(2)]
    parts = [learner(tiny_model) for _ in range(3)]
    parts[0].gradient(real)
    parts[1]._gradients(fresh, torch.tensor([s.reward for s in fresh]), 0.28)
    taken: dict[str, torch.Tensor] = {}
    optimizer = parts[2].optimizer
    optimizer.register_step_pre_hook(
        lambda *_: taken.update({n: p.grad.clone() for n, p in parts[2].trained.items() if p.grad is not None})
    )
    parts[2].config = replace(parts[2].config, train=replace(parts[2].config.train, max_grad_norm=1e9))
    metrics = parts[2].step(real, fresh)
    assert metrics["fresh_tokens"] == sum(len(s.answer_ids) for s in fresh)
    for name, found in taken.items():
        wanted = [p.grad for part in parts[:2] if (p := part.trained[name]).grad is not None]
        torch.testing.assert_close(found, sum(wanted), rtol=1e-4, atol=1e-6)


def test_fresh_answers_alone_are_a_step(tiny_model: Path) -> None:
    it = learner(tiny_model)
    before = {name: weight.detach().clone() for name, weight in it.trained.items()}
    alike = [replace(s, reward=-1.0) for s in samples(1)]
    it.step(alike)
    assert all(torch.equal(before[name], weight) for name, weight in it.trained.items())
    it.step(alike, [replace(s, reward=0.5) for s in samples(2)])
    assert any(not torch.equal(before[name], weight) for name, weight in it.trained.items())


def shown(batch: list[Sample], *places: int) -> list[Sample]:
    """The same samples, some with a wanted answer."""
    return [replace(s, wanted_ids=(7, 3, 9, 4, 2)[: 2 + i % 4]) if i in places else s for i, s in enumerate(batch)]


@pytest.mark.parametrize("budget", [12, 2048])
def test_wanted_answers_add_the_gradient_of_their_log_probs(tiny_model: Path, budget: int) -> None:
    """w · n / |B| · mean over tokens of −log π, against each wanted answer alone through full logits."""
    batch = shown(samples(3), 1, 4, 5)
    was, now = (learner(tiny_model, wanted=w, microbatch_tokens=budget) for w in (0.0, 0.3))
    was.gradient(batch)
    metrics = now.gradient(batch)
    by_hand = learner(tiny_model)
    told = [s for s in batch if s.wanted_ids]
    total = sum(len(s.wanted_ids or ()) for s in told)
    for s in told:
        ids = torch.tensor([[*s.prompt_ids, *(s.wanted_ids or ())]])
        scores = (by_hand.model(input_ids=ids).logits[0, len(s.prompt_ids) - 1 : -1] / s.temperature).log_softmax(-1)
        mean = scores.gather(1, ids[0, len(s.prompt_ids) :, None]).sum() / total
        (-0.3 * 3 / 9 * mean).backward()
    for name, p in now.trained.items():
        before, more = was.trained[name].grad, by_hand.trained[name].grad
        assert p.grad is not None
        assert before is not None
        torch.testing.assert_close(p.grad, before + (0 if more is None else more), rtol=1e-4, atol=1e-6)
    assert (metrics["wanted_tokens"], metrics["wanted_answers"]) == (total, 3)
    assert metrics["wanted_loss"] > 0


def test_wanted_answers_are_cut_into_pieces_too(tiny_model: Path) -> None:
    """No pass that keeps activations is longer than --piece-tokens, and the gradient is the same."""
    batch = shown(taught(3), 0, 4, 7)
    whole = learner(tiny_model, distill=0.5, wanted=0.3)
    cut = learner(tiny_model, distill=0.5, wanted=0.3, piece_tokens=6)
    longest: list[int] = []
    layer = cut.model.get_input_embeddings()
    layer.register_forward_hook(lambda _, given, __: longest.append(given[0].numel() * torch.is_grad_enabled()))
    assert cut.gradient(batch) == pytest.approx(whole.gradient(batch), rel=1e-5, abs=1e-6)
    assert max(longest) == 6
    for name, p in cut.trained.items():
        torch.testing.assert_close(p.grad, whole.trained[name].grad, rtol=1e-4, atol=1e-6)


def test_a_wanted_answer_is_a_step_where_verdicts_say_nothing_and_becomes_likelier(tiny_model: Path) -> None:
    it = learner(tiny_model, beta=0.0, learning_rate=0.01)
    batch = shown([replace(s, reward=-1.0) for s in samples(5)], 0)
    found = [it.step(batch) for _ in range(20)]
    assert "tokens" not in found[0]
    assert found[-1]["wanted_loss"] < found[0]["wanted_loss"] - 1


def test_without_wanted_answers_or_their_weight_the_step_is_the_same_bit_for_bit(tiny_model: Path) -> None:
    found: list[Learner] = []
    for batch, weight in ((samples(1), 0.1), (samples(1), 0.0), (shown(samples(1), 2), 0.0)):
        found.append(learner(tiny_model, wanted=weight))
        assert not any(name.startswith("wanted") for name in found[-1].step(batch))
    for name, weight in found[0].trained.items():
        assert all(torch.equal(weight, other.trained[name]) for other in found[1:])


def test_a_probe_turns_distillation_on_and_off_where_auto_asks_for_it(tiny_model: Path) -> None:
    asks = learner(tiny_model, distill="auto")
    assert asks.distill_weight == 0.0
    asks.hear_probe({"complaints_help": 1.0})
    assert asks.distill_weight == WEIGHT
    asks.hear_probe({"complaints_help": 0.0})
    assert asks.distill_weight == 0.0
    asks.hear_probe({"complaints_help": 1.0})
    asks.hear_probe({})  # an update without a probe
    assert asks.distill_weight == 0.0
    told = learner(tiny_model, distill=0.3)
    told.hear_probe({"complaints_help": 0.0})
    assert told.distill_weight == 0.3
