"""An engine in vLLM's way as a process of its own, to be killed: `python scripted_vllm.py PORT`.

Every word of an answer tells the model that was asked for and this engine's port, so that whoever reads it knows what
sampled it. A token is a word.
"""

import asyncio
import json
import os
import signal
import sys
import zlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS, PAUSE, LOAD_SECONDS = 8, 0.02, 0.1
PORT = int(sys.argv[1])
loaded: dict[str, str] = {}
asked_to_die = asyncio.Event()


def tokens(text: str) -> list[int]:
    return [zlib.crc32(word.encode()) % 50_000 for word in text.split()]


def chunk(model: str, delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish} | more
    return {"id": "x", "object": "chat.completion.chunk", "model": model, "choices": [choice]}


async def chat(request: Request) -> Response:
    body = await request.json()
    model = body["model"]
    if model not in ("m", *loaded):
        return JSONResponse({"error": {"message": f"The model `{model}` does not exist.", "code": 404}}, 404)
    messages = [message["content"] for message in body["messages"]]
    begun = len(messages[-1].split()) if body.get("continue_final_message") else 0
    prompt = tokens(" ".join(messages))
    words = [f"{model}/{i}@{PORT}" for i in range(WORDS)][begun:][: body["max_tokens"]]

    async def stream() -> AsyncIterator[str]:
        yield event(chunk(model, {"role": "assistant", "content": ""}) | {"prompt_token_ids": prompt})
        for i, word in enumerate(words):
            await asyncio.sleep(PAUSE)
            if i == WORDS // 2 and asked_to_die.is_set():
                os.kill(os.getpid(), signal.SIGKILL)
            text = f" {word}" if begun or i else word
            told = {"content": [{"token": word, "logprob": -0.5}]}
            yield event(chunk(model, {"content": text}, token_ids=tokens(word), logprobs=told))
        yield event(chunk(model, {}, "stop"))
        yield "data: [DONE]\n\n"

    if body.get("stream"):
        return StreamingResponse(stream(), media_type="text/event-stream")
    await asyncio.sleep(PAUSE * len(words))
    choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(words)}, "finish_reason": "stop"}
    return JSONResponse({"id": "x", "object": "chat.completion", "model": model, "choices": [choice]})


def event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


async def completion(_request: Request) -> Response:
    return JSONResponse({"choices": [{"text": "A", "logprobs": {"token_logprobs": [-0.0], "tokens": ["A"]}}]})


async def models(_request: Request) -> Response:
    cards = [{"id": name, "object": "model", "root": path, "parent": "m"} for name, path in loaded.items()]
    return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model", "root": "m"}, *cards]})


async def load(request: Request) -> Response:
    body = await request.json()
    name = body["lora_name"]
    if name in loaded:
        message = f"The lora adapter '{name}' has already been loaded."
        return JSONResponse({"error": {"message": message, "type": "InvalidUserInput", "code": 400}}, 400)
    await asyncio.sleep(LOAD_SECONDS)
    loaded[name] = body["lora_path"]
    return JSONResponse("Success")


async def unload(request: Request) -> Response:
    loaded.pop((await request.json())["lora_name"], None)
    return JSONResponse("Success")


async def die(_request: Request) -> Response:
    """In the middle of the next answer, so that there is one to go on with elsewhere."""
    asked_to_die.set()
    return Response()


async def version(_request: Request) -> Response:
    return JSONResponse({"version": "0.14.0"})


async def health(_request: Request) -> Response:
    return Response()


app = Starlette(
    routes=[
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completion, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/load_lora_adapter", load, methods=["POST"]),
        Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
        Route("/die", die, methods=["POST"]),
        Route("/version", version),
        Route("/health", health),
    ]
)
uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="error", lifespan="off")
