"""Sampled log-probs are those of a teacher-forced pass; draws do not depend on the batch."""

from pathlib import Path

import pytest
import torch

from talktune.config import ModelConfig, SampleConfig
from talktune.policy.adapter import adapter_off, attach_adapter
from talktune.policy.load import Policy, load_policy
from talktune.policy.sample import choose, sample_answers
from talktune.policy.tokens import end_ids, render_prompt
from talktune.types import Message, Sampled

QUESTIONS = ["Hi", "What is a prime number?", "Why is the sky blue, and what has that to do with sunsets in summer?"]


def teacher_forced(policy: Policy, answer: Sampled) -> torch.Tensor:
    """Log-probs of an answer's tokens from one plain pass over prompt and answer."""
    ids = torch.tensor([answer.prompt_ids + answer.answer_ids])
    with torch.no_grad():
        logits = policy.model(ids).logits[0, len(answer.prompt_ids) - 1 : -1] / answer.temperature
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(answer.answer_ids)[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_logprobs_equal_teacher_forcing(tiny_model: Path, model: str, temperature: float) -> None:
    policy = load_policy(ModelConfig(model=str(tiny_model) if model == "tiny" else model, device="cpu"))
    ends = end_ids(policy.tokenizer, policy.model.generation_config)
    prompts = [render_prompt(policy.tokenizer, [Message("user", text)], ()) for text in QUESTIONS]
    config = SampleConfig(temperature=temperature, max_new_tokens=24)
    more_ends = ends | set(range(0, policy.model.config.vocab_size, 7))  # so that rows end at different steps
    answers = sample_answers(policy.model, prompts, config, end_ids=more_ends, seed=3, copies=3)
    assert len({len(a.answer_ids) for a in answers}) > 1
    for answer in answers:
        assert answer.logprobs is not None
        torch.testing.assert_close(torch.tensor(answer.logprobs), teacher_forced(policy, answer), rtol=0, atol=1e-4)


def test_an_adapter_is_merged_for_sampling_and_leaves_no_trace(tiny_model: Path) -> None:
    policy = load_policy(ModelConfig(model=str(tiny_model), device="cpu"))
    policy.model = attach_adapter(policy.model, ModelConfig(), seed=0)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    was = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    trained = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    prompts = [render_prompt(policy.tokenizer, [Message("user", text)], ()) for text in QUESTIONS]
    answers = sample_answers(policy.model, prompts, SampleConfig(max_new_tokens=12), end_ids={2}, seed=1)
    with adapter_off(policy.model):
        bare = sample_answers(policy.model, prompts, SampleConfig(max_new_tokens=12), end_ids={2}, seed=1)
        assert bare[0].logprobs is not None
        torch.testing.assert_close(torch.tensor(bare[0].logprobs), teacher_forced(policy, bare[0]), rtol=0, atol=1e-4)
    assert bare != answers
    for answer in answers:
        torch.testing.assert_close(torch.tensor(answer.logprobs), teacher_forced(policy, answer), rtol=0, atol=1e-4)
    assert all(torch.equal(p, was[name]) for name, p in policy.model.named_parameters())
    assert trained == [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert trained


def test_draws_do_not_depend_on_the_rows_beside(tiny_model: Path) -> None:
    policy = load_policy(ModelConfig(model=str(tiny_model), device="cpu"))
    prompts = [render_prompt(policy.tokenizer, [Message("user", text)], ()) for text in QUESTIONS]
    config = SampleConfig(max_new_tokens=12)
    together = sample_answers(policy.model, prompts, config, end_ids={2}, seed=1)
    alone = sample_answers(policy.model, prompts[:1], config, end_ids={2}, seed=1)
    assert together[0].answer_ids == alone[0].answer_ids


def test_greedy_takes_the_likeliest_and_counts_as_temperature_one(tiny_model: Path) -> None:
    policy = load_policy(ModelConfig(model=str(tiny_model), device="cpu"))
    prompt = render_prompt(policy.tokenizer, [Message("user", "Hi")], ())
    config = SampleConfig(temperature=0.0, max_new_tokens=5)
    [answer] = sample_answers(policy.model, [prompt], config, end_ids=(), seed=0)
    assert answer.temperature == 1.0
    assert len(answer.answer_ids) == 5
    ids = torch.tensor([answer.prompt_ids + answer.answer_ids])
    with torch.no_grad():
        best = policy.model(ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
    assert tuple(best.tolist()) == answer.answer_ids


def test_cuts_leave_the_likely_tokens_only() -> None:
    scores = torch.log(torch.tensor([[0.1, 0.4, 0.3, 0.2]])).repeat(1000, 1)
    draws = torch.linspace(0, 0.999, 1000, dtype=torch.float64)
    free = torch.bincount(choose(scores, SampleConfig(temperature=1.0), draws), minlength=4) / 1000
    torch.testing.assert_close(free, torch.tensor([0.1, 0.4, 0.3, 0.2]), atol=2e-3, rtol=0)
    assert set(choose(scores, SampleConfig(top_k=2), draws).tolist()) == {1, 2}
    assert set(choose(scores, SampleConfig(top_p=0.6), draws).tolist()) == {1, 2}
    assert set(choose(scores, SampleConfig(top_p=0.3), draws).tolist()) == {1}
