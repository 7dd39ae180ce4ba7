"""The loop that is read first runs as it stands, and its step is the product's own."""

import runpy
from pathlib import Path

import pytest
import torch

from talktune.config import AlgorithmConfig, Config, ModelConfig, TrainConfig
from talktune.learner.logprobs import make_reader
from talktune.learner.update import Learner
from talktune.policy.adapter import attach_adapter
from talktune.policy.load import load_policy
from talktune.types import Sample

LOOP = Path(__file__).parents[1] / "examples" / "loop.py"


def samples() -> list[Sample]:
    """Two groups with variance and one without."""
    rewards = {"a": [1, -1, 0], "b": [-1, 1, 1], "c": [1, 1]}
    return [
        Sample(f"{g}{i}", (1, 5 + i), tuple(range(7, 12 + i)), r, g, tuple([-3.0] * (5 + i)))
        for g, of in rewards.items()
        for i, r in enumerate(of)
    ]


def test_its_step_is_the_learners(tiny_model: Path) -> None:
    learn = runpy.run_path(str(LOOP))["learn"]
    algorithm = AlgorithmConfig(beta=0.02, scale="std", group="prompt", L_max=1000, L_cache=1)
    found: list[dict[str, torch.Tensor]] = []
    for by_loop in (True, False):
        model = attach_adapter(load_policy(ModelConfig(str(tiny_model), device="cpu")).model, ModelConfig(), seed=0)
        if by_loop:
            trained = [p for p in model.parameters() if p.requires_grad]
            metrics = learn(make_reader(model), model, torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0), samples())
            assert metrics["tokens"] == sum(len(s.answer_ids) for s in samples() if s.group != "c")
        else:
            config = Config(algorithm=algorithm, train=TrainConfig(learning_rate=1e-3, microbatch_tokens=512))
            Learner(model, config, 1).step(samples())
        found.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    satisfied = runpy.run_path(str(LOOP))["main"](
        ["--updates", "1", "--questions", "2", "--answers", "4", "--held-out", "2"]
    )
    said = capsys.readouterr().out
    assert "update 1: mean reward" in said
    assert "before: " in said
    assert 0 <= satisfied <= 1
