"""The HTTP side of the host: routes, streaming, errors. Everything that computes is elsewhere.

Open it to add a route of vLLM's.

The dialect is vLLM's OpenAI-compatible server's, adapters included. Log-probs are of
softmax(logits / temperature) before any cut, where vLLM's default is of softmax(logits).
"""

import asyncio
import contextlib
import importlib.metadata
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from talktune.errors import UserError
from talktune.host.answer_parser import AnswerParser, TextStream
from talktune.host.change import Change
from talktune.host.chat_replies import Choice, Chunk, Replies
from talktune.host.chat_request import ChatRequest, Prompt, parse_request, render
from talktune.host.engine import Engine
from talktune.host.grammar import Grammars, Guide
from talktune.host.lora import Lora, load_lora
from talktune.host.sampling_request import SamplingRequest, Token
from talktune.policy.load import Policy
from talktune.serve.dialects.wire import BadRequest, Fields, read_json
from talktune.serve.keys import Keys

Handler = Callable[[Request], Awaitable[Response]]


class Unavailable(Exception):
    """The engine gave a request up; the client may send it again."""


@dataclass
class Host:
    """What all routes share: the model, the engine in its thread, the adapters by name."""

    policy: Policy
    engine: Engine
    end_ids: frozenset[int]
    change: Change
    loras: dict[str, Lora] = field(default_factory=dict[str, Lora])
    roles: Callable[[], dict[str, Any]] = dict[str, Any]
    """What else works in this process, for /health."""
    started: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def grammars(self) -> Grammars:
        """The grammars of answers that must have a form."""
        return Grammars(self.policy.tokenizer, self.end_ids)

    def lora(self, model: str | None) -> Lora | None:
        """The adapter of this name, None for the base model; raises BadRequest (404) for an unknown name."""
        if model is None or model == self.policy.name:
            return None
        if model not in self.loras:
            raise BadRequest(
                f"The model {model} does not exist.",
                param="model",
                status=404,
                type="NotFoundError",
                code="model_not_found",
            )
        return self.loras[model]

    def add_lora(self, name: str, path: Path) -> None:
        """Load an adapter under a name; raises UserError when it cannot be used."""
        self.loras[name] = load_lora(self.policy.model, name, path)


