"""An engine's refusal, which stands in a field of its own: stored, shown in every dialect, known when it comes back."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from talktune.conversations.turns import turns_of
from talktune.store.store import Store

from .conftest import Engine, Serving, chunk

NO = "I cannot help with that."


@pytest.fixture
def refusing(shared: tuple[Serving, Engine]) -> Iterator[Serving]:
    server, engine = shared
    before = engine.chunks, engine.reply
    pieces = [chunk({"refusal": NO[i : i + 5], "content": None}) for i in range(0, len(NO), 5)]
    engine.chunks = [chunk({"role": "assistant", "content": None, "refusal": None}), *pieces, chunk({}, "stop")]
    message = {"role": "assistant", "content": None, "refusal": NO}
    engine.reply = {"id": "x", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    yield server
    engine.chunks, engine.reply = before


def stored(server: Serving, word: str) -> list[tuple[str, str | None, list[str]]]:
    """The answers of the one conversation that says the word, why they ended, and what followed."""
    store = Store(server.store)
    (found,) = [c for c in store.export() if any(word in m.content for m in c.messages)]
    store.close()
    return [(turn.answer.content, turn.finish, [m.content for m in turn.next_state]) for turn in turns_of(found)]


def events(reply: httpx2.Response) -> list[dict[str, Any]]:
    lines = [line for line in reply.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("stream", [False, True])
def test_chat(refusing: Serving, stream: bool) -> None:
    client = openai.OpenAI(base_url=f"{refusing.url}/v1", api_key="x", max_retries=0)
    word = f"chat {stream}"
    messages: list[Any] = [{"role": "user", "content": word}]
    if stream:
        with client.chat.completions.stream(model="m", messages=messages) as told:
            message = told.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(model="m", messages=messages).choices[0].message
    assert (message.content, message.refusal) == (None, NO)
    messages += [message.model_dump(), {"role": "user", "content": "Why not?"}]
    client.chat.completions.create(model="m", messages=messages)
    assert stored(refusing, word) == [(NO, "refusal", ["Why not?"]), (NO, "refusal", [])]


@pytest.mark.parametrize("stream", [False, True])
def test_responses(refusing: Serving, stream: bool) -> None:
    client = openai.OpenAI(base_url=f"{refusing.url}/v1", api_key="x", max_retries=0)
    word = f"responses {stream}"
    if stream:
        with client.responses.stream(model="m", input=word) as told:
            kinds = [event.type for event in told]
            first = told.get_final_response()
        assert kinds.count("response.refusal.delta") == 5
        assert kinds.count("response.refusal.done") == 1
        assert "response.output_text.delta" not in kinds
    else:
        first = client.responses.create(model="m", input=word)
    for answer in (first, client.responses.retrieve(first.id)):
        (item,) = answer.output
        assert item.type == "message"
        assert [part.to_dict() for part in item.content] == [{"type": "refusal", "refusal": NO}]
    items: list[Any] = [{"role": "user", "content": word}, first.output[0].to_dict()]
    client.responses.create(model="m", input=[*items, {"role": "user", "content": "Why not?"}])
    assert stored(refusing, word) == [(NO, "refusal", ["Why not?"]), (NO, "refusal", [])]


@pytest.mark.parametrize("stream", [False, True])
def test_messages(refusing: Serving, stream: bool) -> None:
    word = f"messages {stream}"
    messages: list[Any] = [{"role": "user", "content": word}]
    reply = httpx2.post(f"{refusing.url}/v1/messages", json={"messages": messages, "stream": stream})
    if stream:
        told = events(reply)
        text = "".join(e["delta"].get("text", "") for e in told if e["type"] == "content_block_delta")
        content = [{"type": "text", "text": text}]
        reason = next(e["delta"]["stop_reason"] for e in told if e["type"] == "message_delta")
    else:
        content, reason = reply.json()["content"], reply.json()["stop_reason"]
    assert (content, reason) == ([{"type": "text", "text": NO}], "refusal")
    messages += [{"role": "assistant", "content": content}, {"role": "user", "content": "Why not?"}]
    httpx2.post(f"{refusing.url}/v1/messages", json={"messages": messages})
    assert stored(refusing, word) == [(NO, "refusal", ["Why not?"]), (NO, "refusal", [])]
