"""A run ends with the same bits whenever it is killed: real processes, real signals, the real command.

Run as a script, this file is the driver: it loads torch once and forks a child for every run.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

UPDATES = 6
OPTIONS = (
    *("--judge", "oracle", "--lora-rank", "4", "--updates", str(UPDATES), "--batch-turns", "5"),
    *("--microbatch-tokens", "24", "--learning-rate", "0.01", "--beta", "0.1"),
    # What is kept besides the weights: the running baseline, and where the schedule stands.
    *("--group", "running", "--eps-high-schedule", "linear", "--eps-high-end", "0.4"),
)
CLOCK = {"seconds", "tokens_per_second"}


def talk() -> list[dict[str, Any]]:
    """Conversations with the truth that the oracle needs."""
    lines: list[dict[str, Any]] = []
    for i in range(8):
        messages = [
            {"role": "user", "content": f"Question {i}?"},
            {"role": "assistant", "content": "ab" * (1 + i % 4)},
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": f"no {i}"},
            {"role": "user", "content": "ok"},
        ]
        labels = {"1": 1 if i % 4 < 2 else -1, "3": 0}  # by length, so that they can be foretold
        lines.append({"id": f"c{i}", "messages": messages, "metadata": {"labels": labels}})
    return lines


# --- the driver ------------------------------------------------------------------------------------------


class Now:
    """Which update the run is in."""

    update = 0


def die(how: signal.Signals = signal.SIGKILL) -> None:
    os.kill(os.getpid(), how)


def at(owner: str, name: str, update: int, *, after: bool = False, call: int = 1, how: Any = signal.SIGKILL) -> None:
    """Die before or after the `call`-th call of a function within one update."""
    import importlib

    module, _, attribute = owner.partition(":")
    holder: Any = importlib.import_module(module)
    holder = getattr(holder, attribute) if attribute else holder
    real: Callable[..., Any] = getattr(holder, name)
    calls = {"n": 0}

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls["n"] += Now.update == update
        hit = Now.update == update and calls["n"] == call
        if hit and not after:
            die(how)
        result = real(*args, **kwargs)
        if hit and after:
            die(how)
        return result

    setattr(holder, name, wrapped)


def on(event: str, ending: str, update: int, *, torn: str = "") -> None:
    """Die when the interpreter is about to do `event` (an audit event) on a path that ends so."""
    busy: list[str] = []

    def hook(name: str, args: tuple[Any, ...]) -> None:
        if busy or name != event or Now.update != update:
            return
        paths = [os.fsdecode(a) for a in args[:2] if isinstance(a, str | bytes | os.PathLike)]
        if any(path.rstrip("/").endswith(ending) for path in paths):
            busy.append(name)
            if torn:
                with Path(paths[0]).open("a") as file:
                    file.write(torn)
            die()

    sys.addaudithook(hook)


UPDATE, CHECKPOINT = "talktune.learner.update", "talktune.learner.checkpoint"
READER = "talktune.learner.logprobs:Reader"
KILLS: dict[str, Callable[[], None]] = {
    "while judging": lambda: at("talktune.api.score", "judge_turns", 0, call=1, after=True),
    "after the metrics line of 2": lambda: at(f"{UPDATE}:Learner", "step", 2),  # as 3 is to begin
    "in the forward pass of 2": lambda: at(READER, "read", 2, call=2),
    "before the backward pass of 3": lambda: at("torch:Tensor", "backward", 3),
    "between packs of 5": lambda: at("torch:Tensor", "backward", 5, call=2, after=True),
    "before the optimizer of 3": lambda: at("torch.optim:AdamW", "step", 3),
    "after the optimizer of 5": lambda: at("torch.optim:AdamW", "step", 5, after=True),
    "before the weights of 2": lambda: at(CHECKPOINT, "save_file", 2),
    "after the weights of 3": lambda: at(CHECKPOINT, "save_file", 3, after=True),
    "at the state of 5": lambda: on("open", "state.json", 5),
    "before the rename of 5": lambda: on("os.rename", "update-000005", 5),
    "after the rename of 4": lambda: at(CHECKPOINT, "checkpoints", 4),
    "while an old checkpoint goes in 4": lambda: on("os.remove", "tensors.safetensors", 4),
    "before the metrics line of 3": lambda: on("open", "metrics.jsonl", 3),
    "within the metrics line of 5": lambda: on("open", "metrics.jsonl", 5, torn='{"update": 5, "rew'),
    "while writing the adapter": lambda: on("open", "adapter_config.json", UPDATES),
    "before the adapter's rename": lambda: on("os.rename", "/adapter", UPDATES),
    "after the adapter, before the report": lambda: at("talktune.api.train", "make_report", UPDATES),
}
FRESH = ("--fresh-answers", "3")
ASKING = "talktune.learner.asker"
FRESH_KILLS: dict[str, Callable[[], None]] = {
    "while the turns of 4 are read": lambda: at(ASKING, "read_answers", 3, call=2),
    "while fresh answers are sampled for 6": lambda: at(ASKING, "sample_answers", 5, after=True),
}
STOP = "Ctrl-C in 3"
"""Not killed: interrupted, as a person at the keyboard does it."""


def in_child(arguments: list[str], arm: Callable[[], None] | None, log: Path) -> int:
    """Run the command in a forked child; returns its exit code, negative for a signal."""
    from talktune.cli import main

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    with contextlib.suppress(BaseException):
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if arm is not None:
            arm()
        sys.argv = ["talktune", *arguments]
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 98
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def driver(model: str, folder: Path) -> None:
    """Every run, killed and resumed; what came of it goes to `results.json`."""
    import torch

    torch.set_num_threads(1)
    # A shell that starts a job in the background has it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import talktune.report.page as page
    from talktune.config import ModelConfig
    from talktune.learner.update import Learner
    from talktune.policy.load import load_policy

    load_policy(ModelConfig(model=model, device="cpu"))
    real = Learner.step

    def step(self: Learner, *samples: Any) -> Any:
        Now.update = self.update + 1
        return real(self, *samples)

    Learner.step = step  # type: ignore[method-assign]
    page.make_report = lambda run_dir: run_dir / "report.html"  # plots take longer than all the rest
    file = folder / "talk.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in talk()))

    def run(name: str, arm: Callable[[], None] | None = None, *more: str) -> tuple[int, str]:
        where = folder / name.replace(" ", "-")
        log = folder / f"{name}.log"
        arguments = ["train", str(file), "--model", model, "--output", str(where), *OPTIONS, *more]
        return in_child(arguments, arm, log), log.read_text()

    results: dict[str, Any] = {}
    for name, more in (("one", ()), ("two", ()), ("other seed", ("--seed", "1")), ("fresh", FRESH)):
        results[name] = {"code": run(name, None, *more)[0]} | outcome(folder / name.replace(" ", "-"))
    stop = {STOP: lambda: at(READER, "read", 3, call=2, how=signal.SIGINT)}
    for name, arm in (KILLS | FRESH_KILLS | stop).items():
        more = FRESH if name in FRESH_KILLS else ()
        died, said = run(name, arm, *more)
        code, again = run(name, None, "--resume", *more)
        where = folder / name.replace(" ", "-")
        results[name] = {"died": died, "said": said, "code": code, "resumed": again} | outcome(where)
    (folder / "results.json").write_text(json.dumps(results))


def outcome(run: Path) -> dict[str, Any]:
    adapter = run / "adapter" / "adapter_model.safetensors"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "adapter": hashlib.sha256(adapter.read_bytes()).hexdigest() if adapter.exists() else None,
        "metrics": [{k: v for k, v in line.items() if k not in CLOCK} for line in lines],
        "left": sorted(p.name for p in run.rglob(".*")),
        "checkpoints": sorted(p.name for p in (run / "checkpoints").iterdir()),
    }


# --- the tests -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    made = subprocess.run(
        [sys.executable, __file__, str(tiny_model), str(folder)], env=environment, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    return json.loads((folder / "results.json").read_text())


def test_two_runs_with_one_seed_are_equal_bit_for_bit(results: dict[str, Any]) -> None:
    assert results["one"]["code"] == results["two"]["code"] == results["other seed"]["code"] == 0
    assert results["one"]["adapter"] == results["two"]["adapter"]
    assert results["one"]["metrics"] == results["two"]["metrics"]
    assert results["one"]["adapter"] != results["other seed"]["adapter"]


def test_the_runs_learn_something(results: dict[str, Any]) -> None:
    norms = [line["grad_norm"] for line in results["one"]["metrics"]]
    assert len(norms) == UPDATES
    assert norms[0] == 0  # nothing yet that the first rewards could be compared with
    assert min(norms[1:]) > 0
    assert results["one"]["metrics"][-1]["kl_ref"] > 0
    assert results["fresh"]["metrics"][-1]["fresh_tokens"] > 0


@pytest.mark.parametrize("name", [*KILLS, *FRESH_KILLS, STOP])
def test_a_killed_run_ends_as_one_that_was_not(results: dict[str, Any], name: str) -> None:
    found, whole = results[name], results["fresh" if name in FRESH_KILLS else "one"]
    assert found["died"] == (130 if name == STOP else -signal.SIGKILL), found["said"]
    assert found["code"] == 0, found["resumed"]
    assert found["adapter"] == whole["adapter"]
    assert found["metrics"] == whole["metrics"]
    assert [line["update"] for line in found["metrics"]] == list(range(1, UPDATES + 1))
    assert found["checkpoints"] == [f"update-{n:06d}" for n in (UPDATES - 1, UPDATES)]
    assert found["left"] == []


def test_ctrl_c_says_one_sentence(results: dict[str, Any]) -> None:
    said = results[STOP]["said"]
    assert "Traceback" not in said
    [sentence] = [line for line in said.splitlines() if line.startswith("talktune: ")]
    assert "--resume" in sentence


if __name__ == "__main__":
    driver(sys.argv[1], Path(sys.argv[2]))
