"""Packed and fused, against each sample alone through transformers' own forward pass and full logits."""

import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from talktune.config import AlgorithmConfig, Config, ModelConfig, TrainConfig
from talktune.errors import UserError
from talktune.learner.logprobs import make_reader
from talktune.learner.update import Learner
from talktune.policy.adapter import attach_adapter
from talktune.policy.turnstile import Role, Turnstile
from talktune.policy.view import view_of
from talktune.rl.advantage import advantages_for, zero_variance
from talktune.rl.loss import grpo_tcr_loss
from talktune.rl.packing import pack
from talktune.types import Sample

SMALL = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def llama(dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL | {"initializer_range": 0.3} | more)
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


def with_adapter(model: Any) -> Any:
    """An adapter that already does something, so that reference and policy differ."""
    tuned = attach_adapter(model, ModelConfig(lora_rank=3, lora_alpha=6.0), seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return tuned


short = st.lists(st.integers(1, 3), min_size=1, max_size=5).map(tuple)


@st.composite
def updates(draw: st.DrawFn) -> list[Sample]:
    """Conversations of 1 to 12 turns, answers to one prompt, forks, prefixes of each other, and the same twice."""
    samples: list[Sample] = []
    groups = draw(st.integers(1, 3))
    for g in range(groups):
        history: tuple[int, ...] = draw(short)
        for _ in range(draw(st.integers(1, 12 if groups == 1 else 4))):
            for _ in range(draw(st.sampled_from([1, 1, 2, 4]))):  # answers to one prompt; the last one goes on
                answer = draw(short)
                temperature = draw(st.sampled_from([1.0, 0.7]))
                rollout = draw(st.sampled_from([None, (-1.5,) * len(answer)]))
                reward = float(draw(st.integers(-1, 1)))
                name = str(len(samples))
                samples.append(
                    Sample(name, history, answer, reward, str(g), rollout_logprobs=rollout, temperature=temperature)
                )
            history += samples[-1].answer_ids + draw(short)
    return samples


def alone(model: Any, sample: Sample) -> Tensor:
    """Log-probs of one answer from the full logits of one plain forward pass."""
    ids = torch.tensor([sample.prompt_ids + sample.answer_ids])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(sample.prompt_ids) - 1 : -1]
    scores = torch.log_softmax(logits / sample.temperature, -1)
    return scores.gather(1, torch.tensor(sample.answer_ids)[:, None]).squeeze(1)


