"""Several ranks give what one process gives: real processes over gloo, the real command, real kills.

Run as a module, this file is the driver: it loads torch once and forks every rank.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from ..ranks import ended, fork, started

RANKS = 2
KINDS = ("lora", "full", "copies")
"""Shares of weights of which an adapter is trained, or all; copies of weights of which an adapter is trained."""
UPDATES = 4
OPTIONS = (
    *("--judge", "oracle", "--updates", str(UPDATES), "--batch-turns", "5", "--fresh-answers", "0"),
    *("--microbatch-tokens", "24", "--learning-rate", "0.001", "--group", "running"),
)
LORA = ("--lora-rank", "4", "--beta", "0.1", "--distill", "auto")
FULL = ("--lora-rank", "0", "--beta", "0")
CLOCK = {"seconds", "tokens_per_second"}
RESUMED = (1, 2, 3)


def talk() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for i in range(8):
        messages = [
            {"role": "user", "content": f"Question {i}?"},
            {"role": "assistant", "content": "ab" * (1 + i % 4)},
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": f"no {i}"},
            {"role": "user", "content": "ok"},
        ]
        lines.append({"id": f"c{i}", "messages": messages, "metadata": {"labels": {"1": 1 - 2 * (i % 2), "3": 0}}})
    return lines


# --- ranks that answer the driver ------------------------------------------------------------------------


def samples(seed: int) -> list[Any]:
    """Random samples that fork anywhere, some of the disliked ones with a teacher's prompt."""
    from talktune.types import Sample

    rng = random.Random(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 6) for _ in range(rng.randint(low, high)))

    prompts = [ids(1, 8) for _ in range(3)]
    made = [Sample(str(i), prompts[i % 3], ids(1, 10), float(rng.choice((-1, 0, 1))), str(i % 3)) for i in range(9)]
    return [
        replace(
            s,
            rollout_logprobs=tuple(-rng.uniform(4, 7) for _ in s.answer_ids),
            temperature=0.8,
            teacher_prompt_ids=ids(2, 12) if s.reward < 0 and rng.random() < 0.7 else None,
            wanted_ids=ids(1, 6) if s.reward < 0 and rng.random() < 0.5 else None,
        )
        for s in made
    ]


def make_learner(model: str, kind: str, ranks: Any) -> Any:
    import torch

    from talktune.config import AlgorithmConfig, Config, ModelConfig
    from talktune.learner.update import Learner
    from talktune.policy.adapter import attach_adapter
    from talktune.policy.load import load_policy

    tuned, lora = load_policy(ModelConfig(model=model, device="cpu")).model, kind != "full"
    if lora:
        tuned = attach_adapter(tuned, ModelConfig(lora_rank=4), seed=1)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.05, generator=generator)
    else:
        tuned.requires_grad_(True)
    algorithm = AlgorithmConfig(group="prompt", beta=0.1 if lora else 0.0, distill=0.5 if lora else "off")
    config = Config(model=ModelConfig(lora_rank=4 if lora else 0), algorithm=algorithm)
    made = Learner(tuned, config, total_updates=10, **{"copies" if kind == "copies" else "ranks": ranks})
    made.passes.fewest_packs = RANKS  # the same packs, whoever has them
    return made


def update_of(learner: Any, seed: int, budget: int, aggregation: str, owners: list[int] | None) -> tuple[Any, Any]:
    """The metrics and the whole gradient of one update; `owners` say whose each pack is."""
    import talktune.learner.update as module
    from talktune.learner.ranks import whole_tensor
    from talktune.rl.dealing import deal

    def given(sizes: list[int], ranks: int) -> list[tuple[int | None, ...]]:
        if owners is None or ranks == 1:
            return deal(sizes, ranks)
        return list(zip_longest(*([i for i in range(len(sizes)) if owners[i] == rank] for rank in range(ranks))))

    module.deal = given
    learner.optimizer.zero_grad(set_to_none=True)
    config = learner.config
    learner.config = replace(config, algorithm=replace(config.algorithm, aggregation=aggregation))
    learner.passes.train = replace(config.train, microbatch_tokens=budget)
    metrics = learner.gradient(samples(seed))
    learner._add_up()
    gradient = {n: whole_tensor(p.grad).numpy() for n, p in learner.trained.items() if p.grad is not None}
    return metrics, gradient


