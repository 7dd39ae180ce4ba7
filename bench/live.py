"""What learning costs those who talk meanwhile: the first token during swaps, the gaps during updates, the memory.

Swaps: a tiny random model, eight clients that stream, versions that go live one after the other. Updates: the shipped
model, clients that react in words, `talktune serve` with and without judging and learning, the same talk in the same
run.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch
from common import keep, started, talktune
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from talktune.config import ModelConfig
from talktune.demo.user import User
from talktune.policy.adapter import attach_adapter, save_adapter
from talktune.policy.load import load_policy, shipped_model
from talktune.store.policies import Policies, version_name
from talktune.store.store import Store

CLIENTS = 8
TALKERS = 4
SWAP_SECONDS = 1.0
"""A request is "during a swap" when some of its wait for the first token lies within so long after the swap."""


@dataclass
class Answer:
    """One streamed answer, in wall time."""

    sent: float
    times: list[float] = field(default_factory=list[float])
    model: str = ""
    text: str = ""
    finish: str = ""

    @property
    def wait(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.sent


class Failed(Exception):
    """A request that was refused, or whose answer broke off."""


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any], **headers: str) -> Answer:
    """Stream one answer."""
    answer = Answer(time.time())
    async with session.post(f"{url}/v1/chat/completions", json=body | {"stream": True}, headers=headers) as reply:
        if reply.status != 200:
            raise Failed(await reply.text())
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise Failed(chunk["error"])
            answer.model, choice = chunk["model"], chunk["choices"][0]
            if choice["delta"].get("content"):
                answer.times.append(time.time())
                answer.text += choice["delta"]["content"]
            answer.finish = choice["finish_reason"] or answer.finish
    if not answer.finish:
        raise Failed("cut short")
    return answer


def serve(store: Path) -> list[str]:
    """`talktune serve` on a free port."""
    return talktune("serve", "--port", "0", "--store", str(store))


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return float(np.percentile(values, 99))


# Swaps.


def make_tiny(folder: Path, count: int) -> tuple[Path, list[Path]]:
    """A random Llama with the shipped tokenizer, and adapters for it."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(shipped_model())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    policy = load_policy(ModelConfig(model=str(folder / "tiny"), device="cpu"))
    tuned = attach_adapter(policy.model, ModelConfig(lora_rank=4), 0)
    adapters: list[Path] = []
    for number in range(1, count + 1):
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.3)
        adapters.append(folder / "policies" / version_name(number))
        save_adapter(tuned, adapters[-1])
    return folder / "tiny", adapters


def measure_swaps(requests: int, swaps: int) -> dict[str, Any]:
    """The waits for a first token during the swaps, and outside of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, adapters = make_tiny(folder, swaps)
        store = Store(folder / "store.db")
        policies = Policies(store)
        options = ["--model", str(model), "--device", "cpu", "--no-judge", "--no-learn"]
        with started(*serve(folder / "store.db"), *options) as (_, url):
            answers, swapped, failed = asyncio.run(_swapping(url, requests, policies, adapters))
        store.close()
    during = [a for a in answers if any(s <= a.times[0] and a.sent <= s + SWAP_SECONDS for s in swapped)]
    inside = set(map(id, during))
    outside = [a.wait for a in answers if id(a) not in inside]
    return {
        "requests": len(answers),
        "failed": failed,
        "versions": len({a.model for a in answers}),
        "during": len(during),
        "p99_during": p99([a.wait for a in during]),
        "p99_outside": p99(outside),
        "median_during": statistics.median(a.wait for a in during),
        "median_outside": statistics.median(outside),
    }


async def _swapping(
    url: str, requests: int, policies: Policies, adapters: Sequence[Path]
) -> tuple[list[Answer], list[float], list[str]]:
    answers: list[Answer] = []
    failed: list[str] = []
    swapped: list[float] = []

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        turn = 0
        while len(answers) < requests:
            turn += 1
            said = f"This is turn {turn} of client {number}."
            body = {"messages": [{"role": "user", "content": said}], "max_tokens": 12, "temperature": 1.0}
            try:
                answer = await ask(session, url, body)
                if answer.times:
                    answers.append(answer)
            except (Failed, aiohttp.ClientError) as error:
                failed.append(str(error))

    async def swap() -> None:
        for number, path in enumerate(adapters, start=1):
            while len(answers) < number * requests // (len(adapters) + 1):
                await asyncio.sleep(0.01)
            policies.adopt(number, path, "made by the bench", time.time())
            swapped.append(time.time())

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(ask(session, url, _hello()) for _ in range(CLIENTS)))
        await asyncio.gather(swap(), *(client(session, number) for number in range(CLIENTS)))
    return answers, swapped, failed


def _hello() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}


# Updates.


class Memory:
    """The highest memory of a process and its children, shared pages counted once (PSS, proc(5))."""

    def __init__(self, pid: int) -> None:
        self.highest = 0.0
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """MiB."""
        self._stop.set()
        self._thread.join()
        return self.highest

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.highest = max(self.highest, sum(map(_pss, _tree(self._pid))))


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in _tree(int(child)))]


def _pss(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def measure_updates(turns: int, learn: bool) -> dict[str, Any]:
    """Gaps between tokens in seconds, and memory, while people talk and react."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "store.db"
        options = ["--policies", str(folder / "policies"), *([] if learn else ["--no-judge", "--no-learn"])]
        with started(*serve(path), *options) as (process, url):
            memory = Memory(process.pid)
            store = Store(path)
            try:
                answers = asyncio.run(_talking(url, turns, store if learn else None))
            finally:
                highest = memory.stop()
            with store.reading() as c:
                rows = c.exec_driver_sql("SELECT created, metrics FROM updates").fetchall()
            store.close()
    updates = [(created - json.loads(metrics)["seconds"], created) for created, metrics in rows]
    gaps = [(b, b - a) for answer in answers for a, b in zip(answer.times, answer.times[1:], strict=False)]
    return {
        "answers": len(answers),
        "updates": len(updates),
        "update_seconds": [end - begin for begin, end in updates],
        "memory_mib": highest,
        "gaps": [gap for _, gap in gaps],
        "gaps_in_updates": [gap for at, gap in gaps if any(begin <= at <= end + gap for begin, end in updates)],
    }


