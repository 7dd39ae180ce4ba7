"""What the server adds: an instant engine asked directly and through talktune, in turns, in one run.

The load generator is wrk (https://github.com/wg/wrk; Debian's package `wrk`), the engine a few lines of asyncio that
answer at once. Every request is stored durably before its answer is sent. Then a store is filled through the server:
100,000 turns in 1,000 conversations that stay open; the same load is measured on it and on a server that has just
begun, in turns. Last, the host: tokens per second of one request and of eight at once, and the first token of a late
request.
"""

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from common import keep, started, talktune
from rich.console import Console
from rich.table import Table

ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
FRESH = """
local n = 0
local run = RUN
request = function()
  n = n + 1
  local body = '{"model":"m","messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"' ..
    'question ' .. run .. ' ' .. n .. '"}]}'
  return wrk.format("POST", "/v1/chat/completions", {["Content-Type"] = "application/json"}, body)
end
"""
"""Each request begins a conversation."""
GROWING = """
local at, histories, depths = 0, {}, {}
request = function()
  at = at % COUNT + 1
  local depth = (depths[at] or 0) + 1
  local said = histories[at] or ''
  local new = said .. (depth > 1 and ',' or '') .. '{"role":"user","content":"turn ' .. depth .. ' of ' .. at .. '"}'
  histories[at] = new .. ',{"role":"assistant","content":"ok"}'
  depths[at] = depth
  return wrk.format("POST", "/v1/chat/completions", {["Content-Type"] = "application/json"},
    '{"model":"m","messages":[' .. new .. ']}')
end
"""
"""COUNT conversations take turns and grow."""


class Instant(asyncio.Protocol):
    """HTTP/1.1 with keep-alive: any POST gets ANSWER, any GET 404."""

    content = json.dumps(ANSWER).encode()
    reply = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
        + str(len(content)).encode()
        + b"\r\n\r\n"
        + content
    )
    missing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport, self.held = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            head = self.held[:end].lower()
            found = re.search(rb"content-length: (\d+)", head)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self.held) < size:
                return
            self.held = self.held[size:]
            self.transport.write(self.reply if head.startswith(b"post") else self.missing)


def instant() -> None:
    """The engine, as a process: prints its address and answers."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", 0)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()

    asyncio.run(run())


def load(url: str, script: str, connections: int, seconds: float) -> dict[str, float]:
    """One run of wrk: median in ms, requests per second."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "--latency"]
        done = subprocess.run([*command, "-s", file.name, url], capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(done.stdout)
    number, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", done.stdout).groups()  # type: ignore[union-attr]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1])  # type: ignore[index]
    return {"median_ms": float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit], "per_second": rate}


def fresh() -> str:
    """A script whose conversations nobody began before."""
    return FRESH.replace("RUN", str(time.time_ns()))


