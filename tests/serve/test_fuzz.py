"""Requests that nobody would send: no 5xx, no hang, no growth of memory."""

import json
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import cycle
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
        {"role": "assistant", "content": None, "refusal": "no", "reasoning_content": "x"},
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
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
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
            {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "r"}], "is_error": True},
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
FEEDBACK: dict[str, Any] = {"completion_id": "chatcmpl-1", "choice": 0, "thumbs": "up", "score": 0.5, "better": "b"}
ROUTES = {
    "/v1/chat/completions": BODY,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": MESSAGES,
    "/v1/feedback": FEEDBACK,
}
IDS = {"/v1/chat/completions": "chatcmpl-", "/v1/responses": "resp_", "/v1/messages": "msg_"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": NaN, "b": [1e999]}'}}
ANSWERS: list[dict[str, Any]] = [
    {"content": "I am fine."},
    {"content": "", "reasoning_content": "hm", "tool_calls": [CALL, CALL | {"id": "d"}]},
    {"content": None, "refusal": "I will not."},
    {"content": " \n ", "reasoning_content": ""},
    {"content": "NaN"},
]
"""What the engine says, by turns."""
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
    """A good body with up to four places changed, added or gone; now and then a byte, too."""
    body = json.loads(json.dumps(good))
    for _ in range(rng.randint(0, 4)):
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


def referring(rng: random.Random, route: str, known: dict[str, str]) -> dict[str, Any]:
    """The good body of a route, now and then with an answer that there is."""
    good = ROUTES[route]
    if route == "/v1/feedback" and known:
        return good | {"completion_id": rng.choice(list(known.values()))}
    if route == "/v1/responses" and route in known and rng.random() < 0.3:
        id = known[route]
        kind = rng.choice(["msg", "rs", "fc"])
        reference = {"type": "item_reference", "id": id.replace("resp", kind) + rng.choice(["", "_0", "_9"])}
        return good | rng.choice([{"previous_response_id": id}, {"input": [*good["input"], reference]}])
    return good


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError


def number(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def checked(reply: httpx2.Response) -> None:
    """No failure, and every JSON value in it is one."""
    assert reply.status_code < 500, reply.text
    kind = reply.headers["content-type"]
    if kind.startswith("text/event-stream"):
        datas = [line.removeprefix("data: ") for line in reply.text.split("\n") if line.startswith("data: ")]
        assert datas
        for data in datas:
            if data != "[DONE]":
                json.loads(data, parse_constant=number)
    else:
        assert isinstance(json.loads(reply.text, parse_constant=number), dict)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.parametrize("version", [None, {"version": "0.11"}], ids=["text", "vllm"])
@pytest.mark.parametrize(
    ("seed", "count"),
    [(0, 600), *[pytest.param(seed, 5_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)]) for seed in (1, 2)]],
)
def test_mutated_bodies(server: Any, engine: Any, version: dict[str, Any] | None, seed: int, count: int) -> None:
    """20,000 in all four slow parts; half of them before an engine whose dialect is known."""
    answers = cycle(ANSWERS)
    engine.version, engine.tokens = version, 7
    engine.decide = lambda _: {"role": "assistant"} | next(answers)
    seen: dict[str, set[int]] = {route: set() for route in ROUTES}

    def send(part: int, start: int, stop: int) -> None:
        rng = random.Random(f"{seed} {part} {start}")
        known: dict[str, str] = {}
        with httpx2.Client(timeout=30) as client:
            for _ in range(start, stop):
                headers = {"Content-Type": "application/json"}
                if rng.random() < 0.1:
                    headers[rng.choice(["X-Session-Id", "X-Turn-Type", "X-Session-Done"])] = rng.choice(
                        ["", "1", "side", "x" * 300]
                    )
                route = rng.choice(list(ROUTES))
                content = mutated(rng, referring(rng, route, known))
                reply = client.post(server.url + route, content=content, headers=headers)
                try:
                    checked(reply)
                except (AssertionError, ValueError) as error:
                    raise AssertionError((route, content, reply.status_code, reply.text[:2000])) from error
                seen[route].add(reply.status_code)
                prefix = IDS.get(route)
                if prefix and (id := re.search(rf'"id": ?"({prefix}[0-9a-z_-]+)"', reply.text)):
                    known[route] = id[1]

    def rounds(start: int, stop: int) -> None:
        with ThreadPoolExecutor(4) as pool:
            for part in [pool.submit(send, part, start // 4, stop // 4) for part in range(4)]:
                part.result()

    rounds(0, 400)
    before = resident_mib(server.process.pid)
    rounds(400, count)
    assert all({200, 400} <= statuses for statuses in seen.values()), seen
    assert resident_mib(server.process.pid) - before < GROWTH_MIB
    assert httpx2.get(f"{server.url}/health").json()["running"] == 0


STRICT = """
import json
import schemathesis

def number(name):
    raise AssertionError(f"{name} is not JSON")

@schemathesis.check
def strict_json(ctx, response, case):
    kind = response.headers.get("content-type", [""])[0].split(";")[0]
    lines = response.content.splitlines() if kind == "application/jsonl" else [response.content]
    for line in lines if kind.startswith("application/json") else ():
        json.loads(line, parse_constant=number)
"""


@pytest.mark.parametrize(
    ("examples", "part"),
    [
        (8, []),
        *[
            pytest.param(300, part, marks=[pytest.mark.slow, pytest.mark.timeout(900)])
            for part in (*(["--include-path", route] for route in ROUTES), ["--include-method", "GET"])
        ],
    ],
    ids=lambda value: value if isinstance(value, int) else "-".join(value[1:]),
)
def test_schemathesis(server: Any, engine: Any, examples: int, part: list[str], tmp_path: Path) -> None:
    answers = cycle(ANSWERS)
    engine.decide = lambda _: {"role": "assistant"} | next(answers)
    (tmp_path / "strict.py").write_text(STRICT)
    checks = (
        *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
        "strict_json",
    )
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json", *part]
    command += ["--exclude-path", "/v1/events"]  # which never ends
    command += ["--checks", ",".join(checks), "--max-examples", str(examples), "--seed", "0"]
    command += ["--request-timeout", "30", "--no-color"]
    env = os.environ | {"SCHEMATHESIS_HOOKS": "strict", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
