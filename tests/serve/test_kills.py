"""SIGKILL at random moments: what a client saw the end of is in the store, once and complete."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from talktune.store.store import Store

from ..load import Load


def start(model: Path, store: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "talktune", "serve", "--model", str(model), "--device", "cpu"]
    command += ["--port", str(port), "--store", str(store), "--max-answer-tokens", "12"]
    command += ["--no-judge", "--no-learn"]  # those are killed among the others' turns, in `live/test_chaos.py`
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
            load.wait_for(10, seconds=60)
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