def answer(number: int, model: str, meeting: Path, pipe: Connection) -> None:
    """A rank: a learner of each kind, and an update for everything that is asked."""
    import torch.distributed as dist

    from talktune.learner.ranks import Ranks

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=RANKS)
    learners = {kind: make_learner(model, kind, Ranks(number, RANKS)) for kind in KINDS}
    while (asked := pipe.recv()) is not None:
        kind, *what = asked
        metrics, gradient = update_of(learners[kind], *what)
        pipe.send((metrics, gradient if number == 0 else None))
    dist.destroy_process_group()


def any_dealing(model: str, folder: Path) -> str:
    """Hold updates of the ranks against those of one process; what was found wrong."""
    import numpy as np
    from hypothesis import Phase, example, given, settings
    from hypothesis import strategies as st

    from talktune.learner.ranks import ALONE

    pipes = []
    for number in range(RANKS):
        mine, theirs = Pipe()
        fork(lambda n=number, p=theirs: answer(n, model, folder / "meeting", p), folder / f"rank{number}.log")
        theirs.close()
        pipes.append(mine)
    alone = {kind: make_learner(model, kind, ALONE) for kind in KINDS}

    # No shrinking: every example is a round trip of all ranks. This process has no profile of conftest's.
    @settings(max_examples=18, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
    @given(
        kind=st.sampled_from(KINDS),
        seed=st.integers(0, 10_000),
        budget=st.integers(1, 120),
        aggregation=st.sampled_from(["token", "sequence"]),
        owners=st.none() | st.lists(st.integers(0, RANKS - 1), min_size=20, max_size=20),
    )
    # The first rank has nothing to do while the other has four packs more.
    @example("lora", 730, 51, "sequence", [1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1])
    def check(kind: str, seed: int, budget: int, aggregation: str, owners: list[int] | None) -> None:
        for pipe in pipes:
            pipe.send((kind, seed, budget, aggregation, owners))
        (metrics, gradient), (others, _) = (pipe.recv() for pipe in pipes)
        wanted, expected = update_of(alone[kind], seed, budget, aggregation, None)
        assert others == metrics
        assert metrics == pytest.approx(wanted, rel=1e-6, abs=1e-7)
        assert gradient.keys() == expected.keys()
        for name, one in expected.items():
            off = np.linalg.norm(gradient[name] - one)
            assert off <= 1e-6 * np.linalg.norm(one), (name, off, np.linalg.norm(one))

    try:
        check()
    except Exception:
        return traceback.format_exc()
    finally:
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
    return ""


# --- the command, on several ranks ---------------------------------------------------------------------


def kill(rank: int, update: int, owner: str, name: str) -> Callable[[int], None]:
    """The last rank dies as it is to call a function within an update."""

    def arm(number: int) -> None:
        if number != rank:
            return
        import importlib

        from talktune.learner.update import Learner

        module, _, attribute = owner.partition(":")
        holder: Any = importlib.import_module(module)
        holder = getattr(holder, attribute) if attribute else holder
        real, step, now = getattr(holder, name), Learner.step, [0]

        def counted(self: Any, *given: Any) -> Any:
            now[0] = self.update + 1
            return step(self, *given)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if now[0] == update:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(holder, name, wrapped)
        Learner.step = counted  # type: ignore[method-assign]

    return arm


KILLS = {
    "lora": kill(1, 3, "torch.optim:AdamW", "step"),
    "full": kill(0, 3, "talktune.learner.checkpoint", "save"),
}


def driver(model: str, folder: Path) -> None:
    """Everything; what came of it goes to `results.json`."""
    import torch

    torch.set_num_threads(1)
    import talktune.report.page as page
    from talktune.config import ModelConfig
    from talktune.policy.load import load_policy

    load_policy(ModelConfig(model=model, device="cpu"))
    page.make_report = lambda run_dir: run_dir / "report.html"
    file = folder / "talk.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in talk()))

    def run(name: str, ranks: int, *more: str, **how: Any) -> list[int]:
        there = ["train", str(file), "--model", model, "--output", str(folder / name), *OPTIONS, *more]
        return ended(started(ranks, there, folder / f"{name}.log", **how))

    results: dict[str, Any] = {"dealing": any_dealing(model, folder)}
    for kind, options in (("lora", LORA), ("full", FULL)):
        results[f"{kind}-whole"] = run(f"{kind}-whole", 1, *options)
        results[f"{kind}-killed"] = run(f"{kind}-killed", RANKS, *options, arm=KILLS[kind])
        for ranks in RESUMED:
            name = f"{kind}-on-{ranks}"
            shutil.copytree(folder / f"{kind}-killed", folder / name)
            results[name] = run(name, ranks, *options, "--resume")
    results["there"] = run("lora-whole", RANKS, *LORA)
    score = ["score", str(file), "--judge", "oracle", "--output", str(folder / "scored")]
    results["score"] = ended(started(RANKS, score, folder / "score.log"))
    (folder / "results.json").write_text(json.dumps(results))


# --- the tests -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.learner.test_ranks", str(tiny_model), str(made)],
        cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def said(folder: Path, name: str) -> str:
    return "\n".join(log.read_text() for log in sorted(folder.glob(f"{name}*.log")))


def weights(run: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    [file] = (run / "adapter").glob("*.safetensors")
    return load_file(file)


def metrics(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def test_loss_metrics_and_gradients_are_those_of_one_process(folder: Path, results: dict[str, Any]) -> None:
    """However the packs are dealt, with LoRA and with all weights, with shares of the weights and with copies."""
    assert results["dealing"] == "", results["dealing"] + said(folder, "rank")


@pytest.mark.parametrize("ranks", RESUMED)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_rank_is_killed_and_any_number_of_ranks_goes_on(
    folder: Path, results: dict[str, Any], kind: str, ranks: int
) -> None:
    import torch

    assert results[f"{kind}-whole"] == [0], said(folder, f"{kind}-whole")
    assert -signal.SIGKILL in results[f"{kind}-killed"], said(folder, f"{kind}-killed")
    assert 0 not in results[f"{kind}-killed"]
    assert results[f"{kind}-on-{ranks}"] == [0] * ranks, said(folder, f"{kind}-on-{ranks}")
    whole, again = folder / f"{kind}-whole", folder / f"{kind}-on-{ranks}"
    expected, found = weights(whole), weights(again)
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-6, atol=1e-6)
    assert metrics(again) == [pytest.approx(line, rel=1e-4, abs=1e-5) for line in metrics(whole)]
    assert not [*again.rglob(".*")]
    assert sorted(p.name for p in (again / "checkpoints").iterdir()) == ["update-000003", "update-000004"]


def test_what_needs_fresh_answers_is_said_to_be_off(folder: Path, results: dict[str, Any]) -> None:
    assert results["lora-on-2"] == [0, 0]
    assert said(folder, "lora-on-2").count("--distill auto is off") == 1


def test_a_mistake_is_told_once(folder: Path, results: dict[str, Any]) -> None:
    for name, word in (("there", "--resume"), ("score", "`train` and `learn`")):
        assert results[name] == [2] * RANKS
        log = "lora-whole" if name == "there" else name
        told, silent = (folder / f"{log}.{n}.log" for n in range(RANKS))
        assert word in told.read_text().splitlines()[-1]
        assert silent.read_text() == ""


def test_torchrun(folder: Path, tiny_model: Path) -> None:
    run = folder / "torchrun"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)),
            *("-m", "talktune", "train", str(folder / "talk.jsonl"), "--model", str(tiny_model), "--output", str(run)),
            *(*OPTIONS, *LORA),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Turns") == 1
    assert metrics(run) == [pytest.approx(line, rel=1e-4, abs=1e-5) for line in metrics(folder / "lora-whole")]


if __name__ == "__main__":
    driver(sys.argv[1], Path(sys.argv[2]))
