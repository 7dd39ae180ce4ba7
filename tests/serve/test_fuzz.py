"""Requests that nobody would send: no 5xx, no hang, no growth of memory."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx2
import pytest

GROWTH_MIB = 50
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "c", "content": "r"},
        {"role": "user", "content": "b"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "auto",
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "max_tokens": 8,
    "n": 1,
    "stop": ["x"],
    "seed": 1,
    "logprobs": True,
    "top_logprobs": 2,
    "session_id": "s",
    "turn_type": "main",
    "user": "u",
}  # fmt: skip
RESPONSES: dict[str, Any] = {
    "model": "m",
    "instructions": "s",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "x"}], "content": None},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "r"},
        {"role": "user", "content": "b"},
    ],
    "tools": [
        {"type": "function", "name": "f", "parameters": {}, "strict": True},
        {"type": "namespace", "name": "s", "tools": [{"type": "function", "name": "g", "parameters": {}}]},
    ],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "metadata": {"a": "b"},
    "max_output_tokens": 8,
    "temperature": 0.5,
    "store": True,
    "stream": True,
    "parallel_tool_calls": True,
    "session_id": "s",
}
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 8,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "x", "signature": "y"},
            {"type": "text", "text": "b"},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "r"}], "is_error": False},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
        ]},
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": {}}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "stop_sequences": ["x"],
    "temperature": 0.5,
    "metadata": {"user_id": "u"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "stream": True,
}  # fmt: skip
ROUTES = {
    "/v1/chat/completions": BODY,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": MESSAGES,
}
VALUES = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e308, "", "x", "\x00", "\ud800",
    "💥" * 50, "a" * 5000, [], [[]], [None], {}, {"": None}, [{}], [[[[[[]]]]]], {"type": "text"}, {"role": "user"},
    "system", "tool",
]  # fmt: skip


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths(inner, (*at, key))
    return found


def mutated(rng: random.Random, good: dict[str, Any]) -> bytes:
    """A good body with one to four places changed, added or gone; now and then a byte, too."""
    body = json.loads(json.dumps(good))
    for _ in range(rng.randint(1, 4)):
        *way, last = rng.choice(paths(body)[1:])
        inner = body
        for key in way:
            inner = inner[key]
        kind = rng.random()
        if kind < 0.6:
            inner[last] = deepcopy(rng.choice(VALUES))
        elif kind < 0.8:
            del inner[last]
        elif isinstance(inner, dict):
            inner[rng.choice(["x", "role", "type", "content", "messages", "input", ""])] = deepcopy(rng.choice(VALUES))
        else:
            inner.append(deepcopy(rng.choice(VALUES)))
    text = bytearray(json.dumps(body).encode())
    if rng.random() < 0.1:
        for _ in range(rng.randint(1, 3)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text)


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.parametrize("count", [1_200, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_mutated_bodies(server: Any, count: int) -> None:
    def send(part: int, start: int, stop: int) -> list[int]:
        rng = random.Random(f"{part} {start}")
        statuses: list[int] = []
        with httpx2.Client(timeout=30) as client:
            for _ in range(start, stop):
                headers = {"Content-Type": "application/json"}
                if rng.random() < 0.1:
                    headers[rng.choice(["X-Session-Id", "X-Turn-Type", "X-Session-Done"])] = rng.choice(
                        ["", "1", "side", "x" * 300]
                    )
                route = rng.choice(list(ROUTES))
                content = mutated(rng, ROUTES[route])
                reply = client.post(server.url + route, content=content, headers=headers)
                assert reply.status_code < 500, (route, content, reply.text)
                assert "NaN" not in reply.text.replace("NaN is not", "")
                assert "Infinity" not in reply.text
                statuses.append(reply.status_code)
        return statuses

    def rounds(start: int, stop: int) -> list[int]:
        with ThreadPoolExecutor(4) as pool:
            parts = [pool.submit(send, part, start // 4, stop // 4) for part in range(4)]
            return [status for part in parts for status in part.result()]

    warm = rounds(0, 800)
    before = resident_mib(server.process.pid)
    statuses = warm + rounds(800, count)
    assert not [status for status in statuses if status >= 500]
    assert 200 in statuses
    assert 400 in statuses
    assert resident_mib(server.process.pid) - before < GROWTH_MIB
    assert httpx2.get(f"{server.url}/health").json()["running"] == 0


@pytest.mark.parametrize("examples", [8, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_schemathesis(server: Any, examples: int, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    command += [
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]
    command += ["--max-examples", str(examples), "--seed", "0", "--request-timeout", "30", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
