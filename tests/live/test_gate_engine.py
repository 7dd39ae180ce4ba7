"""The gate of a learner on another machine: the engine that serves is asked, and says what the learner's own would."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from talktune.config import Config, SampleConfig
from talktune.errors import UserError
from talktune.host.lora import Lora, load_lora
from talktune.live.engine_answers import answers
from talktune.live.gate_engine import GateEngineError

from .conftest import World

Make = Any


class Vllm:
    """vLLM's routes for adapters and completions, before the engine of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.loras: dict[str, Lora] = {}
        self.asked: list[str] = []
        self.refusal: tuple[int, dict[str, Any]] | None = None
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/load_lora_adapter", self._load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            pass
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _models(self, request: Request) -> Response:
        base = {"id": "m", "max_model_len": self.world.host.engine.context}
        adapters = [{"id": name, "parent": "m"} for name in self.loras]
        return JSONResponse({"data": [*adapters, base]})

    async def _load(self, request: Request) -> Response:
        if self.refusal is not None:
            status, said = self.refusal
            return JSONResponse(said, status)
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        assert name not in self.loras
        model = self.world.host.policy.model
        self.loras[name] = await run_in_threadpool(load_lora, model, name, Path(path))
        return Response("Success")

    async def _unload(self, request: Request) -> Response:
        found = self.loras.pop((await request.json())["lora_name"], None)
        return Response("Success") if found else JSONResponse({"error": {"message": "not found"}}, 404)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body["model"])
        lora = None if body["model"] == "m" else self.loras[body["model"]]
        how = SampleConfig(temperature=body["temperature"], max_new_tokens=body["max_tokens"])
        engine, ends = self.world.host.engine, body["stop_token_ids"]

        def sample() -> list[int]:
            (one,) = answers(engine, [body["prompt"]], how, end_ids=ends, seeds=[body["seed"]], lora=lora)
            return list(one.answer_ids)

        return JSONResponse({"choices": [{"token_ids": await run_in_threadpool(sample)}]})


@pytest.fixture
def vllm(world: Make) -> Iterator[Vllm]:
    made = Vllm(world())
    yield made
    made.stop()


def asking(url: str) -> Any:
    def change(config: Config) -> Config:
        assert config.gate is not None
        return replace(config, gate=replace(config.gate, gate_upstream=url))

    return change


def test_the_engine_says_what_the_learners_own_would(world: Make, vllm: Vllm) -> None:
    measured: list[dict[str, Any]] = []
    for made in (world(), world(asking(vllm.url))):
        for _ in range(2):
            made.talk(4)
            made.judge()
            assert made.learn()
        versions = made.learner.policies.versions()
        assert [version.state for version in versions] == ["published", "published"]
        measured += [version.measures for version in versions]
    here, there = measured[:2], measured[2:]
    for ours, theirs in zip(here, there, strict=True):
        for whose in ("candidate", "live", "base"):
            kl = ours[whose].pop("kl"), theirs[whose].pop("kl")
            assert kl[1] == pytest.approx(kl[0], rel=1e-3, abs=1e-6)  # of the trainer's weights, not of the engine's
            assert theirs[whose] == ours[whose]
    asked = {name for name in vllm.asked if name != "m"}
    assert {name.rpartition("-")[2] for name in asked} == {"000001", "000002"}
    assert all(name.startswith("gate-tt-") for name in asked), "no server of this store takes it for one of its own"
    assert not vllm.loras


def test_a_candidate_waits_for_its_engine(world: Make, vllm: Vllm) -> None:
    w = world(asking(vllm.url))
    w.talk(4)
    w.judge()
    vllm.refusal = (400, {"error": {"message": "LoRA rank 4 is greater than max_lora_rank 2."}})
    for _ in range(4):  # oftener than an exam may fail
        with pytest.raises(GateEngineError, match="--max-lora-rank 4"):
            w.learn()
    assert w.learner.policies.version(1).state == "candidate"
    vllm.refusal = None
    assert w.learn()
    assert w.learner.policies.version(1).state == "published"


def test_an_engine_that_is_not_there_or_no_url(world: Make) -> None:
    w = world(asking("http://127.0.0.1:9/v1"))
    w.talk(4)
    w.judge()
    with pytest.raises(GateEngineError, match=r"^--gate-upstream http://127\.0\.0\.1:9: cannot be asked"):
        w.learn()
    assert w.learner.policies.version(1).state == "candidate"
    with pytest.raises(UserError, match="--gate-upstream nowhere: write it like"):
        world(asking("nowhere"))
