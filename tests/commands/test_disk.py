"""A disk that is full, a folder that is gone or not ours: one sentence, nothing half-written, and it goes on later."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from safetensors.torch import load_file

from talktune.files import whole_folder
from talktune.store.store import Store

from ..serve.conftest import running_engine, serving


def limit(size: int) -> None:
    """No file of this process grows beyond: what a full disk is to whoever writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def run(*arguments: object, size: int | None = None, before: str = "") -> subprocess.CompletedProcess[str]:
    """A command as a process of its own, in which `before` runs first."""
    program = f"{before}\nfrom talktune.cli import main\nmain()"
    prepare: Callable[[], object] | None = None if size is None else partial(limit, size)
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # Python would leave torn files of its own
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=env, preexec_fn=prepare
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def training(model: Path, talks: Path, run: Path) -> list[object]:
    options = ("--judge", "oracle", "--updates", 2, "--batch-turns", 4, "--lora-rank", 2, "--device", "cpu")
    return ["train", talks, "--model", model, *options, "-o", run]


@pytest.fixture(scope="module")
def trained(tiny_model: Path, talks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of a run that nothing kept from its end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = run(*training(tiny_model, talks, folder))
    assert done.returncode == 0, done.stderr
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def check_goes_on(tiny_model: Path, talks: Path, folder: Path, trained: dict[str, Any]) -> None:
    assert not left_over(folder)
    done = run(*training(tiny_model, talks, folder), "--resume")
    assert done.returncode == 0, done.stderr
    found = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert all(found[name].equal(weight) for name, weight in trained.items())


def test_train_on_a_disk_that_is_full(tiny_model: Path, talks: Path, tmp_path: Path, trained: dict[str, Any]) -> None:
    # The checkpoint is what is largest: everything before it is there.
    done = run(*training(tiny_model, talks, tmp_path / "run"), size=16 << 10)
    assert "update-000001 cannot be written (File too large)" in sentence(done)
    assert not [*(tmp_path / "run").glob("checkpoints/update-*")]
    check_goes_on(tiny_model, talks, tmp_path / "run", trained)


def test_train_in_a_folder_that_goes_away(
    tiny_model: Path, talks: Path, tmp_path: Path, trained: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    gone = (
        "import shutil\nfrom talktune.learner.update import Learner\nstep = Learner.step\n"
        f"def vanish(*a):\n    shutil.rmtree({str(folder)!r})\n    return step(*a)\nLearner.step = vanish"
    )
    done = run(*training(tiny_model, talks, folder), before=gone)
    assert "cannot be written (No such file or directory)" in sentence(done)
    assert not folder.exists()
    done = run(*training(tiny_model, talks, folder))
    assert done.returncode == 0, done.stderr


def test_score_on_a_disk_that_is_full(talks: Path, tmp_path: Path) -> None:
    scored = tmp_path / "scored.jsonl"
    options = ("score", talks, "--judge", "oracle", "-o", scored)
    assert "scored.jsonl cannot be written" in sentence(run(*options, size=1 << 10))
    again = run(*options)
    whole = run("score", talks, "--judge", "oracle", "-o", tmp_path / "whole.jsonl")
    assert again.returncode == whole.returncode, again.stderr
    assert sorted(scored.read_text().splitlines()) == sorted((tmp_path / "whole.jsonl").read_text().splitlines())


def writing(model: Path, talks: Path, folder: Path) -> list[list[object]]:
    """Every kind of command that writes, into a folder."""
    return [
        ["score", talks, "--judge", "oracle", "-o", folder / "scored.jsonl"],
        training(model, talks, folder / "run"),
        ["demo", "-o", folder / "run"],
        ["serve", "--store", folder / "s.db", "--upstream", "http://127.0.0.1:9"],
        ["judge", "--store", folder / "s.db"],
    ]


def test_a_folder_that_is_a_file(tiny_model: Path, talks: Path, talktune: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for arguments in writing(tiny_model, talks, tmp_path / "file"):
        assert str(tmp_path / "file") in talktune(*arguments).sentence, arguments
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="no folder is closed to root")
def test_a_folder_that_is_not_ours(tiny_model: Path, talks: Path, talktune: Any, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for arguments in writing(tiny_model, talks, closed):
        assert str(closed) in talktune(*arguments).sentence, arguments
    assert not [*closed.iterdir()]


def test_serve_on_a_disk_that_is_full(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "x" * 400_000}]}
    with running_engine() as engine, serving(tmp_path / "s.db", "--upstream", engine.url) as server:
        ask = partial(httpx2.post, f"{server.url}/v1/chat/completions", timeout=30)
        assert ask(json=body | {"messages": [{"role": "user", "content": "Hi"}]}).status_code == 200
        if not hasattr(resource, "prlimit"):
            pytest.skip("no prlimit on this system")
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1 << 18, resource.RLIM_INFINITY))
        refused = ask(json=body)
        assert refused.status_code == 503
        assert "could not be stored" in refused.json()["error"]["message"]
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert ask(json=body).status_code == 200
    store = Store(tmp_path / "s.db")
    # What was said is whole, that of the answer that could not be sent included, once there was room again.
    assert {c.messages[0].content for c in store.export()} == {"Hi", body["messages"][0]["content"]}
    store.close()


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), whole_folder(tmp_path / "new"):
        raise RuntimeError("a bug")
    assert not [*tmp_path.iterdir()]