def make_app(host: Host, keys: Keys) -> Starlette:
    """The application: OpenAI's chat completions and models, vLLM's adapters, health, version; for owners of keys."""

    async def chat(request: Request) -> Response:
        asked = parse_request(await _json(request))
        lora = host.lora(asked.model)
        prompt = await run_in_threadpool(render, host.policy.tokenizer, asked, host.engine.context)
        guides: Sequence[Guide] = ()
        if prompt.schema is not None:
            guides = await run_in_threadpool(
                host.grammars.guides, prompt.schema, asked.copies, prompt.call, marked=prompt.marked
            )
        return await _answer(host, request, asked, prompt, lora, guides)

    async def tokenize(request: Request) -> Response:
        asked = parse_request(await _json(request))
        prompt = await run_in_threadpool(render, host.policy.tokenizer, asked, host.engine.context)
        ids = list(prompt.ids)
        return JSONResponse({"count": len(ids), "max_model_len": host.engine.context, "tokens": ids})

    async def detokenize(request: Request) -> Response:
        ids = _ids(host, await _json(request), "tokens")
        stream = TextStream(host.policy.tokenizer)
        pieces = [stream.feed(id) for id in ids]
        return JSONResponse({"prompt": "".join(pieces) + stream.close(), "pieces": pieces})

    async def change(request: Request) -> Response:
        raw = await _json(request)
        prompt, answer = (_ids(host, raw, name) for name in ("prompt_ids", "answer_ids"))
        fields: dict[str, Any] = raw if isinstance(raw, dict) else {}
        temperature = fields.get("temperature", 1.0)
        if type(temperature) not in (int, float) or not 0.01 <= temperature <= 100:
            raise BadRequest("temperature must be a number from 0.01 to 100.", param="temperature")
        lora = host.lora(Fields(fields).get("model", str))
        try:
            base, now = await run_in_threadpool(host.change.logprobs, prompt, answer, temperature, lora)
        except ValueError as error:
            raise BadRequest(f"{str(error).capitalize()}.") from error
        return JSONResponse({"base": base, "now": now})

    async def models(_request: Request) -> Response:
        base = {"object": "model", "created": host.started, "owned_by": "talktune"}
        name = host.policy.name
        cards: list[dict[str, Any]] = [
            base | {"id": name, "root": name, "parent": None, "max_model_len": host.engine.context}
        ]
        cards += [base | {"id": lora.name, "root": str(lora.path), "parent": name} for lora in host.loras.values()]
        return JSONResponse({"object": "list", "data": cards})

    async def load(request: Request) -> Response:
        name, path = _texts(await _json(request), "lora_name", "lora_path")
        if name in host.loras or name == host.policy.name:
            raise BadRequest(f"The name {name} is taken; give each version its own.", param="lora_name")
        try:
            await run_in_threadpool(host.add_lora, name, Path(path))
        except UserError as error:
            raise BadRequest(str(error), param="lora_path") from error
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(request: Request) -> Response:
        (name,) = _texts(await _json(request), "lora_name")
        if name not in host.loras:
            raise BadRequest(f"There is no adapter {name}.", param="lora_name", status=404, type="NotFoundError")
        lora = host.loras.pop(name)
        host.engine.forget(lora)
        await run_in_threadpool(host.change.forget, lora)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def health(_request: Request) -> Response:
        running, waiting = host.engine.load()
        sampled = host.engine.sampled
        found = {"status": "ok", "running": running, "waiting": waiting, "sampled": sampled, "roles": host.roles()}
        return JSONResponse(found)

    async def version(_request: Request) -> Response:
        return JSONResponse({"version": importlib.metadata.version("talktune"), "engine": "talktune"})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            Route("/change", change, methods=["POST"]),
            Route("/v1/load_lora_adapter", load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
            Route("/health", health),
            Route("/version", version),
        ],
        middleware=[Middleware(_ForKeys, keys=keys)],
        exception_handlers={BadRequest: _bad_request, Unavailable: _unavailable, HTTPException: _http, 500: _broken},
    )


class _ForKeys:
    """Lets a request pass that has a key; without any, one of this machine that is no web page's."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self._app
        if scope["type"] == "http":
            try:
                self._keys.user(Headers(scope=scope))
            except BadRequest as error:
                answer = JSONResponse(error.body, error.status)
        await answer(scope, receive, send)


@dataclass
class _Running:
    """One request while it is answered: its sampling, its choices, and the chunks that the engine's thread sends."""

    sampling: SamplingRequest
    choices: list[Choice]
    queue: asyncio.Queue[Chunk | str]

    async def chunks(self, engine: Engine) -> AsyncGenerator[Chunk]:
        """Chunks of all choices until each has ended; leaving early cancels the sampling. Raises Unavailable."""
        going = len(self.choices)
        try:
            while going:
                chunk = await self.queue.get()
                if isinstance(chunk, str):
                    raise Unavailable(chunk)
                yield chunk
                going -= chunk.finish is not None
        finally:
            if going:
                engine.cancel(self.sampling)


