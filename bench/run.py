"""`make bench`: how fast the shipped model samples and reads on this machine, in tokens per second."""

import argparse
import os
import platform
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from talktune.config import ModelConfig, SampleConfig
from talktune.policy.load import load_policy
from talktune.policy.sample import sample_answers
from talktune.policy.tokens import end_ids, render_prompt
from talktune.types import Message

QUESTION = Message("user", "What is photosynthesis, and why does it matter?")


def best_of(repeats: int, run: Callable[[], int]) -> tuple[int, float]:
    """Tokens of one run, and the seconds of the fastest of `repeats`."""
    seconds: list[float] = []
    tokens = 0
    for _ in range(repeats):
        start = time.perf_counter()
        tokens = run()
        seconds.append(time.perf_counter() - start)
    return tokens, min(seconds)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    policy = load_policy(ModelConfig(model=args.model, device=args.device))
    prompt = render_prompt(policy.tokenizer, [QUESTION])
    ends = end_ids(policy.tokenizer, policy.model.generation_config)
    table = Table("what", "tokens", "seconds", "tokens / s")

    def row(what: str, run: Callable[[], int]) -> None:
        tokens, seconds = best_of(args.repeats, run)
        table.add_row(what, str(tokens), f"{seconds:.2f}", f"{tokens / seconds:.0f}")

    def sample(copies: int) -> int:
        config = SampleConfig(max_new_tokens=48)
        answers = sample_answers(policy.model, [prompt], config, end_ids=ends, seed=0, copies=copies)
        return sum(len(answer.answer_ids) for answer in answers)

    def forward(backward: bool) -> int:
        ids = torch.tensor([prompt * 8] * 4, device=policy.device)
        with torch.set_grad_enabled(backward):
            loss = policy.model(ids, labels=ids).loss
            if backward:
                loss.backward()
        return ids.numel()

    for copies in (1, 8, 32):
        row(f"sample 48 tokens, {copies} at once", lambda copies=copies: sample(copies))
    row("read (forward)", lambda: forward(False))
    row("learn (forward and backward, all weights)", lambda: forward(True))
    console = Console()
    console.print(f"{args.model} on {policy.device}, {platform.machine()}, {os.cpu_count()} cores")
    console.print(table)


if __name__ == "__main__":
    main()
