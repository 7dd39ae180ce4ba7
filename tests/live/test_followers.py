"""`talktune learn` on several ranks makes the versions that one process makes: real processes over gloo, real kills.

Run as a module, this file is the driver: it loads torch once and forks every rank.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from talktune.errors import UserError

from ..ranks import ended, fork, started
from .conftest import WIDE_OPTIONS, World, tiny_config

RANKS = 2
TURNS, UPDATES = 16, 4
SHORT, LONG = 3, 9
OPTIONS = (
    *("--device", "cpu", "--batch-turns", "4", "--lora-rank", "4", "--learning-rate", "0.001", "--holdout", "0"),
    *("--max-staleness", "100", "--microbatch-tokens", "24", "--brake-length", "0"),
)
GATE = WIDE_OPTIONS
FRESH, PLAIN = ("--no-gate", "--fresh-answers", "4", "--guided", "1"), ("--no-gate", "--fresh-answers", "0")
SECONDS = 300
"""In which a run is over on a busy machine."""


def talked(model: str, folder: Path) -> None:
    """A store with judged turns of somebody who likes short answers."""
    w = World(tiny_config(Path(model), folder / "unused"), folder / "store.db")
    w.worker.judge = type(w.worker.judge)(lambda turn: 1 if len(turn.sampled.answer_ids) <= SHORT else -1)
    for _ in range(TURNS // 4):
        for tokens in (SHORT, LONG):
            w.talk(2, tokens=tokens)
    w.judge()
    w.close()


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(store, timeout=30)) as c:
        return c.execute(query).fetchall()


def is_learned(store: Path) -> bool:
    """Whether nothing waits for the learner."""
    waits = "SELECT count(*) FROM learning", "SELECT count(*) FROM versions WHERE state = 'candidate'"
    return all(rows(store, query) == [(0,)] for query in waits)


def wait(store: Path, gone: Callable[[], bool]) -> None:
    """Until all is learned, or the learner is gone."""
    give_up = time.monotonic() + SECONDS
    while not (is_learned(store) or gone()):
        assert time.monotonic() < give_up, "what waits is not learned from"
        time.sleep(0.1)


def command(model: str, folder: Path, *more: str) -> list[str]:
    return [
        *("learn", "--store", str(folder / "store.db"), "--policies", str(folder / "policies"), "--model", model),
        *OPTIONS,
        *more,
    ]


def kill(rank: int, owner: str, name: str, time: int) -> Callable[[int], None]:
    """A rank dies as it is to call a method for the so manieth time."""

    def arm(number: int) -> None:
        if number != rank:
            return
        import importlib

        module, _, attribute = owner.partition(":")
        holder = getattr(importlib.import_module(module), attribute)
        real, calls = getattr(holder, name), [0]

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == time:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(holder, name, counted)

    return arm


def spoil(number: int) -> None:
    """The last rank's first gradient is no number."""
    if number != RANKS - 1:
        return
    from talktune.learner.update import Learner

    real = Learner._add_up

    def spoiled(self: Any) -> None:
        Learner._add_up = real  # type: ignore[method-assign]
        next(iter(self.trained.values())).grad.fill_(float("inf"))
        real(self)

    Learner._add_up = spoiled  # type: ignore[method-assign]


KILLS = {
    "follower": kill(1, "talktune.learner.update:Learner", "_add_up", 3),
    "first": kill(0, "talktune.live.weights:Weights", "place", 3),
}


def driver(model: str, folder: Path) -> None:
    """Everything; the exit codes go to `results.json`."""
    import torch

    torch.set_num_threads(1)
    import talktune.live.roles  # noqa: F401

    assert ended([fork(lambda: talked(model, folder), folder / "talked.log")]) == [0]
    results: dict[str, list[int]] = {}

    def run(name: str, ranks: int, *more: str, like: str | None = None, **how: Any) -> None:
        there = folder / name
        if like is None:
            there.mkdir()
            shutil.copy(folder / "store.db", there)
        else:
            shutil.copytree(folder / like, there)
            move_versions(there / "store.db", folder / like, there)
        children = started(ranks, command(model, there, *more), folder / f"{name}.log", **how)
        codes: dict[int, int] = {}

        def gone() -> bool:
            for child in children:
                if child not in codes and (found := os.waitpid(child, os.WNOHANG)) != (0, 0):
                    codes[child] = os.waitstatus_to_exitcode(found[1])
            return len(codes) == ranks

        wait(there / "store.db", gone)
        if children[0] not in codes:
            os.kill(children[0], signal.SIGTERM)
        results[name] = [codes[child] if child in codes else ended([child])[0] for child in children]

    run("one", 1, *FRESH)
    run("two", RANKS, *FRESH[1:], *GATE)
    run("plain-one", 1, *PLAIN)
    run("plain-two", RANKS, *PLAIN)
    run("spoiled", RANKS, *PLAIN, arm=spoil)
    for who, how in KILLS.items():
        run(f"{who}-killed", RANKS, *FRESH, arm=how)
        for ranks in (1, RANKS):
            run(f"{who}-killed-on-{ranks}", ranks, *FRESH, like=f"{who}-killed")
    (folder / "results.json").write_text(json.dumps(results))