def _start(host: Host, asked: ChatRequest, prompt: Prompt, lora: Lora | None, guides: Sequence[Guide]) -> _Running:
    """Hand a request to the engine."""
    room = host.engine.context - len(prompt.ids)
    if room < 1:
        raise BadRequest(
            f"The prompt has {len(prompt.ids)} tokens, and with its answer it must fit in {host.engine.context}.",
            param="messages",
            code="context_length_exceeded",
        )
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Chunk | str] = asyncio.Queue()
    tokenizer = host.policy.tokenizer
    choices = [
        Choice(
            i,
            TextStream(tokenizer),
            AnswerParser(asked.tool_names, asked.stops, prompt.thinking, asked.forced_tool, prompt.calling),
            host.end_ids,
            named=asked.named_tool,
        )
        for i in range(asked.copies)
    ]

    def send(item: Chunk | str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def on_token(token: Token) -> bool:
        chunk = choices[token.choice].feed(token)
        send(chunk)
        return chunk.finish is not None

    sampling = SamplingRequest(
        prompt.ids,
        replace(asked.sample, max_new_tokens=min(asked.sample.max_new_tokens or room, room)),
        host.end_ids,
        on_token,
        send,
        copies=asked.copies,
        seed=asked.seed,
        lora=lora,
        top=asked.top,
        guides=guides,
    )
    host.engine.submit(sampling)
    return _Running(sampling, choices, queue)


async def _answer(
    host: Host, request: Request, asked: ChatRequest, prompt: Prompt, lora: Lora | None, guides: Sequence[Guide]
) -> Response:
    replies = Replies(
        asked,
        host.policy.tokenizer,
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=asked.model or host.policy.name,
        prompt_ids=prompt.ids,
    )
    running = _start(host, asked, prompt, lora, guides)
    if asked.stream:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(host, running, replies), media_type="text/event-stream", headers=headers)
    reading = asyncio.ensure_future(_read_all(host, running))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return Response(status_code=499)  # nobody reads it: nginx's code for a client that left
        reading.result()
        return JSONResponse(replies.whole(running.choices))
    finally:
        for task in (reading, leaving):
            task.cancel()
        await asyncio.gather(reading, leaving, return_exceptions=True)


async def _stream(host: Host, running: _Running, replies: Replies) -> AsyncGenerator[str]:
    """Server-sent events: the opening chunks, one a token, usage where asked for, [DONE]."""
    chunks = running.chunks(host.engine)
    calls = [0] * len(running.choices)
    answered = 0
    try:
        for choice in running.choices:
            yield _event(replies.first(choice.index))
        async for chunk in chunks:
            answered += len(chunk.tokens)
            if (body := replies.chunk(chunk, calls[chunk.choice])) is not None:
                yield _event(body)
            calls[chunk.choice] += sum(delta.kind == "call" for delta in chunk.deltas)
        if replies.request.include_usage:
            yield _event(replies.usage_chunk(answered))
        yield "data: [DONE]\n\n"
    except Unavailable as error:  # without [DONE]: half an answer is not a whole one
        yield _event(_error(str(error), "service_unavailable"))
    finally:
        await chunks.aclose()


async def _read_all(host: Host, running: _Running) -> None:
    async for _chunk in running.chunks(host.engine):
        pass


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _json(request: Request) -> object:
    return read_json(await request.body())


def _texts(raw: object, *names: str) -> list[str]:
    values = [raw.get(name) if isinstance(raw, dict) else None for name in names]
    if not all(isinstance(value, str) and value for value in values):
        raise BadRequest(f"The body must be a JSON object with {' and '.join(names)}.")
    return values  # pyright: ignore[reportReturnType]


def _ids(host: Host, raw: object, name: str) -> list[int]:
    ids: Any = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < len(host.policy.tokenizer) for id in ids):
        raise BadRequest(f"{name} must be a list of the model's token ids.", param=name)
    return ids


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _error(message: str, type: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": None, "code": None}}


async def _bad_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return JSONResponse(error.body, error.status)


async def _unavailable(_request: Request, error: Exception) -> Response:
    return JSONResponse(_error(str(error), "service_unavailable"), 503, {"Retry-After": "1"})


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(_error(error.detail, "invalid_request_error"), error.status_code, error.headers)


async def _broken(_request: Request, _error_: Exception) -> Response:
    return JSONResponse(_error("The host failed; its log says why.", "internal_error"), 500)