def turn_by_turn(model: Any, samples: list[Sample], a: AlgorithmConfig) -> dict[str, tuple[Tensor, float]]:
    """Every gradient of one update, one sample after the other, and the sum of the norms of what each sample adds.

    Samples of opposite advantage may cancel: an error is then relative to what was added up, not to what is left.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = {name: (torch.zeros_like(p), 0.0) for name, p in parameters.items()}
    advantages = advantages_for([s.reward for s in samples], [s.group for s in samples], a.group)
    out = zero_variance([s.reward for s in samples], None if a.group == "batch" else [s.group for s in samples])
    kept = [i for i in range(len(samples)) if not out[i]]
    total = sum(len(samples[i].answer_ids) for i in kept) if a.aggregation == "token" else len(kept)
    for i in kept:
        new = alone(model, samples[i])
        rollout = samples[i].rollout_logprobs
        old = new.detach() if rollout is None else torch.tensor(rollout).to(new)
        ref = None
        if a.beta:
            with torch.no_grad(), model.disable_adapter():
                ref = alone(model, samples[i])[None]
        loss, _ = grpo_tcr_loss(
            new[None], old[None], ref, advantages[i : i + 1].to(new), torch.ones_like(new)[None],
            beta=a.beta, kl=a.kl, aggregation=a.aggregation, total=total,
        )  # fmt: skip
        parts = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, part in zip(parameters, parts, strict=True):
            if part is not None:
                found[name] = found[name][0] + part, found[name][1] + float(part.norm())
    return {name: (gradient, size) for name, (gradient, size) in found.items() if size > 0}


def agree(packed: dict[str, Tensor], plain: dict[str, tuple[Tensor, float]], tolerance: float) -> None:
    # Of equal tokens the gradients of queries and keys are zero, and what is seen is rounding of larger terms.
    largest = max((size for _, size in plain.values()), default=0.0)
    for name in packed | plain:
        expected, size = plain.get(name, (torch.zeros(()), 0.0))
        error = (packed.get(name, torch.zeros(())) - expected).norm()
        assert error <= tolerance * max(size, 0.1 * largest), (name, float(error), size)


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.fixture(scope="module")
def tuned() -> dict[torch.dtype, Any]:
    return {dtype: with_adapter(llama(dtype, num_hidden_layers=4)) for dtype in (torch.float32, torch.float64)}


@settings(max_examples=40)
@given(
    updates(),
    # In float64 too, transformers takes RMSNorm in float32: its rounding is what is left.
    st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-6)]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from(["token", "sequence"]),
    st.sampled_from([8, 40, 4096]),
    st.sampled_from(["prompt", "batch"]),
)
def test_every_gradient_equals_that_of_turn_by_turn(
    tuned: dict[torch.dtype, Any],
    samples: list[Sample],
    precision: tuple[torch.dtype, float],
    beta: float,
    aggregation: Any,
    budget: int,
    group: Any,
) -> None:
    dtype, tolerance = precision
    model = tuned[dtype]
    a = AlgorithmConfig(group=group, beta=beta, aggregation=aggregation)
    learner = Learner(model, Config(algorithm=a, train=TrainConfig(microbatch_tokens=budget)), 10)
    learner.gradient(samples)
    packed = gradients(model)
    plain = turn_by_turn(model, samples, a)
    agree(packed, plain, tolerance)


@settings(max_examples=25)
@given(updates(), st.sampled_from([8, 40, 4096]), st.randoms(use_true_random=False))
def test_a_samples_numbers_do_not_depend_on_its_company(
    tuned: dict[torch.dtype, Any], samples: list[Sample], budget: int, rng: Random
) -> None:
    model = tuned[torch.float32]
    reader = make_reader(model)
    some = rng.sample(samples, rng.randint(1, len(samples)))
    found: dict[str, Tensor] = {}
    for group in (samples, some):
        for piece in pack(group, budget):
            mine = [group[i] for i in piece.samples]
            temperature = torch.cat([torch.full((len(s.answer_ids),), s.temperature) for s in mine])
            with torch.no_grad():
                logprobs, _ = reader.token_logprobs(piece, temperature)
            for s, row in zip(mine, piece.rows(logprobs), strict=True):
                torch.testing.assert_close(row, found.setdefault(s.id, row), atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(row, alone(model, s).detach(), atol=1e-5, rtol=1e-5)


SAMPLES = [
    Sample("0", (1, 2, 3), (4, 5, 6, 7, 8), 1.0, "g"),
    Sample("1", (1, 2, 3), (4, 5, 9, 1, 2), -1.0, "g"),
    Sample("2", (1, 2, 3, 4, 5, 6, 7, 8, 2, 2), (3, 1, 7, 6), 1.0, "g"),
    Sample("3", (9,), (1, 1), 0.0, "g"),
]


def _model(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    name = "Gemma3Text" if kind == "Gemma3" else kind
    config = getattr(transformers, f"{name}Config")(**SMALL | {"initializer_range": 0.3} | more)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


PACKS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: _model("Qwen2"),
    "qwen3": lambda: _model("Qwen3", head_dim=8),
    "phi3": lambda: _model("Phi3"),
    "mistral with a window of 4": lambda: _model("Mistral", sliding_window=4),
    "gemma3, window of 4 and scaled embeddings": lambda: _model(
        "Gemma3", head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "a head with its own weights": lambda: llama(tie_word_embeddings=False),
}
REFUSED: dict[str, Callable[[], Any]] = {
    "gemma2, soft caps": lambda: with_adapter(_model("Gemma2", head_dim=8, sliding_window=4)),
    "mamba, a recurrent state, all weights": lambda: transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=24, hidden_size=16, num_hidden_layers=2, state_size=4)
    ).eval(),
}


@pytest.mark.parametrize("kind", PACKS)
def test_architectures_that_pack_give_the_plain_gradients(kind: str) -> None:
    model = with_adapter(PACKS[kind]())
    a = AlgorithmConfig(group="batch", beta=0.05)
    learner = Learner(model, Config(algorithm=a), 10)
    assert learner.passes.reader.packed
    learner.gradient(SAMPLES)
    packed = gradients(model)
    plain = turn_by_turn(model, SAMPLES, a)
    agree(packed, plain, 1e-5)


@pytest.mark.parametrize("kind", REFUSED)
def test_architectures_that_do_not_pack_say_so_and_train_without(kind: str) -> None:
    model = REFUSED[kind]()
    a = AlgorithmConfig(group="batch", beta=0.0)
    with pytest.raises(UserError, match="add --no-packing"):
        Learner(model, Config(algorithm=a), 10)
    learner = Learner(model, Config(algorithm=a, train=TrainConfig(no_packing=True)), 10)
    learner.gradient(SAMPLES)
    apart = gradients(model)
    plain = turn_by_turn(model, SAMPLES, a)
    agree(apart, plain, 1e-5)


def test_others_compute_between_two_layers_and_the_gradient_stays() -> None:
    """An engine answers on the same weights while the learner goes forward and back."""
    bare = llama(num_hidden_layers=5).requires_grad_(False)
    turnstile = Turnstile()
    answering, ended = turnstile.lane(Role.ANSWERS), threading.Event()
    ids = torch.tensor([[1, 2, 3]])
    expected = bare(ids).logits
    seen: list[bool] = []

    def answer() -> None:
        while not ended.is_set():
            with answering, torch.inference_mode():
                seen.append(torch.equal(bare(ids).logits, expected))

    model = with_adapter(view_of(bare))
    a = AlgorithmConfig(group="batch", beta=0.05)
    learner = Learner(model, Config(algorithm=a), 10, lane=turnstile.lane(Role.LEARNER))
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        learner.step(SAMPLES)
        before = len(seen)
        [rows] = [learner.answer_logprobs(SAMPLES)]
    finally:
        ended.set()
        thread.join()
    assert before > 1
    assert all(seen), "learning shows in the answers"
    assert [len(row) for row in rows] == [len(sample.answer_ids) for sample in SAMPLES]
    alone = with_adapter(llama(num_hidden_layers=5).requires_grad_(False))
    Learner(alone, Config(algorithm=a), 10).step(SAMPLES)
    for mine, other in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_head_that_is_more_than_a_product_is_not_fused() -> None:
    assert make_reader(llama()).fused_head
    assert not make_reader(_model("Gemma2", head_dim=8, sliding_window=4), packing=False).fused_head
    capped = llama()
    capped.lm_head.register_forward_hook(lambda module, args, out: 3 * torch.tanh(out / 3))
    hooked = make_reader(capped)  # a hook belongs to the head's module, and is kept by calling that module
    assert hooked.model is capped


@pytest.mark.parametrize("no_packing", [False, True])
def test_all_weights_train_through_tied_embeddings(no_packing: bool) -> None:
    model = llama(tie_word_embeddings=True, num_hidden_layers=4)
    a = AlgorithmConfig(group="batch", beta=0.0)
    Learner(model, Config(algorithm=a, train=TrainConfig(no_packing=no_packing)), 10).gradient(SAMPLES)
    packed = gradients(model)
    plain = turn_by_turn(model, SAMPLES, a)
    assert "model.embed_tokens.weight" in packed
    agree(packed, plain, 1e-5)