def move_versions(store: Path, old: Path, new: Path) -> None:
    """Let a copied store name the versions beside it."""
    with closing(sqlite3.connect(store)) as c, c:
        c.execute("UPDATE versions SET path = replace(path, ?, ?)", (f"{old}/", f"{new}/"))


# --- the tests -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("followers")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.live.test_followers", str(tiny_model), str(made)],
        cwd=Path(__file__).parents[2], env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def codes(folder: Path) -> dict[str, list[int]]:
    return json.loads((folder / "results.json").read_text())


def said(folder: Path, name: str) -> str:
    return "\n".join(log.read_text() for log in sorted(folder.glob(f"{name}.*.log")))


def numbers(there: Path) -> list[dict[str, float]]:
    found = [json.loads(text) for (text,) in rows(there / "store.db", "SELECT metrics FROM updates ORDER BY number")]
    return [{k: v for k, v in one.items() if k not in ("seconds", "tokens_per_second")} for one in found]


def check_same(there: Path, alone: Path) -> None:
    """Each turn was used once, by the same updates, and the versions are the same but for rounding."""
    import torch
    from safetensors.torch import load_file

    used = 'SELECT "update", turn FROM update_turns ORDER BY 1, 2'
    turns = rows(there / "store.db", used)
    assert len(turns) == len({turn for _, turn in turns}) == TURNS
    assert turns == rows(alone / "store.db", used)
    versions = "SELECT number, parent, state FROM versions ORDER BY 1"
    found = rows(there / "store.db", versions)
    assert found == rows(alone / "store.db", versions)
    assert [(number, state) for number, _, state in found] == [(n + 1, "published") for n in range(UPDATES)]
    for number in range(1, UPDATES + 1):
        file = f"policies/policy-{number:06d}/adapter_model.safetensors"
        expected, weights = load_file(alone / file), load_file(there / file)
        assert weights.keys() == expected.keys()
        for name, one in expected.items():
            off = torch.linalg.vector_norm(weights[name] - one)
            assert off <= 1e-6 * torch.linalg.vector_norm(one), (number, name, float(off))
    assert numbers(there) == [pytest.approx(one, rel=1e-4, abs=1e-5) for one in numbers(alone)]


@pytest.mark.parametrize("kind", ["", "plain-"], ids=["fresh answers", "none"])
def test_two_ranks_make_the_versions_of_one(folder: Path, codes: dict[str, list[int]], kind: str) -> None:
    assert codes[f"{kind}one"] == [0], said(folder, f"{kind}one")
    assert codes[f"{kind}two"] == [0] * RANKS, said(folder, f"{kind}two")
    check_same(folder / f"{kind}two", folder / f"{kind}one")
    assert any("fresh_tokens" in one for one in numbers(folder / f"{kind}two")) == (kind == "")
    told, silent = (folder / f"{kind}two.{n}.log" for n in range(RANKS))
    assert told.read_text().startswith("learning from")
    assert silent.read_text() == ""


@pytest.mark.parametrize("ranks", [1, RANKS])
@pytest.mark.parametrize("who", list(KILLS))
def test_a_rank_is_killed_within_an_update_and_any_number_goes_on(
    folder: Path, codes: dict[str, list[int]], who: str, ranks: int
) -> None:
    assert -signal.SIGKILL in codes[f"{who}-killed"], said(folder, f"{who}-killed")
    assert 0 not in codes[f"{who}-killed"], "the other one did not end"
    assert len(rows(folder / f"{who}-killed" / "store.db", "SELECT * FROM updates")) == 2
    name = f"{who}-killed-on-{ranks}"
    assert codes[name] == [0] * ranks, said(folder, name)
    check_same(folder / name, folder / "one")


