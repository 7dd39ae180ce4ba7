"""SIGKILL at random moments: what a client saw the end of is in the store, once and complete."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import create_engine, text

from talktune.store.store import Store

CLIENTS = 8


class Load:
    """Clients that talk and talk; `seen` has the answers whose end they saw."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: dict[str, str] = {}
        self.broken = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._talk, args=(i,)) for i in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _talk(self, number: int) -> None:
        messages: list[Any] = []
        turn = 0
        while not self._stop.is_set():
            turn += 1
            if turn % 4 == 0:
                messages = []
            messages.append({"role": "user", "content": f"client {number}, turn {turn}"})
            try:
                id, answer = self._ask(messages)
            except (httpx2.HTTPError, ValueError):
                self.broken += 1
                time.sleep(0.05)
                messages = []
                continue
            self.seen[id] = answer
            messages.append({"role": "assistant", "content": answer})

    def _ask(self, messages: list[Any]) -> tuple[str, str]:
        body = {"messages": messages, "stream": True, "max_tokens": 12}
        answer, id, finished = "", "", False
        with httpx2.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=30) as reply:
            if reply.status_code != 200:
                raise ValueError("refused")
            for line in reply.iter_lines():
                if not line or line == "data: [DONE]":
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise ValueError("broken off")
                answer += chunk["choices"][0]["delta"].get("content") or ""
                id = chunk["id"]
                finished = finished or chunk["choices"][0]["finish_reason"] is not None
        if not finished:
            raise ValueError("cut short")
        return id, answer


def start(model: Path, store: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "talktune", "serve", "--model", str(model), "--device", "cpu"]
    command += ["--port", str(port), "--store", str(store), "--max-answer-tokens", "12"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready"), "start-up needed a hand"
    return process


def host_of(process: subprocess.Popen[str]) -> int | None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the host through /proc")
@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_kills(kills: int, tiny_model: Path, tmp_path: Path) -> None:
    rng = random.Random(kills)
    store = tmp_path / "store.db"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(tiny_model, store, port)
    load = Load(f"http://127.0.0.1:{port}")
    try:
        for kill in range(kills):
            before = len(load.seen)
            give_up = time.monotonic() + 60
            while len(load.seen) < before + 10 and time.monotonic() < give_up:
                time.sleep(0.02)
            assert len(load.seen) > before, "nobody was served any more"
            time.sleep(rng.uniform(0, 0.5))
            if kill % 2:
                if (host := host_of(process)) is not None:
                    os.kill(host, signal.SIGKILL)
            else:
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()
                process = start(tiny_model, store, port)
    finally:
        load.stop()
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    engine = create_engine(f"sqlite:///{store}")
    with engine.connect() as c:
        assert c.execute(text("PRAGMA integrity_check")).scalar() == "ok"
        rows = {r.id: r for r in c.execute(text("SELECT id, answer, state, answer_ids FROM turns"))}
        assert c.execute(text("SELECT count(*) FROM turns")).scalar() == len(rows)
    engine.dispose()
    assert load.seen.keys() <= rows.keys()
    for id, answer in load.seen.items():
        assert json.loads(rows[id].answer)["content"] == answer
        assert rows[id].state == "complete"
        assert rows[id].answer_ids is not None
    opened = Store(store)
    assert sum(1 for _ in opened.export()) > 0
    opened.close()
