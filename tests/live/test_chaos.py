"""SIGKILL at random moments, whatever runs: nothing acknowledged is lost, nothing is learned from twice, and the
versions are those of a run that nobody disturbed.
"""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from ..load import Load
from .conftest import WIDE_OPTIONS

JUDGE = """
def judge(turn):
    return 1 if sum(character < "a" for character in turn.answer.content) > 5 else -1
"""
LEARN = [
    *("--batch-turns", "16", "--lora-rank", "4", "--learning-rate", "0.001", "--max-staleness", "100000"),
    *WIDE_OPTIONS,
]
LEARN += ["--brake-length", "0", "--holdout", "0", "--fresh-answers", "3"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


class Processes:
    """The roles as processes; whoever is killed is started again."""

    def __init__(self, folder: Path, model: Path, *, apart: bool) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        shared = ["--store", "store.db"]
        own = ["--model", str(model), "--device", "cpu"]
        judge = ["--judge", "chaos_judge:judge", "--votes", "3"]
        serve = [
            "serve",
            *shared,
            *own,
            "--port",
            str(self.port),
            "--max-answer-tokens",
            "12",
            "--policies",
            "policies",
        ]
        self.commands = {"server": [*serve, *judge, *LEARN]}
        if apart:
            self.commands = {
                "server": [*serve, "--no-judge", "--no-learn"],
                "judge": ["judge", *shared, *judge],
                "learner": ["learn", *shared, *own, *LEARN, "--policies", "policies"],
            }
        self.running: dict[str, subprocess.Popen[str]] = {}
        for name in self.commands:
            self.start(name)

    def start(self, name: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "talktune", *self.commands[name]],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD,
        )
        self.running[name] = process
        assert process.stdout is not None
        if name == "server":
            assert process.stdout.readline().startswith("ready"), "start-up needed a hand"

    def kill(self, name: str) -> None:
        if name == "host":
            server = self.running["server"].pid
            children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
            if children:
                os.kill(int(children[0]), signal.SIGKILL)
            return
        self.end(name)
        self.start(name)

    def end(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.running.pop(name)
        process.send_signal(number)
        process.wait(timeout=60)
        assert process.stdout is not None
        process.stdout.close()


def rows(store: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(store, timeout=30) as c:
        return c.execute(query).fetchall()


def one(store: Path, query: str) -> object:
    return rows(store, query)[0][0]


def wait_until_learned(store: Path, seconds: float) -> None:
    """Until nothing waits for the judge, and less than an update for the learner."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        judging, learning = one(store, "SELECT count(*) FROM judging"), one(store, "SELECT count(*) FROM learning")
        candidates = one(store, "SELECT count(*) FROM versions WHERE state = 'candidate'")
        if judging == 0 and candidates == 0 and isinstance(learning, int) and learning < 16:
            return
        time.sleep(0.5)
    raise AssertionError("what waits is not learned from")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the host through /proc")
@pytest.mark.parametrize("apart", [False, True], ids=["one host", "apart"])
@pytest.mark.parametrize("kills", [3, pytest.param(75, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_chaos(kills: int, apart: bool, tiny_model: Path, tmp_path: Path) -> None:
    rng = random.Random(f"{kills} {apart}")
    (tmp_path / "chaos_judge.py").write_text(JUDGE)
    store = tmp_path / "store.db"
    processes = Processes(tmp_path, tiny_model, apart=apart)
    names = [*processes.commands, "host"]
    load = Load(f"http://127.0.0.1:{processes.port}", pause=0.3)  # every turn is learned from, and that twice
    try:
        for kill in range(kills):
            load.wait_for(20 if kills > len(names) else 10, seconds=90)
            time.sleep(rng.uniform(0, 1.0))
            processes.kill(names[kill % len(names)] if kill < len(names) else rng.choice(names))
        load.stop()
        wait_until_learned(store, 1200)
    finally:
        load.stop()
        for name in list(processes.running):
            processes.end(name)
    check_turns(store, load)
    trained = rows(store, "SELECT turn FROM update_turns")
    assert len(trained) == len(set(trained)) > 0, "a turn is in two updates"
    served = {version for (version,) in rows(store, "SELECT DISTINCT policy_version FROM turns")} - {None}
    live = {version for (version,) in rows(store, "SELECT live FROM lineages")}
    published = {version for (version,) in rows(store, "SELECT number FROM versions WHERE state = 'published'")}
    assert served | live <= published, "a version served that the gate had not let through"
    check_undisturbed(tmp_path, store, tiny_model)


def check_turns(store: Path, load: Load) -> None:
    """Every answer whose end a client saw is there once, complete."""
    assert one(store, "PRAGMA integrity_check") == "ok"
    turns = {row[0]: row for row in rows(store, "SELECT id, answer, state FROM turns")}
    assert load.seen.keys() <= turns.keys()
    for id, answer in load.seen.items():
        _, stored, state = turns[id]
        assert json.loads(str(stored))["content"] == answer
        assert state == "complete"


def check_undisturbed(folder: Path, store: Path, model: Path) -> None:
    """A learner that nobody kills, over the same verdicts, makes the same versions, bit for bit."""
    calm = folder / "calm.db"
    with closing(sqlite3.connect(store)) as whole, closing(sqlite3.connect(calm)) as copy:
        whole.backup(copy)  # its files beside it may go at any moment, as the last process closes them
    with sqlite3.connect(calm) as c:
        c.execute(
            "INSERT INTO learning SELECT t.id, t.user, 0, v.created, 0 FROM turns t JOIN verdicts v ON v.turn = t.id "
            "WHERE t.id IN (SELECT turn FROM update_turns)"
        )
        for table in ("readings", "update_turns", "updates", "versions", "lineages", "leases"):
            c.execute(f"DELETE FROM {table}")
    command = [sys.executable, "-m", "talktune", "learn", "--store", "calm.db", "--policies", "calm", *LEARN]
    command += ["--model", str(model), "--device", "cpu"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env=os.environ | ONE_THREAD) as process:
        try:
            wait_until_learned(calm, 1200)
        finally:
            process.terminate()
    assert rows(calm, "SELECT * FROM update_turns ORDER BY 1, 2") == rows(
        store, "SELECT * FROM update_turns ORDER BY 1, 2"
    )
    kept = 'SELECT turn, lineage, "update", place, body FROM readings ORDER BY 1'
    assert rows(calm, kept) == rows(store, kept)
    found = [[json.loads(str(text)) for (text,) in rows(one, "SELECT metrics FROM updates")] for one in (calm, store)]
    assert [m["trust"] for m in found[0]] == [m["trust"] for m in found[1]]
    versions = rows(store, "SELECT number, parent, state FROM versions ORDER BY number")
    assert rows(calm, "SELECT number, parent, state FROM versions ORDER BY number") == versions
    assert versions
    for number, _, _ in versions:
        name = f"policy-{number:06d}/adapter_model.safetensors"
        assert (folder / "policies" / name).read_bytes() == (folder / "calm" / name).read_bytes(), name