def resident_mib(pid: int) -> float:
    """Memory of a process, from /proc (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc has no VmRSS: this benchmark needs Linux")


def measure_proxy(seconds: float, turns: int, conversations: int, console: Console) -> dict[str, Any]:
    """Direct against through talktune, and an empty store against a full one."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, started(sys.executable, __file__, "--engine") as (_, engine):
        serve = talktune("serve", "--port", "0", "--upstream", engine, "--store")
        with started(*serve, f"{folder}/store.db") as (server, url):
            for connections in (1, 32):
                console.print(f"measuring {connections} at once …", style="dim")
                load(url, fresh(), connections, 2)
                direct = [load(engine, fresh(), connections, seconds / 2)]
                through = load(url, fresh(), connections, seconds)
                direct.append(load(engine, fresh(), connections, seconds / 2))
                best = min(direct, key=lambda one: one["median_ms"])
                found[str(connections)] = {
                    "direct": best,
                    "talktune": through,
                    "added_ms": through["median_ms"] - best["median_ms"],
                }
            memory = [resident_mib(server.pid)]
            script = GROWING.replace("COUNT", str(conversations))
            console.print(f"storing {turns} turns in {conversations} conversations …", style="dim")
            began, stored = time.monotonic(), 0
            done = _Growing(url, script)
            while stored < turns:
                time.sleep(5)
                stored = count_turns(url)
                memory.append(resident_mib(server.pid))
                if time.monotonic() - began > 3600 or done.ended():
                    break
            done.stop()
            found["store"] = {
                "turns": count_turns(url),
                "seconds": time.monotonic() - began,
                "memory_mib": [round(memory[0]), round(memory[len(memory) // 2]), round(memory[-1])],
            }
            with started(*serve, f"{folder}/empty.db") as (_, begun):
                load(begun, fresh(), 32, 2)
                rates = [[load(one, fresh(), 32, seconds / 2)["per_second"] for one in (begun, url)] for _ in range(5)]
            found["store"]["per_second"] = rates
            found["store"]["ratio"] = statistics.median(full / empty for empty, full in rates)
    return found


class _Growing:
    """wrk in the background."""

    def __init__(self, url: str, script: str) -> None:
        self._file = tempfile.NamedTemporaryFile("w", suffix=".lua")  # noqa: SIM115
        self._file.write(script)
        self._file.flush()
        command = ["wrk", "-t1", "-c32", "-d3600s", "--timeout", "30s", "-s", self._file.name, url]
        self._wrk = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def ended(self) -> bool:
        return self._wrk.poll() is not None

    def stop(self) -> None:
        self._wrk.kill()
        self._wrk.wait()
        self._file.close()


def count_turns(url: str) -> int:
    """Turns committed, as the server counts them."""
    text = httpx2.get(f"{url}/metrics").text
    return int(sum(float(n) for n in re.findall(r"^talktune_turns_total\{.*\} ([\d.e+]+)$", text, re.M)))


def measure_host() -> dict[str, float]:
    """Tokens per second of one request and of eight, and a late request's first token."""
    body = {"stream": True, "max_tokens": 64, "temperature": 0.8}
    with tempfile.TemporaryDirectory() as folder:
        serve = talktune("serve", "--port", "0", "--store", f"{folder}/store.db")
        with started(*serve) as (_, url):

            def ask(i: int, tokens: int = 64) -> tuple[float, float, int]:
                began, first, count = time.perf_counter(), 0.0, 0
                said = {"messages": [{"role": "user", "content": f"Tell me a story about number {i}."}]}
                more = {"max_tokens": tokens, "seed": i}
                with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body | said | more, timeout=300) as reply:
                    for line in reply.iter_lines():
                        if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                            first = first or time.perf_counter() - began
                            count += 1
                return first, time.perf_counter() - began, count

            ask(0)
            began = time.perf_counter()
            alone = sum(ask(i)[2] for i in range(3)) / (time.perf_counter() - began)
            began = time.perf_counter()
            with ThreadPoolExecutor(8) as pool:
                together = sum(n for _, _, n in pool.map(ask, range(8))) / (time.perf_counter() - began)
            ended = threading.Event()
            with ThreadPoolExecutor(3) as pool:
                early = [pool.submit(ask, i, 200) for i in range(2)]
                time.sleep(2)
                first = ask(9)[0]
                ended.set()
                left = sum(not one.done() for one in early)
    return {"alone": alone, "eight": together, "late_first_token": first, "others_still_running": left}


def main() -> None:
    """Run it all, print the table, keep the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        return instant()
    console = Console()
    if shutil.which("wrk") is None:
        console.print("bench/serve.py needs wrk (Debian and Ubuntu: apt-get install wrk); skipped.")
        return None
    found = measure_proxy(args.seconds, args.turns, args.conversations, console)
    found["host"] = measure_host()
    table = Table("measured", "direct", "through talktune", "difference")
    for connections in ("1", "32"):
        row = found[connections]
        direct, ours = row["direct"], row["talktune"]
        added = f"+{row['added_ms']:.2f} ms"
        table.add_row(
            f"median, {connections} at once", f"{direct['median_ms']:.2f} ms", f"{ours['median_ms']:.2f} ms", added
        )
        table.add_row(
            f"requests/s, {connections} at once", f"{direct['per_second']:.0f}", f"{ours['per_second']:.0f}", ""
        )
    store, host = found["store"], found["host"]
    empty, full = (statistics.median(rates) for rates in zip(*store["per_second"], strict=True))
    table.add_row(
        f"requests/s: empty, {store['turns']} turns", "", f"{empty:.0f}, {full:.0f}", f"× {store['ratio']:.2f}"
    )
    table.add_row("memory, MiB: start, middle, end", "", ", ".join(map(str, store["memory_mib"])), "")
    gain = host["eight"] / host["alone"]
    table.add_row(
        "host, tokens/s: one, eight at once", "", f"{host['alone']:.1f}, {host['eight']:.1f}", f"× {gain:.2f}"
    )
    late = f"{host['late_first_token']:.2f} s, {host['others_still_running']} others still running"
    table.add_row("first token of a late request", "", late, "")
    console.print(table)
    keep(args.output, found)
    return None


if __name__ == "__main__":
    main()
