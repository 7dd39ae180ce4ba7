"""The small causal policy of the training experiments: a real transformer, fitted to talk like a base model.

One layer is enough for this world, and 200 updates take seconds. Sampling, log-probs, adapter and update are
those of any other model: only its size is special.
"""

import copy
from functools import cache
from random import Random
from typing import Any

import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from talktune.config import ModelConfig
from talktune.lab.task import END_ID, IDS, WORDS, base_answers
from talktune.policy.adapter import attach_adapter

BASE_SEED = 1000
"""The base model is the same for every seed of an experiment, as a pretrained one is in practice."""
FIT_STEPS, FIT_BATCH = 600, 32
ADAPTER = ModelConfig(lora_rank=8, lora_alpha=16.0)
_IGNORED = -100  # transformers' label of a token that is not learned


def fresh_policy(seed: int) -> PeftModel:
    """The base model with a fresh LoRA adapter that depends on `seed`; the bare base is the KL reference."""
    return attach_adapter(copy.deepcopy(_base()), ADAPTER, seed)


def blank_model(layers: int = 1, hidden: int = 64, vocabulary: int = len(WORDS)) -> LlamaForCausalLM:
    """An untrained Llama, over the words of the task unless told otherwise; the weights depend on torch's seed."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=END_ID,
            pad_token_id=None,
        )
    ).eval()


@cache
def _base() -> LlamaForCausalLM:
    """Fit a blank model to `base_answers` by next-word prediction (some seconds, once a process)."""
    rng = Random(BASE_SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(BASE_SEED)
        model: Any = blank_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIT_STEPS)
    for _ in range(FIT_STEPS):
        ids, labels = _batch(rng)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model


def _batch(rng: Random) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids and labels: only answers are learned; padding stands on the right and is ignored."""
    rows = [(question.ids(), [IDS[word] for word in words]) for question, words in base_answers(FIT_BATCH, rng)]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), _IGNORED)
    for i, (prompt, answer) in enumerate(rows):
        n, total = len(prompt), len(prompt) + len(answer)
        ids[i, :total] = torch.tensor([*prompt, *answer])
        labels[i, n:total] = torch.tensor(answer)
    return ids, labels
