"""Servers as users start them, in front of real engines and of one that does what a test tells it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from talktune.policy.shipped import shipped_gguf

# ChatML with tools in Hermes' form: the template in the file knows none.
TEMPLATE = """{% if tools %}<|im_start|>system
You may call these tools: {% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call one as <tool_call>{"name": NAME, "arguments": {}}</tool_call><|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role + '\\n' }}{% if message.tool_calls %}\
{% for call in message.tool_calls %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% else %}{{ message.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA = """
import sys
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.chat_template = sys.argv[2]
params.use_jinja = True
params.port = 0
params.n_parallel = 2
params.n_ctx = 2 * 2048
params.n_batch = params.n_ubatch = 128
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.verbosity = 0
params.warmup = False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def llama() -> Iterator[str]:
    """llama.cpp's server with the shipped model; its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", LLAMA, str(shipped_gguf()), TEMPLATE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://"), "the server did not start"
            yield address
        finally:
            process.kill()


@dataclass
class Serving:
    """A running `talktune serve`."""

    process: subprocess.Popen[str]
    url: str
    store: Path
    said: list[str]


@contextmanager
def serving(store: Path, *options: str, env: dict[str, str] | None = None, before: str = "") -> Iterator[Serving]:
    """Start the server and wait until it serves; kill it afterwards, if it still runs.

    `before` is Python that runs in it first: what takes long is made short there.
    """
    import os

    program = ["-c", f"{before}\nfrom talktune.cli import main\nmain()"] if before else ["-m", "talktune"]
    process = subprocess.Popen(
        [sys.executable, *program, "serve", "--port", "0", "--store", str(store), *options],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | (env or {}),
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        while not (line := process.stdout.readline()).startswith("ready "):
            assert line, f"it ended with {process.wait()}"
            said.append(line.strip())
        yield Serving(process, line.split()[1], store, said)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def start_server() -> Callable[..., AbstractContextManager[Serving]]:
    """`with start_server(store, *options)` is a running server."""
    return serving


@pytest.fixture(scope="session")
def before_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server with a host of its own and the shipped model, which stays as it is."""
    with serving(tmp_path_factory.mktemp("host") / "store.db", "--no-judge", "--no-learn") as running:
        yield running


@pytest.fixture(scope="session")
def before_llama(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server in front of llama.cpp with the shipped model."""
    with serving(tmp_path_factory.mktemp("llama") / "store.db", "--upstream", llama) as running:
        yield running


@dataclass
class Engine:
    """An engine that a test tells what to answer. It speaks no dialect unless `version` is set."""

    url: str = ""
    version: dict[str, Any] | None = None
    chunks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """What a stream sends, one event each."""
    reply: Any = None
    """What a request without a stream gets."""
    status: int = 200
    pause: float = 0.0
    """Seconds between the chunks."""
    breaks: bool = False
    """End streams without [DONE]."""
    raw: list[bytes] = field(default_factory=list[bytes])
    """What a request gets instead of all that, byte by byte, streamed or not."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when a stream was left before its end."""
    before_end: Callable[[], None] | None = None
    loaded: dict[str, str] = field(default_factory=dict[str, str])
    """Adapters that it was given, in vLLM's way."""
    adapter_refusal: tuple[int, Any] | None = None
    """Status and body of what it says to every adapter, where it takes none."""
    max_loras: int | None = None
    """As vLLM's /metrics tell it; None where they do not."""
    processed: bool = False
    """As vLLM with `--logprobs-mode processed_logprobs`."""
    cold_seconds: float = 0.0
    """What its first completion takes."""
    decide: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """The message that answers a request; instead of `chunks` and `reply`."""
    refusal: str = "no"
    """What it says with another status."""
    tokens: int | None = None
    """What /tokenize counts, where it is there."""
    context: int | None = None
    """As vLLM's `--max-model-len`: where `tokens` and the longest answer do not fit, it refuses."""
    counts: bool = False
    """As vLLM did before it stopped counting a prompt that leaves too little room."""

    def says(self, text: str, finish: str = "stop") -> None:
        """Answer with this text, a word a chunk."""
        words = text.split(" ")
        pieces = [words[0], *(f" {word}" for word in words[1:])]
        self.chunks = [chunk({"role": "assistant", "content": ""})]
        self.chunks += [chunk({"content": piece}) for piece in pieces]
        self.chunks.append(chunk({}, finish))
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
        self.reply = {
            "id": "x",
            "object": "chat.completion",
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": usage,
        }


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish} | more
    return {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def spoken(message: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """An answer as the chunks of a stream, a few letters each, and as a whole reply."""
    chunks = [chunk({"role": "assistant", "content": ""})]
    for name in ("reasoning_content", "content", "refusal"):
        text = message.get(name) or ""
        chunks += [chunk({name: text[i : i + 4]}) for i in range(0, len(text), 4)]
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        chunks.append(chunk({"tool_calls": [call | {"index": index, "function": function | {"arguments": ""}}]}))
        for i in range(0, len(function["arguments"]), 4):
            part = {"index": index, "function": {"arguments": function["arguments"][i : i + 4]}}
            chunks.append(chunk({"tool_calls": [part]}))
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    usage = {"prompt_tokens": 3, "completion_tokens": len(chunks), "total_tokens": 3 + len(chunks)}
    end = {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": usage}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    reply = {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    return [*chunks, chunk({}, finish), end], reply


def _no_room(engine: Engine, asked: int) -> str | None:
    """vLLM's words for a request that does not fit."""
    limit, tokens = engine.context, engine.tokens or 0
    if limit is None or tokens + asked <= limit:
        return None
    if engine.counts and tokens < limit:
        return (
            f"'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum context length is "
            f"{limit} tokens and your request has {tokens} input tokens ({asked} > {limit} - {tokens})."
        )
    if asked > limit:
        told = f"max_tokens={asked}cannot be greater than max_model_len=max_total_tokens={limit}."
        return f"{told} Please request fewer output tokens."
    return (
        f"This model's maximum context length is {limit} tokens. However, you requested {asked} output tokens and your "
        f"prompt contains at least {limit - asked + 1} input tokens, for a total of at least {limit + 1} tokens. "
        "Please reduce the length of the input prompt or the number of requested output tokens."
    )


def _engine_app(engine: Engine) -> Starlette:
    import asyncio

    async def chat(request: Request) -> Response:
        body = await request.json()
        if str(body.get("model")).startswith(("policy-", "tt-")) and body["model"] not in engine.loaded:
            return JSONResponse({"error": {"message": "no such model", "type": "NotFoundError"}}, 404)
        engine.asked.append(body)
        if engine.status != 200:
            return JSONResponse({"error": {"message": engine.refusal, "type": "t"}}, engine.status, engine.headers)
        if (words := _no_room(engine, body.get("max_tokens") or 0)) is not None:
            return JSONResponse({"error": {"message": words, "type": "BadRequestError", "code": 400}}, 400)
        if engine.raw:

            async def pieces() -> AsyncIterator[bytes]:
                for piece in engine.raw:
                    yield piece

            kind = "text/event-stream" if body.get("stream") else "application/json"
            return StreamingResponse(pieces(), media_type=kind)
        chunks, reply = engine.chunks, engine.reply
        if engine.decide is not None:
            chunks, reply = spoken(engine.decide(body))
        if not body.get("stream"):
            await asyncio.sleep(engine.pause)
            return JSONResponse(reply)

        async def stream() -> AsyncIterator[str]:
            try:
                for i, one in enumerate(chunks):
                    if i == len(chunks) - 1 and engine.before_end is not None:
                        engine.before_end()
                    yield f"data: {json.dumps(one)}\n\n"
                    await asyncio.sleep(engine.pause)
            except asyncio.CancelledError:
                engine.ended.set()
                raise
            if not engine.breaks:
                yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def completion(_request: Request) -> Response:
        await asyncio.sleep(engine.cold_seconds)
        told = {"token_logprobs": [-0.0 if engine.processed else -2.5], "tokens": ["A"]}
        return JSONResponse({"choices": [{"text": "A", "logprobs": told}]})

    async def models(_request: Request) -> Response:
        loaded = [{"id": name, "object": "model", "root": path, "parent": "m"} for name, path in engine.loaded.items()]
        return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model"}, *loaded]})

    async def tokenize(_request: Request) -> Response:
        told = {"count": engine.tokens, "max_model_len": engine.context}
        return JSONResponse(told, 200 if engine.tokens else 404)

    async def load(request: Request) -> Response:
        body = await request.json()
        if engine.adapter_refusal is not None:
            return JSONResponse(engine.adapter_refusal[1], engine.adapter_refusal[0])
        if body["lora_name"] in engine.loaded:
            message = f"The lora adapter '{body['lora_name']}' has already been loaded."
            return JSONResponse({"error": {"message": message, "type": "InvalidUserInput"}}, 400)
        engine.loaded[body["lora_name"]] = body["lora_path"]
        return JSONResponse("Success")

    async def unload(request: Request) -> Response:
        engine.loaded.pop((await request.json())["lora_name"], None)
        return JSONResponse("Success")

    async def metrics(_request: Request) -> Response:
        told = f'vllm:lora_requests_info{{max_lora="{engine.max_loras}",running_lora_adapters=""}} 1.0'
        return PlainTextResponse(told, 200 if engine.max_loras else 404)

    async def version(_request: Request) -> Response:
        return JSONResponse(engine.version, 200 if engine.version else 404)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
            Route("/v1/models", models),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/version", version),
            Route("/metrics", metrics),
            Route("/v1/load_lora_adapter", load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
        ]
    )


@contextmanager
def running_engine() -> Iterator[Engine]:
    """An engine that runs in a thread."""
    made = Engine()
    made.says("I am fine")
    server = uvicorn.Server(uvicorn.Config(_engine_app(made), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    made.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture(scope="session")
def start_engine() -> Callable[[], AbstractContextManager[Engine]]:
    """`with start_engine() as engine` is an engine for a whole module."""
    return running_engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running_engine() as made:
        yield made


@pytest.fixture
def vllm(engine: Engine) -> Engine:
    """An engine that calls itself vLLM: it takes adapters, and forgets them when it is started again."""
    engine.version = {"version": "0.14.0"}
    return engine


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Engine]]:
    """A server and its engine for the many conversations of one module."""
    with (
        running_engine() as engine,
        serving(tmp_path_factory.mktemp("shared") / "store.db", "--upstream", engine.url) as running,
    ):
        yield running, engine


@pytest.fixture
def server(engine: Engine, tmp_path: Path) -> Iterator[Serving]:
    """A server in front of the engine that does as told."""
    with serving(tmp_path / "store.db", "--upstream", engine.url) as running:
        yield running
