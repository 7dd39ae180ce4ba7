"""What it costs that torch's threads spin briefly: an update and an answer, alone on the machine and beside other work.

`python bench/waiting.py` runs each way of waiting in processes of its own, in turns, and prints seconds and the ratio
to libgomp's default; on an idle machine, please. See `talktune.commands.waiting`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from common import keep
from rich.console import Console
from rich.table import Table

WAYS: dict[str, dict[str, str]] = {
    "default": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
THREADS = 2
ANSWER_TOKENS = 48


def work(repeats: int) -> None:
    """In a process: seconds of updates (8 answers of 40 tokens after a prompt of 400) and of answers, as JSON."""
    import torch
    from learner import make_model, prompt_samples

    from talktune.config import AlgorithmConfig, Config, TrainConfig
    from talktune.learner.update import Learner

    torch.set_num_threads(THREADS)
    model = make_model("smollm2")
    learner = Learner(model, Config(algorithm=AlgorithmConfig(group="prompt"), train=TrainConfig()), 100)
    samples = prompt_samples(49_152)

    def answer() -> None:
        with torch.inference_mode():
            found = model(torch.tensor([samples[0].prompt_ids]), use_cache=True)
            for _ in range(ANSWER_TOKENS):
                found = model(found.logits[:, -1:].argmax(-1), past_key_values=found.past_key_values, use_cache=True)

    def seconds(run: Callable[[], object]) -> list[float]:
        took: list[float] = []
        for _ in range(repeats + 1):  # the first one warms up
            start = time.perf_counter()
            run()
            took.append(time.perf_counter() - start)
        return took[1:]

    print(json.dumps({"update": seconds(lambda: learner.step(samples)), "answer": seconds(answer)}))


def busy() -> None:
    """In a process: matrix products on two threads until it is killed."""
    import torch

    torch.set_num_threads(THREADS)
    a = torch.randn(512, 512)
    while True:
        a = torch.tanh(a @ a)


def measure(way: dict[str, str], repeats: int) -> dict[str, list[float]]:
    """The seconds that one process with this way of waiting took."""
    free = {k: v for k, v in os.environ.items() if k not in {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"}}
    done = subprocess.run([sys.executable, __file__, "--work", str(repeats)], env=free | way, check=True, stdout=-1)
    return json.loads(done.stdout)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=4, help="updates and answers a process")
    parser.add_argument("--busy", action="store_true", help="beside a process that computes on two threads")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--compute", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compute:
        busy()
    if args.work:
        work(args.work)
        return
    found: dict[str, dict[str, list[float]]] = {way: {"update": [], "answer": []} for way in WAYS}
    with ExitStack() as stack:
        if args.busy:
            other = stack.enter_context(
                subprocess.Popen([sys.executable, __file__, "--compute"], env=os.environ | {"GOMP_SPINCOUNT": "1000"})
            )
            stack.callback(other.kill)
        for _ in range(args.rounds):
            for way, environment in WAYS.items():
                for name, took in measure(environment, args.repeats).items():
                    found[way][name] += took
    table = Table("way of waiting", "update (s)", "ratio", "answer (s)", "ratio")
    for way, rows in found.items():
        cells = [(median(rows[n]), median(rows[n]) / median(found["default"][n])) for n in ("update", "answer")]
        table.add_row(way, *(f"{value:.3f}" for pair in cells for value in pair))
    Console().print(table)
    keep(args.output, {"busy": args.busy, "seconds": found})


if __name__ == "__main__":
    main()