async def _talking(url: str, turns: int, store: Store | None) -> list[Answer]:
    """So many questions with their reactions, and, with a store, talk until what was said is learned and live."""
    character, rng = User("plain"), random.Random(0)
    questions = character.questions["train"]
    answers: list[Answer] = []
    count = iter(range(10**9))

    def more(number: int) -> bool:
        if number < turns or store is None:
            return number < turns
        with store.reading() as c:
            learned = c.exec_driver_sql("SELECT count(*) FROM update_turns").scalar() or 0
            waits = c.exec_driver_sql("SELECT count(*) FROM versions WHERE state = 'candidate'").scalar()
        return learned < turns // 16 * 16 or bool(waits)

    async def client(session: aiohttp.ClientSession) -> None:
        while more(number := next(count)):
            question = questions[number % len(questions)]
            messages = [{"role": "user", "content": question.text}]
            named = {"X-Session-Id": f"session-{number}"}
            body = {"temperature": 0.8, "max_tokens": 64, "seed": number}
            answer = await ask(session, url, body | {"messages": messages}, **named)
            answers.append(answer)
            opinion = character.judge(question, answer.text, answer.finish == "stop")
            messages += [
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": character.react(opinion, question, rng)},
            ]
            await ask(session, url, body | {"messages": messages, "max_tokens": 1}, **named | {"X-Session-Done": "1"})

    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await ask(session, url, _hello())
        await asyncio.gather(*(client(session) for _ in range(TALKERS)))
    return answers


def main() -> None:
    """Run it all, print the table, keep the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=64, help="judged turns while updates are measured")
    parser.add_argument("--only", choices=("swaps", "updates"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    console = Console()
    found: dict[str, Any] = {}
    table = Table("measured", "without", "with", "difference")
    if args.only != "updates":
        console.print(f"{args.requests} requests over {args.swaps} swaps …", style="dim")
        s = found["swaps"] = measure_swaps(args.requests, args.swaps)
        outside, during = s["p99_outside"], s["p99_during"]
        table.add_row("first token, p99: outside, during a swap", *_ms(outside, during), f"× {during / outside:.2f}")
        outside, during = s["median_outside"], s["median_during"]
        table.add_row("first token, median", *_ms(outside, during), f"× {during / outside:.2f}")
        asked = f"{s['requests']}, {s['during']} of them during one of {args.swaps} swaps, on {s['versions']} versions"
        table.add_row("requests that failed", "", str(len(s["failed"])), asked)
    if args.only != "swaps":
        console.print(f"{args.turns} turns on the shipped model, serving alone …", style="dim")
        alone = found["alone"] = measure_updates(args.turns, learn=False)
        console.print(f"{args.turns} turns judged and learned from …", style="dim")
        all_ = found["learning"] = measure_updates(args.turns, learn=True)
        was = p99(alone["gaps"])
        for what, gaps in (("an update", all_["gaps_in_updates"]), ("judging, learning and gates", all_["gaps"])):
            now = p99(gaps)
            table.add_row(f"gap between tokens, p99, during {what}", *_ms(was, now), f"+{(now - was) * 1000:.0f} ms")
        m, n = alone["memory_mib"], all_["memory_mib"]
        table.add_row("memory, highest, server and host", f"{m:.0f} MiB", f"{n:.0f} MiB", f"× {n / m:.2f}")
        table.add_row("updates", "", str(all_["updates"]), "")
    console.print(table)
    keep(args.output, found)


def _ms(*seconds: float) -> list[str]:
    return [f"{one * 1000:.0f} ms" for one in seconds]


if __name__ == "__main__":
    main()
