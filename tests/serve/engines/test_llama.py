"""llama.cpp started by talktune: each answer by the version that the store says, the model as it was included."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import httpx2
import numpy as np
import pytest
import torch

from talktune.config import ModelConfig
from talktune.errors import UserError
from talktune.policy.adapter import load_adapter
from talktune.policy.load import load_policy, shipped_model
from talktune.policy.shipped import shipped_gguf
from talktune.serve.engines.gguf_adapter import read_shape, reordered, scale, write_adapter
from talktune.serve.engines.versions import with_version
from talktune.store.policies import Policies
from talktune.store.store import Store
from talktune.types import Sampled

from ...versions import make_versions
from ..conftest import serving


def test_each_version_and_the_base_answer_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    make_versions(shipped_model(), store, tmp_path / "policies", 2, std=0.06)
    policies = Policies(store)
    policies.promote(1)
    sampled: dict[int | None, list[Sampled]] = {}
    with serving(path, "--engine", "llama.cpp") as server:
        for number in (1, None, 2):
            if number is None:
                policies.rollback()
            else:
                policies.promote(number)
            while (seen := ask(server))["model"] != ("policy-000002" if number == 2 else seen["model"]):
                time.sleep(0.1)  # it is started again between two requests, and answers as before until then
            for i in range(2):
                ask(server, f"What is rain? Answer {i}.")
        status = httpx2.get(f"{server.url}/health").json()
        assert status["status"] == "ok", status
        assert status["engine"]["starts"] == "2"  # with the first version, and for the second
    for row in store.list_conversations(limit=50):
        for conversation in store.show(row.id):
            for one in conversation.sampled.values():
                sampled.setdefault(one.policy_version, []).append(one)
    store.close()
    assert sampled.keys() == {1, None, 2}
    errors: dict[tuple[int | None, int | None], float] = {}
    for by in (None, 1, 2):
        policy = load_policy(ModelConfig(device="cpu"))
        model = policy.model
        tuned = model if by is None else load_adapter(model, tmp_path / "policies" / f"policy-{by:06d}")
        for of, answers in sampled.items():
            errors[of, by] = error(tuned, answers[:3])
    for of in sampled:
        assert errors[of, of] < 0.2, str(errors)
        assert all(errors[of, by] > 2 * errors[of, of] for by in sampled if by != of), str(errors)


def ask(server: Any, text: str = "What is snow?") -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0.0, "max_tokens": 24}
    reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.json()


def error(model: Any, answers: Sequence[Sampled]) -> float:
    """Mean |log-prob as it was told − log-prob as torch has it|, in nats: the weights are quantised in one of them."""
    found: list[torch.Tensor] = []
    for one in answers:
        with torch.no_grad():
            logits = model(torch.tensor([one.prompt_ids + one.answer_ids])).logits[0].float()
        scores = torch.log_softmax(logits[len(one.prompt_ids) - 1 : -1], -1)
        ours = scores.gather(1, torch.tensor(one.answer_ids)[:, None]).squeeze(1)
        assert one.logprobs is not None
        found.append((ours - torch.tensor(one.logprobs)).abs())
    return float(torch.cat(found).mean())


def test_an_adapter_in_gguf(tmp_path: Path) -> None:
    shape = read_shape(shipped_gguf())
    assert (shape.architecture, shape.layers, shape.heads, shape.kv_heads) == ("llama", 30, 9, 3)
    store = Store(tmp_path / "s.db")
    make_versions(shipped_model(), store, tmp_path, 1)
    store.close()
    write_adapter(tmp_path / "policy-000001", shipped_gguf(), tmp_path / "a.gguf")
    reader = gguf.GGUFReader(str(tmp_path / "a.gguf"))
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == 2 * 7 * 30
    assert tensors["blk.3.attn_q.weight.lora_a"].shape == (4, 576)
    assert tensors["blk.3.attn_k.weight.lora_b"].shape == (192, 4)
    assert not list(tmp_path.glob(".*.tmp"))
    with pytest.raises(UserError, match="no adapter that can be read"):
        write_adapter(tmp_path, shipped_gguf(), tmp_path / "b.gguf")
    (tmp_path / "no.gguf").write_bytes(b"what is this, that is not a model at all?")
    with pytest.raises(UserError, match="is no GGUF file"):
        write_adapter(tmp_path / "policy-000001", tmp_path / "no.gguf", tmp_path / "b.gguf")


def test_rows_are_reordered_as_those_of_the_weights_are() -> None:
    """Row d of a half of a head becomes row 2d or 2d + 1: what a rotary embedding turns together stands together."""
    b = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert reordered(b, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert reordered(b, 1).ravel().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_the_scale_is_pefts() -> None:
    layer = "model.layers.0.self_attn.q_proj"
    assert scale({"lora_alpha": 32}, layer, 16) == 2
    assert scale({"lora_alpha": 32, "use_rslora": True}, layer, 16) == 8
    assert scale({"lora_alpha": 32, "alpha_pattern": {"q_proj": 8}}, layer, 16) == 0.5
    assert scale({"lora_alpha": 32, "alpha_pattern": {"k_proj": 8}}, layer, 16) == 2


def test_every_adapter_of_llama_cpp_has_its_scale_said() -> None:
    """An empty list would leave all of them on."""
    base = with_version({}, None, None, (0, 1))
    assert base == {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}], "cache_prompt": False}
    assert with_version({}, "tt-3f9a-000001", 1, (0, 1))["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
    assert with_version({}, None, None, ()) == {}


def test_llama_cpp_takes_a_gguf_file_only(talktune: Any, tmp_path: Path) -> None:
    said = talktune("serve", "--engine", "llama.cpp", "--model", str(tmp_path), "--store", tmp_path / "s.db")
    assert re.search(r"needs a GGUF file", said.sentence)
    both = talktune("serve", "--engine", "llama.cpp", "--upstream", "http://127.0.0.1:1", "--store", tmp_path / "s.db")
    assert "leave one of them out" in both.sentence
