"""The host over HTTP: tokens per second of one client and of eight, and how long a late one waits.

One run, real processes: `python bench/host.py --output host.json`.
"""

import argparse
import asyncio
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import openai
from common import keep, started
from rich.console import Console
from rich.table import Table

QUESTION = "Tell me a long story about a lighthouse keeper, a storm and a lost ship."
TOKENS = 96
CLIENTS = 8


@dataclass
class Answer:
    """When each token of one answer came, in seconds since it was asked for."""

    asked: float
    times: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0]


async def ask(client: openai.AsyncOpenAI, model: str, seed: int) -> Answer:
    """One streamed answer."""
    answer = Answer(time.perf_counter())
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"{QUESTION} ({seed})"}],
        max_tokens=TOKENS,
        seed=seed,
        temperature=1.0,
        stream=True,
        extra_body={"return_token_ids": True},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].model_extra and chunk.choices[0].model_extra.get("token_ids"):
            answer.times.append(time.perf_counter() - answer.asked)
    return answer


async def together(client: openai.AsyncOpenAI, model: str, count: int) -> tuple[float, list[Answer]]:
    """Tokens per second of `count` answers at once, from the first request to the last token."""
    start = time.perf_counter()
    answers = await asyncio.gather(*(ask(client, model, seed) for seed in range(count)))
    return sum(len(answer.times) for answer in answers) / (time.perf_counter() - start), answers


async def late(client: openai.AsyncOpenAI, model: str) -> tuple[float, float]:
    """Seconds to the first token of a request that comes while eight run, and until the first of those ends."""
    others = [asyncio.ensure_future(ask(client, model, 100 + i)) for i in range(CLIENTS)]
    await asyncio.sleep(3.0)
    answer = await ask(client, model, 200)
    ends = [other.asked + other.times[-1] for other in await asyncio.gather(*others)]
    return answer.first, max(ends) - answer.asked


async def measure(url: str) -> dict[str, float]:
    """All figures."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client:
        model = (await client.models.list()).data[0].id
        await ask(client, model, 0)  # the first pass is slower: memory is fetched
        one, [alone] = await together(client, model, 1)
        many, answers = await together(client, model, CLIENTS)
        waited, rest = await late(client, model)
    return {
        "one_tokens_per_second": one,
        "eight_tokens_per_second": many,
        "ratio": many / one,
        "first_token_alone_seconds": alone.first,
        "first_token_of_eight_seconds": max(answer.first for answer in answers),
        "late_first_token_seconds": waited,
        "others_ran_on_seconds": rest,
    }


def main() -> None:
    """Start a host, measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter")
    parser.add_argument("--output", type=Path, help="write the figures as JSON, too")
    args = parser.parse_args()
    adapter = ["--adapter", args.adapter] if args.adapter else []
    with started(sys.executable, "-m", "talktune.host", "--model", args.model, *adapter) as (_, url):
        figures = asyncio.run(measure(url))
    table = Table("what", "value")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.2f}")
    console = Console()
    console.print(f"{args.model}, {platform.machine()}, {os.cpu_count()} cores, {TOKENS} tokens an answer")
    console.print(table)
    keep(args.output, {"model": args.model} | figures)


if __name__ == "__main__":
    main()
