"""A base in 4 bits: what is computed, and the gradient, are those of its rounded weights."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from talktune.config import AlgorithmConfig, Config, ModelConfig, SampleConfig, TrainConfig
from talktune.errors import UserError
from talktune.learner.update import Learner
from talktune.policy.adapter import attach_adapter, save_adapter
from talktune.policy.linear import ready_to_decode
from talktune.policy.quantise import quantise_base
from talktune.policy.sample import sample_answers
from talktune.types import Sample


def tuned() -> object:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    made = attach_adapter(LlamaForCausalLM(config).eval(), ModelConfig(lora_rank=4), seed=1)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    return made


def test_the_gradient_is_that_of_the_rounded_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    rounded = tuned()
    plain = copy.deepcopy(rounded)
    quantise_base(rounded)
    count = 0
    for (name, module), (_, twin) in zip(plain.named_modules(), rounded.named_modules(), strict=True):
        if type(module) is nn.Linear and type(twin) is not nn.Linear:
            with torch.no_grad():
                module.weight.copy_(twin(torch.eye(module.in_features)).T)
            assert twin.weight.element_size() * twin.weight.numel() * 8 == module.weight.numel() * 4, name
            count += 1
    assert count == 14
    samples = [Sample(str(i), (3, 4, 5 + i), (7, 9, 11 + i), float(i % 2), "g") for i in range(4)]
    found: list[dict[str, torch.Tensor]] = []
    for model in (plain, rounded):
        it = Learner(model, Config(algorithm=AlgorithmConfig(beta=0.1), train=TrainConfig()), total_updates=1)
        it.gradient(samples)
        found.append({name: p.grad for name, p in it.trained.items() if p.grad is not None})
    assert len(found[0]) == 28
    for name, expected in found[0].items():
        assert (found[1][name] - expected).norm() <= 1e-5 * expected.norm()
    answers: list[object] = []
    for model in (plain, rounded):  # with the adapter, which cannot be merged
        with ready_to_decode(model, 8):
            how = SampleConfig(temperature=0.0, max_new_tokens=6)
            answers.append([a.answer_ids for a in sample_answers(model, [(3, 4, 5)] * 8, how, end_ids=[], seed=0)])
    assert answers[0] == answers[1]
    save_adapter(rounded, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        quantise_base(tuned())