def test_an_update_that_is_not_finite_is_taken_by_no_rank(folder: Path, codes: dict[str, list[int]]) -> None:
    """Though the gradient of the last one alone was no number."""
    assert codes["spoiled"] == [0] * RANKS, said(folder, "spoiled")
    store = folder / "spoiled" / "store.db"
    assert "not finite" in said(folder, "spoiled")
    assert rows(store, "SELECT turns FROM dropped") == [(4,)]
    assert rows(store, "SELECT count(*) FROM update_turns") == [(TURNS - 4,)]
    assert rows(store, "SELECT count(*) FROM versions WHERE state = 'published'") == [(UPDATES - 1,)]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks through /proc")
def test_torchrun_starts_all_ranks_again_where_one_is_killed(folder: Path, tiny_model: Path) -> None:
    there = folder / "torchrun"
    there.mkdir()
    shutil.copy(folder / "store.db", there)
    store, log = there / "store.db", there / "log"
    run = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
    run += ["--max-restarts", "1", "-m", "talktune", *command(str(tiny_model), there, *FRESH)]
    with log.open("w") as file, subprocess.Popen(run, stdout=file, stderr=file) as torchrun:
        try:
            while torchrun.poll() is None and not rows(store, "SELECT * FROM updates"):
                time.sleep(0.05)
            os.kill(rank_of(torchrun.pid, 1), signal.SIGKILL)
            wait(store, lambda: torchrun.poll() is not None)
        finally:
            torchrun.terminate()
    assert log.read_text().count("learning from") == 2, log.read_text()
    check_same(there, folder / "one")


def rank_of(torchrun: int, number: int) -> int:
    """The process of a rank."""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    [found] = [int(one) for one in children if f"\0RANK={number}\0" in Path(f"/proc/{one}/environ").read_text()]
    return found


class Listening:
    """Ranks of which one writes down what it hears."""

    count = 2

    def __init__(self) -> None:
        self.heard: list[object] = []

    def of_first(self, work: Callable[[], Any]) -> Any:
        self.heard.append(work())


def test_those_who_wait_hear_now_and_then_that_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from talktune.live import followers

    ranks: Any = Listening()
    others = followers.Followers(ranks, lambda: None)
    others.greet()
    assert ranks.heard == []
    later = time.monotonic() + followers.GREETING_SECONDS + 1
    monkeypatch.setattr(followers.time, "monotonic", lambda: later)
    others.greet()
    others.greet()
    assert ranks.heard == [followers.GREETING]
    others.end()
    assert ranks.heard == [followers.GREETING, followers.END]


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "failed"])
def test_why_an_update_ended_is_kept(stopped: bool) -> None:
    from talktune.live import followers
    from talktune.policy.turnstile import ClosedError

    ranks: Any = Listening()
    learner: Any = SimpleNamespace(trained={}, optimizer=None, update=0, running=None, distill_weight=0.0)
    others = followers.Followers(ranks, lambda: None)
    with pytest.raises(ClosedError), others.told(learner, [], [], 1.0):
        raise ClosedError if stopped else MemoryError("no room")
    assert others.failure == ("stopped within an update" if stopped else "an update failed (MemoryError: no room)")


def test_what_failed_is_kept_for_whoever_asks() -> None:
    from talktune.live import followers
    from talktune.policy.turnstile import ClosedError

    class Gone:
        def of_first(self, work: Callable[[], Any]) -> Any:
            raise RuntimeError("connection closed by peer")

    ended: list[bool] = []
    ranks: Any = Gone()
    others = followers.Followers(ranks, lambda: ended.append(True))
    others._heard -= followers.GREETING_SECONDS + 1
    with pytest.raises(ClosedError):
        others.greet()
    assert ended == [True]
    assert others.failure == "another rank is gone"
    with pytest.raises(UserError, match="another rank is gone"):
        others.end()


@pytest.mark.parametrize(("machines", "restarts", "refused"), [("2", "3", True), ("2", "0", False), ("1", "3", False)])
def test_restarts_on_several_machines_are_refused(
    machines: str, restarts: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from talktune.learner import ranks

    class NobodyElse(Exception):
        pass

    def rendezvous(_: str) -> Any:
        raise NobodyElse

    monkeypatch.setattr(ranks, "rank_of_torchrun", lambda: 0)
    monkeypatch.setattr(ranks, "rendezvous", rendezvous)
    monkeypatch.setenv("GROUP_WORLD_SIZE", machines)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    with pytest.raises(UserError if refused else NobodyElse), ranks.joined():
        pass


if __name__ == "__main__":
    driver(sys.argv[1], Path(sys.argv[2]))
