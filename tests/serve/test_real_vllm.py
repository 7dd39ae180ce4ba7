"""Two real vLLM servers on this CPU with the shipped model, and talktune before them: `make test-vllm`.

What scripted engines stand for in the other tests is tried here: versions that go live under load, an engine that is
killed, a second store beside the first, a rollback, log-probs against the trainer's own, learning over both.
"""

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from talktune.config import ModelConfig
from talktune.demo.user import User
from talktune.policy.adapter import load_adapter
from talktune.policy.load import load_policy, shipped_model
from talktune.store.blobs import floats_from_bytes, ids_from_bytes
from talktune.store.policies import Policies, version_name
from talktune.store.store import Store

from ..load import Load
from ..versions import make_versions
from .conftest import Serving, serving

VENV = Path(__file__).resolve().parents[2] / ".cache" / "vllm-venv"
OPTIONS = ["--served-model-name", "smollm2", "--dtype", "float32", "--max-model-len", "2048", "--enforce-eager"]
OPTIONS += ["--enable-lora", "--max-lora-rank", "16", "--max-loras", "2", "--logprobs-mode", "processed_logprobs"]
CLOSE = 2e-4
"""How far a log-prob of vLLM's may be from the trainer's, both in float32."""
STARTING = 300.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (VENV / "installed.txt").is_file(), reason="vLLM is not there: make test-vllm"),
]


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    give_up = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.1)
    return found


class Vllm:
    """`vllm serve` with the shipped model, which can be killed and started again at the same place."""

    def __init__(self, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._model, self._log = model, log
        self.start()

    def start(self) -> None:
        command = [str(VENV / "bin" / "vllm"), "serve", str(self._model), "--port", str(self.port), *OPTIONS]
        set_ = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1"}
        set_ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | set_, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers."""

        def up() -> bool:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            try:
                return httpx2.get(f"{self.url}/health", timeout=5).status_code == 200
            except httpx2.HTTPError:
                return False

        wait_for(up, STARTING)
        first = {"prompt": "A", "max_tokens": 1}  # which takes several seconds
        httpx2.post(f"{self.url}/v1/completions", json=first, timeout=STARTING).raise_for_status()

    def kill(self) -> None:
        """With its engine's own process, as the kernel kills what has no memory left."""
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def loaded(self) -> dict[str, str]:
        """The adapters that it lists, with their paths."""
        listed = httpx2.get(f"{self.url}/v1/models", timeout=30).json()["data"]
        return {one["id"]: one["root"] for one in listed if one.get("parent")}


@pytest.fixture(scope="module")
def model() -> Path:
    return shipped_model()


@pytest.fixture(scope="module")
def engines(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Vllm]]:
    folder = tmp_path_factory.mktemp("vllm")
    made: list[Vllm] = []
    try:
        made.extend(Vllm(model, folder / f"{i}.log") for i in range(2))
        for one in made:
            one.wait()
        yield made
    finally:
        for one in made:
            one.kill()


def before(engines: list[Vllm]) -> list[str]:
    return [part for one in engines for part in ("--upstream", one.url)]


def health(server: Serving) -> dict[str, Any]:
    return httpx2.get(f"{server.url}/health", timeout=30).json()


def ask(server: Serving, text: str, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 24} | more
    reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    return reply.json()


