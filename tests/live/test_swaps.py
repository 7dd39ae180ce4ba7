"""Versions that go live while answers run: no request fails, and each turn's version is the one that sampled it."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from talktune.config import ModelConfig
from talktune.policy.adapter import load_adapter
from talktune.policy.load import load_policy
from talktune.store.blobs import floats_from_bytes, ids_from_bytes
from talktune.store.policies import Policies, version_name
from talktune.store.store import Store

from ..load import Load
from ..serve.conftest import serving
from ..versions import make_versions


@pytest.mark.parametrize(
    ("swaps", "requests"), [(3, 150), pytest.param(20, 10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_swaps(swaps: int, requests: int, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    make_versions(tiny_model, store, tmp_path / "policies", swaps)
    policies = Policies(store)
    options = ["--model", str(tiny_model), "--device", "cpu", "--no-judge", "--no-learn", "--max-answer-tokens", "12"]
    with serving(path, *options, env={"OMP_NUM_THREADS": "1"}) as server:
        load = Load(server.url)
        try:
            for number in range(1, swaps + 1):
                while len(load.seen) < number * requests // (swaps + 1):
                    time.sleep(0.01)
                    assert server.process.poll() is None
                policies.promote(number)
            while len(load.seen) < requests:
                time.sleep(0.01)
        finally:
            load.stop()
        assert load.broken == 0
        assert httpx2.get(f"{server.url}/health").json()["status"] == "ok"
        # Rollback takes effect on the next request.
        policies.rollback()
        time.sleep(0.1)
        reply = httpx2.post(f"{server.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "?"}]})
        assert reply.json()["model"] == version_name(swaps - 1)
    store.close()
    with sqlite3.connect(path) as c:
        rows = c.execute("SELECT policy_version, prompt_ids, answer_ids, logprobs, temperature FROM turns").fetchall()
    assert {row[0] for row in rows} == {None, *range(1, swaps + 1)}
    check_logprobs(tiny_model, tmp_path / "policies", rows)


def check_logprobs(model: Path, folder: Path, rows: list[Any], each: int = 40) -> None:
    """The recorded version, and no other, computes the recorded log-probs."""
    for version in {row[0] for row in rows}:
        policy = load_policy(ModelConfig(model=str(model), device="cpu"))
        tuned = policy.model if version is None else load_adapter(policy.model, folder / version_name(version))
        for _, prompt, answer, logprobs, temperature in [row for row in rows if row[0] == version][:each]:
            ids = ids_from_bytes(prompt) + ids_from_bytes(answer)
            with torch.no_grad():
                logits = tuned(torch.tensor([ids])).logits[0].float() / temperature
            scores = torch.log_softmax(logits[len(ids_from_bytes(prompt)) - 1 : -1], -1)
            ours = scores.gather(1, torch.tensor(ids_from_bytes(answer))[:, None]).squeeze(1)
            assert (ours - torch.tensor(floats_from_bytes(logprobs))).abs().max() < 1e-3
