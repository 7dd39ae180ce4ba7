"""An engine that refuses, as vLLM does, a request whose longest answer does not fit behind its prompt."""

from typing import Any

import httpx2
import pytest

from .conftest import Engine, Serving

HI = {"role": "user", "content": "Hi"}
ROUTES = {
    "/v1/chat/completions": {"messages": [HI]},
    "/v1/responses": {"input": [HI]},
    "/v1/messages": {"messages": [HI], "max_tokens": 5000},
}


@pytest.fixture
def vllm(engine: Engine) -> Engine:
    engine.version, engine.tokens, engine.context = {"version": "0.11"}, 1500, 2048
    return engine


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize(("stream", "asked"), [(True, None), (False, None), (False, 1000)])
def test_the_answer_gets_the_room_that_is_left(
    vllm: Engine, server: Serving, counts: bool, stream: bool, asked: int | None
) -> None:
    vllm.counts = counts
    for route, body in ROUTES.items():
        vllm.asked.clear()
        limit = "max_output_tokens" if route == "/v1/responses" else "max_tokens"
        reply = httpx2.post(server.url + route, json=body | {"stream": stream} | ({limit: asked} if asked else {}))
        assert reply.status_code == 200, reply.text
        assert [one["max_tokens"] for one in vllm.asked] == [asked or 4096, 548]
        assert "fine" in reply.text


def test_one_that_fits_is_asked_for_once(vllm: Engine, server: Serving) -> None:
    reply = httpx2.post(f"{server.url}/v1/chat/completions", json={"messages": [HI], "max_tokens": 548})
    assert (reply.status_code, [asked["max_tokens"] for asked in vllm.asked]) == (200, [548])


@pytest.mark.parametrize(
    ("tokens", "told"), [(2048, "has 2048 tokens"), (9000, "has 9000 tokens"), (None, "fewer output tokens")]
)
def test_without_room_it_is_refused(vllm: Engine, server: Serving, tokens: int | None, told: str) -> None:
    """Where nothing tells how long the prompt is, the engine's own words are."""
    vllm.tokens = tokens
    reply = httpx2.post(f"{server.url}/v1/chat/completions", json={"messages": [HI]})
    error: dict[str, Any] = reply.json()["error"]
    assert reply.status_code == 400
    assert told in error["message"]
    assert len(vllm.asked) == 1
    if tokens:
        assert error["code"] == "context_length_exceeded"
