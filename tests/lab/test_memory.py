"""On what the small run of the course measured: its sizes hang on no option."""

from typing import Any

import pytest

from talktune.lab.memory import HIDDEN, LAYERS, VOCABULARY, Bytes


def _held(results: dict[str, dict[str, Any]], step: str) -> Bytes:
    parts = dict(results["memory"]["numbers"]["bytes"][step])
    total = parts.pop("total")
    held = Bytes(**parts)
    assert held.total == total
    return held


def test_bytes_of_parameters_gradients_and_moments(results: dict[str, dict[str, Any]]) -> None:
    inner = int(2.75 * HIDDEN)
    layer = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * inner + 2 * HIDDEN
    model = 4 * (VOCABULARY * HIDDEN + LAYERS * layer + HIDDEN)  # tied embeddings, float32
    held, ppo = _held(results, "GRPO, all weights"), _held(results, "PPO, all weights")
    assert held.parameters == 2 * model  # policy and reference
    assert held.gradients == model
    assert held.optimizer == 2 * model
    value_head = 4 * (HIDDEN + 1)
    assert ppo.parameters == 3 * model + value_head
    assert ppo.optimizer == 2 * (2 * model + value_head)
    assert 0.3 < 1 - held.total / ppo.total < 0.5
    assert held.activations < ppo.activations < 2 * held.activations


def test_an_adapter_needs_no_second_model_as_reference(results: dict[str, dict[str, Any]]) -> None:
    held, ppo = _held(results, "GRPO, LoRA"), _held(results, "PPO, LoRA")
    assert held.gradients == held.optimizer / 2 < 0.1 * held.parameters
    assert ppo.parameters == pytest.approx(2 * held.parameters, rel=0.01)