def rows(store: Path, what: str = "1") -> list[dict[str, Any]]:
    """The stored turns."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as c:
        c.row_factory = sqlite3.Row
        return [dict(row) for row in c.execute(f"SELECT * FROM turns WHERE {what} ORDER BY created")]


def furthest(turns: list[dict[str, Any]], model: Path, folder: Path) -> float:
    """How far the stored log-probs are from those that the trainer computes with the stored version, at most."""
    far = 0.0
    for version in {turn["policy_version"] for turn in turns}:
        policy = load_policy(ModelConfig(model=str(model), device="cpu"))
        tuned = policy.model if version is None else load_adapter(policy.model, folder / version_name(version))
        for turn in [turn for turn in turns if turn["policy_version"] == version]:
            prompt, answer = ids_from_bytes(turn["prompt_ids"]), ids_from_bytes(turn["answer_ids"])
            with torch.no_grad():
                logits = tuned(torch.tensor([prompt + answer])).logits[0].float() / turn["temperature"]
            scores = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
            ours = scores.gather(1, torch.tensor(answer)[:, None]).squeeze(1)
            far = max(far, float((ours - torch.tensor(floats_from_bytes(turn["logprobs"]))).abs().max()))
    return far


def test_log_probs_are_the_trainers(
    engines: list[Vllm], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "store.db"
    with serving(path, *before(engines)) as server:
        for temperature in (0.7, 1.0):
            for seed in range(4):
                ask(server, f"Tell me about the number {seed}.", temperature=temperature, seed=seed)
                ask(server, f"What is like {seed}?", temperature=temperature, top_p=0.9, seed=seed)
    turns = rows(path)
    assert len(turns) == 16
    assert all(turn["answer_ids"] for turn in turns), "the tokens are exact, with top_p, too"
    whole = [turn for turn in turns if turn["logprobs"]]
    assert {turn["temperature"] for turn in whole} == {0.7, 1.0}
    assert len(whole) == 8, "with top_p they are not those that sampled: the learner computes them anew"
    far = furthest(whole, model, tmp_path)
    with capsys.disabled():
        print(f"\nlog-probs at temperatures 0.7 and 1.0: at most {far:.1e} from the trainer's")
    assert far < CLOSE


def test_versions_that_go_live_under_load_and_an_engine_that_is_killed(
    engines: list[Vllm], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = engines
    path = tmp_path / "store.db"
    store = Store(path)
    make_versions(model, store, tmp_path / "policies", 3, std=0.02)
    policies = Policies(store)
    with serving(path, *before(engines)) as server:
        load = Load(server.url)
        try:
            load.wait_for(16, seconds=300)
            for number in (1, 2):
                policies.promote(number)
                load.wait_for(32, seconds=300)
            killed = time.time()
            one.kill()
            load.wait_for(24, seconds=300)
            assert health(server)["status"] == "degraded"
            policies.promote(3)
            one.start()
            one.wait()
            wait_for(lambda: health(server)["status"] == "ok")
            back = time.time()
            load.wait_for(24, seconds=300)
        finally:
            load.stop()
        assert load.broken == 0
        assert list(one.loaded()) == list(two.loaded()) == [policies.engine_name(3)]
        policies.rollback()
        wait_for(lambda: list(one.loaded()) == list(two.loaded()) == [policies.engine_name(2)])
        assert ask(server, "And now?")["model"] == version_name(2)
    store.close()
    turns = [turn for turn in rows(path) if turn["id"] in load.seen]
    assert {turn["policy_version"] for turn in turns} == {None, 1, 2, 3}
    assert {turn["policy_version"] for turn in turns if turn["created"] > back} == {3}
    kept = [turn for turn in turns if turn["logprobs"]]
    far = furthest(kept[:: max(1, len(kept) // 48)], model, tmp_path / "policies")
    wrong = [turn | {"policy_version": 1} for turn in kept if turn["policy_version"] == 2][:4]
    other = furthest(wrong, model, tmp_path / "policies")
    with capsys.disabled():
        early = sum(turn["created"] < killed for turn in turns)
        print(f"\n{len(turns)} answers under load, {early} before the kill, none broken; log-probs at most", end=" ")
        print(f"{far:.1e} from those of the stored version, {other:.1e} from another's")
    assert far < CLOSE < other


def test_a_second_store_before_the_same_engines(engines: list[Vllm], model: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    stores = [Store(tmp_path / f"{folder.name}.db") for folder in folders]
    for store, folder, std in zip(stores, folders, (0.02, 0.03), strict=True):
        make_versions(model, store, folder, 1, std=std)
        Policies(store).promote(1)
    with (
        serving(tmp_path / "a.db", *before(engines)) as first,
        serving(tmp_path / "b.db", *before(engines)) as second,
    ):
        for server in (first, second):
            wait_for(lambda server=server: health(server)["status"] == "ok")
            for i in range(4):
                assert ask(server, f"Number {i}, please.", seed=i)["model"] == version_name(1)
        names = {Policies(store).engine_name(1) for store in stores}
        assert len(names) == 2
        assert all(names <= set(engine.loaded()) for engine in engines)
        Policies(stores[1]).rollback()
        wait_for(lambda: all(Policies(stores[1]).engine_name(1) not in engine.loaded() for engine in engines))
        assert ask(second, "Who answers?")["model"] == "smollm2"
        assert ask(first, "Who answers?")["model"] == version_name(1)
    for store, folder in zip(stores, folders, strict=True):
        store.close()
        turns = [turn for turn in rows(tmp_path / f"{folder.name}.db") if turn["policy_version"] == 1]
        assert len(turns) >= 4
        assert furthest(turns, model, folder) < CLOSE


def test_learning_over_both(
    engines: list[Vllm], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tmp_path / "store.db", tmp_path / "policies"
    user = User("plain")
    learn = ["--model", str(model), "--device", "cpu", "--policies", str(folder), "--fresh-answers", "0"]
    learn += ["--holdout", "0", "--gate-upstream", engines[0].url]
    roles = [
        [sys.executable, "-m", "talktune", role, "--store", str(path), *options]
        for role, options in (("judge", []), ("learn", learn))
    ]
    questions = user.questions["train"]
    running: list[subprocess.Popen[bytes]] = []
    with serving(path, *before(engines), "--policies", str(folder)) as server:
        try:
            running += [subprocess.Popen(command) for command in roles]
            draw, number = random.Random(0), 0

            def live() -> int:
                with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as c:
                    return c.execute("SELECT count(*) FROM versions WHERE state = 'published'").fetchone()[0]

            give_up = time.monotonic() + 1500
            while live() < 2:
                assert time.monotonic() < give_up, "no second version"
                assert all(one.poll() is None for one in running)
                question = questions[number % len(questions)]
                said = [{"role": "user", "content": question.text}]
                reply = ask(server, "", messages=said, temperature=0.8, max_tokens=64, seed=number)
                choice = reply["choices"][0]
                text = choice["message"]["content"] or ""
                opinion = user.judge(question, text, choice["finish_reason"] == "stop")
                said += [{"role": "assistant", "content": text}]
                said += [{"role": "user", "content": user.react(opinion, question, draw)}]
                ask(server, "", messages=said, max_tokens=1)
                number += 1
            wait_for(lambda: health(server)["status"] == "ok")
            assert ask(server, "Why does bread rise?")["model"] == version_name(Policies(Store(path)).live("").number)
        finally:
            for one in running:
                one.terminate()
            for one in running:
                one.wait(60)
    turns = [turn for turn in rows(path) if turn["logprobs"]]
    answered = {turn["policy_version"] for turn in turns}
    far = furthest(turns[:: max(1, len(turns) // 32)], model, folder)
    with capsys.disabled():
        print(f"\n{number} conversations, versions {answered}, log-probs at most {far:.1e} from the trainer's")
    assert len(answered - {None}) >= 2
    assert far < CLOSE
