"""Slots keep what was written, and models with other kinds of attention are served exactly or refused."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3NextConfig,
)

from talktune.config import SampleConfig
from talktune.errors import UserError
from talktune.host.cache import SlotCache
from talktune.host.engine import Engine
from talktune.host.sampling_request import SamplingRequest, Token

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
LAYERS = ["sliding_attention", "full_attention"] * 2


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Gemma3ForCausalLM, Gemma3TextConfig(**SMALL, sliding_window=9, layer_types=LAYERS)),
        (Qwen2ForCausalLM, Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=9, layer_types=LAYERS)),
        (Qwen2ForCausalLM, Qwen2Config(**SMALL)),
        (MistralForCausalLM, MistralConfig(**SMALL, sliding_window=9)),
    ],
)
def test_sliding_windows_are_exact(kind: Any, config: Any) -> None:
    torch.manual_seed(0)
    config._attn_implementation = "sdpa"
    model = kind(config).eval()
    engine = Engine(model, context=200, budget=4096, piece=7)
    heard: dict[int, list[Token]] = {}
    prompts = [tuple(range(3, 3 + n)) for n in (5, 23, 40)]
    for i, prompt in enumerate(prompts):
        heard[i] = []
        listen = heard[i].append
        sample = SampleConfig(temperature=1.0, max_new_tokens=12)
        engine.submit(
            SamplingRequest(
                prompt, sample, frozenset(), lambda token, listen=listen: bool(listen(token)), print, seed=i
            )
        )
    while engine.step():
        pass
    for i, prompt in enumerate(prompts):
        ids = [token.id for token in heard[i]]
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1], -1)
        given = torch.tensor([token.logprob for token in heard[i]])
        torch.testing.assert_close(given, scores.gather(1, torch.tensor(ids)[:, None])[:, 0], rtol=0, atol=1e-4)


def test_a_model_that_keeps_another_state_is_refused() -> None:
    with pytest.raises(UserError, match="linear_attention"):
        SlotCache(Qwen3NextConfig(num_hidden_layers=4))


@torch.inference_mode()
def test_slots_are_written_in_place_copied_swapped_and_kept_when_resized() -> None:
    cache = SlotCache(Qwen2Config(**SMALL))
    cache.reserve(3, 8, 0)
    layer = cache.layers[0]

    def write(first: int, positions: list[list[int]], value: float) -> tuple[torch.Tensor, torch.Tensor]:
        mask = cache.aim(first, torch.tensor(positions))
        assert mask.shape == (len(positions), 1, len(positions[0]), max(map(max, positions)) + 1)
        states = torch.full((len(positions), 2, len(positions[0]), 8), value)
        return layer.update(states, -states)

    write(0, [[0, 1]], 1.0)
    keys, values = write(1, [[0, 1], [2, 3]], 2.0)
    assert keys[0, 0, :, 0].tolist() == [2, 2, 0, 0]
    assert values[1, 1, :, 7].tolist() == [0, 0, -2, -2]
    cache.copy(0, 2, 2)
    cache.swap(0, 1, 2)
    cache.reserve(5, 3, 3)
    keys, _ = write(0, [[2], [2], [2], [2], [2]], 3.0)
    assert keys[:, 0, :, 0].tolist() == [[2, 2, 3], [1, 1, 3], [1, 1, 3], [0, 0, 3], [0, 0, 3]]
