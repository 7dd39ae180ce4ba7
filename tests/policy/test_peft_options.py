"""PEFT's options: sampling, training, reference and host each compute what PEFT does, or all refuse the adapter."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from talktune.config import ModelConfig, SampleConfig
from talktune.errors import UserError
from talktune.host.lora import LoraRows, load_lora
from talktune.learner.logprobs import make_reader
from talktune.policy import linear
from talktune.policy.adapter import adapter_off, attach_adapter, copy_adapter, load_adapter
from talktune.policy.sample import sample_answers
from talktune.rl.packing import pack
from talktune.types import Sample

LAYERS = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
PROMPT = (3, 5, 7, 11)
CLOSE: Any = {"rtol": 0, "atol": 2e-4}


@cache
def weights(tied: bool) -> tuple[LlamaConfig, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, attention_bias=True, tie_word_embeddings=tied,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return config, LlamaForCausalLM(config).state_dict()


def bare(tied: bool = False) -> Any:
    config, state = weights(tied)
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    model.tie_weights()
    return model.eval()


def save(path: Path, tied: bool, options: dict[str, Any], *, head_too: bool = False) -> None:
    """An adapter in which all that PEFT would train is random."""
    tuned = get_peft_model(bare(tied), LoraConfig(task_type="CAUSAL_LM", **options))
    generator = torch.Generator().manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    tuned.save_pretrained(str(path), save_embedding_layers=head_too)


@torch.no_grad()
def scores(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    return torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)


def chosen(table: torch.Tensor, answer: tuple[int, ...]) -> torch.Tensor:
    rows = table[len(PROMPT) - 1 : len(PROMPT) - 1 + len(answer)]
    return rows.gather(1, torch.tensor(answer)[:, None])[:, 0]


def sampled(model: Any, copies: int) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    answers = sample_answers(
        model, [PROMPT], SampleConfig(temperature=1.0, max_new_tokens=6), end_ids=(), seed=0, copies=copies
    )
    return [(tuple(one.answer_ids), torch.tensor(one.logprobs)) for one in answers]


def trained(model: Any, answer: tuple[int, ...]) -> torch.Tensor:
    [made] = pack((Sample("a", PROMPT, answer, 0.0, ""),))
    with torch.no_grad():
        return make_reader(model).token_logprobs(made, torch.ones(len(answer)))[0]


def check_equal(path: Path, tied: bool) -> None:
    """Everything that talktune computes with an adapter is what PEFT computes."""
    theirs = PeftModel.from_pretrained(bare(tied), str(path)).eval()
    for trainable in (False, True):
        ours = load_adapter(bare(tied), path, trainable=trainable)
        for copies in (1, linear.FEWEST_ROWS):
            for answer, said in sampled(ours, copies):
                torch.testing.assert_close(said, chosen(scores(theirs, PROMPT + answer), answer), **CLOSE)
        torch.testing.assert_close(trained(ours, answer), said, **CLOSE)
        with adapter_off(ours):
            for answer, said in sampled(ours, linear.FEWEST_ROWS):
                torch.testing.assert_close(said, chosen(scores(bare(tied), PROMPT + answer), answer), **CLOSE)
            torch.testing.assert_close(trained(ours, answer), said, **CLOSE)
    host = bare(tied)
    with LoraRows(host).rows([load_lora(host, "x", path)]):
        torch.testing.assert_close(scores(host, PROMPT), scores(theirs, PROMPT), **CLOSE)


OPTIONS = st.fixed_dictionaries(
    {"target_modules": st.lists(st.sampled_from((*LAYERS, "lm_head", "embed_tokens")), min_size=1, unique=True)},
    optional={
        "r": st.integers(1, 6),
        "lora_alpha": st.integers(1, 32),
        "use_rslora": st.booleans(),
        "use_dora": st.booleans(),
        "rank_pattern": st.dictionaries(st.sampled_from(LAYERS), st.integers(1, 5), max_size=2),
        "alpha_pattern": st.dictionaries(st.sampled_from(LAYERS), st.integers(1, 40), max_size=2),
        "bias": st.sampled_from(("none", "all", "lora_only")),
        "lora_bias": st.booleans(),
        "lora_dropout": st.sampled_from((0.0, 0.4)),
        "modules_to_save": st.sampled_from((None, ["lm_head"], ["norm"], ["embed_tokens"])),
        "init_lora_weights": st.sampled_from((True, False, "gaussian", "orthogonal", "pissa", "olora")),
        "layers_to_transform": st.sampled_from((None, [0])),
        "trainable_token_indices": st.sampled_from((None, [2, 3])),
    },
)


@pytest.mark.filterwarnings("ignore")  # PEFT has something to say about many of them
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tied=st.booleans(), options=OPTIONS)
@example(tied=False, options={"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]})
@example(tied=True, options={"target_modules": ["q_proj", "lm_head"]})
@example(tied=False, options={"target_modules": ["q_proj", "lm_head"], "lora_dropout": 0.4})
@example(tied=True, options={"target_modules": [*LAYERS], "use_rslora": True, "rank_pattern": {"q_proj": 2}, "r": 5})
def test_it_is_what_peft_computes_or_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tied: bool, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(linear, "FEWEST_WEIGHTS", 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        try:
            save(path, tied, options)
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError):
            return  # PEFT itself does not take these together
        refusals: list[str] = []
        for use in (lambda: load_adapter(bare(tied), path), lambda: load_lora(bare(tied), "x", path)):
            try:
                use()
            except UserError as error:
                refusals.append(str(error))
        assert len(refusals) in (0, 2), refusals
        others = {"use_dora", "lora_bias", "modules_to_save", "trainable_token_indices"}
        plain = not any(options.get(name) for name in others) and options.get("bias", "none") == "none"
        plain &= options.get("init_lora_weights") not in ("pissa", "olora")
        plain &= "embed_tokens" not in options["target_modules"]
        if plain and not (tied and "lm_head" in options["target_modules"]):
            assert not refusals
        if refusals:
            assert all("cannot be used" in one and "\n" not in one for one in refusals)
        else:
            check_equal(path, tied)


def test_other_kinds_and_pickles_are_refused(tmp_path: Path) -> None:
    prompt = get_peft_model(bare(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    prompt.save_pretrained(str(tmp_path / "prompt"))
    tuned = attach_adapter(bare(), ModelConfig(lora_rank=2), seed=0)
    tuned.save_pretrained(str(tmp_path / "pickle"), safe_serialization=False)
    save(tmp_path / "head", False, {"target_modules": ["lm_head"]}, head_too=True)
    for name, reason in (("prompt", "not LoRA"), ("pickle", "pickled"), ("head", "lm_head.base_layer.weight")):
        for use in (load_adapter, lambda model, path: load_lora(model, "x", path)):
            with pytest.raises(UserError, match=reason):
                use(bare(), tmp_path / name)


def test_what_would_be_scaled_otherwise_is_not_copied(tmp_path: Path) -> None:
    save(tmp_path, False, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"})
    same = attach_adapter(bare(), ModelConfig(lora_rank=4, lora_alpha=8.0), seed=0)
    copy_adapter(same, tmp_path)
    torch.testing.assert_close(scores(same, PROMPT), scores(load_adapter(bare(), tmp_path), PROMPT), **CLOSE)
    with pytest.raises(UserError, match="lora_alpha is 8"):
        copy_adapter(attach_adapter(bare(), ModelConfig(lora_rank=4, lora_alpha=16.0), seed=0), tmp_path)


def test_a_tied_pair_is_tied() -> None:
    """What the tests above rest on."""
    model = bare(tied=True)
    assert isinstance(model.lm_head, nn.Linear)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert bare().lm_head.weight is not bare().model.embed_tokens.weight
