"""The three dialects on a running server: one conversation in the store, whatever it was said in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from talktune.config import ServeConfig
from talktune.conversations.turns import turns_of
from talktune.serve.dialects import anthropic
from talktune.serve.dialects.chat_request import parse_request
from talktune.serve.engines.engine_body import engine_body
from talktune.store.store import Store

from .conftest import Engine, Serving, running_engine, serving

TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {}}}}


def decide(body: dict[str, Any]) -> dict[str, Any]:
    """Call the tool where one is offered and nothing came of it yet; else answer the last words."""
    last = body["messages"][-1]
    text = last["content"] if isinstance(last["content"], str) else json.dumps(last["content"])
    if body.get("tools") and last["role"] == "user" and "weather" in text:
        arguments = json.dumps({"city": "Oslo"})
        call = {"id": f"call_{len(body['messages'])}", "type": "function"}
        return {
            "role": "assistant",
            "content": "I look it up.",
            "reasoning_content": "A tool can tell.",
            "tool_calls": [call | {"function": {"name": "get_weather", "arguments": arguments}}],
        }
    return {"role": "assistant", "content": f"You said: {text}"}


@pytest.fixture(scope="module")
def scripted() -> Iterator[Engine]:
    with running_engine() as engine:
        engine.decide = decide
        yield engine


@pytest.fixture(scope="module")
def shared(scripted: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("forms")
    (folder / "keys").write_text("ann key-a\nbob key-b\n")
    options = ("--keys", str(folder / "keys"), "--allow-origin", "https://chat.example.org")
    with serving(folder / "store.db", "--upstream", scripted.url, *options) as running:
        yield running


@pytest.fixture
def client(shared: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{shared.url}/v1", api_key="key-a", max_retries=0)


def post(server: Serving, path: str, body: dict[str, Any], key: str = "key-a", **headers: str) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json=body, headers={"X-Api-Key": key} | headers, timeout=30)


def conversation_of(server: Serving, word: str) -> list[Any]:
    """The turns of the one conversation that says the word."""
    store = Store(server.store)
    (found,) = [c for c in store.export() if any(word in m.content for m in c.messages)]
    store.close()
    return list(turns_of(found))


def typed(reply: httpx2.Response) -> list[dict[str, Any]]:
    """The events of a stream; each is named after its type."""
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = []
    for block in reply.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_one_conversation_in_three_dialects(shared: Serving, client: openai.OpenAI, stream: bool) -> None:
    word = f"Babel{stream}"
    chat: list[Any] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"{word}: the weather?"}]
    tool = {"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}
    answer = client.chat.completions.create(model="m", messages=chat, tools=[tool]).choices[0].message
    assert answer.tool_calls is not None
    call = answer.tool_calls[0]
    assert call.type == "function"
    # Anthropic's dialect goes on with it.
    said: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": f"{word}: the weather?"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "…", "signature": "x"},
            {"type": "text", "text": "I look it up."},
            {"type": "tool_use", "id": call.id, "name": "get_weather", "input": {"city": "Oslo"}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "cold"}]},
    ]  # fmt: skip
    body = {"model": "claude", "max_tokens": 50, "system": [{"type": "text", "text": "Be kind."}], "messages": said}
    reply = post(shared, "/v1/messages", body | {"stream": stream})
    text = reply.json()["content"][0]["text"] if not stream else ""
    if stream:
        text = "".join(e["delta"]["text"] for e in typed(reply) if e["type"] == "content_block_delta")
    assert text == "You said: cold"
    # And Responses with the items of both.
    items: list[Any] = [
        {"role": "user", "content": f"{word}: the weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look it up."}]},
        {"type": "function_call", "call_id": call.id, "name": "get_weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": call.id, "output": "cold"},
        {"type": "message", "role": "assistant", "content": text},
        {"role": "user", "content": "Thanks!"},
    ]
    reply = post(shared, "/v1/responses", {"model": "m", "input": items, "stream": stream})
    last = typed(reply)[-1]["response"] if stream else reply.json()
    # Back to chat completions, by nothing but the words.
    chat += [
        {"role": "assistant", "content": answer.content, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "cold"},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "Thanks!"},
        {"role": "assistant", "content": last["output"][0]["content"][0]["text"]},
        {"role": "user", "content": "Bye."},
    ]
    client.chat.completions.create(model="m", messages=chat)
    turns = conversation_of(shared, word)
    assert [[m.content for m in turn.next_state] for turn in turns] == [["cold"], ["Thanks!"], ["Bye."], []]
    assert [turn.kind for turn in turns] == ["main"] * 4


def test_responses_continue_from_the_store(shared: Serving, client: openai.OpenAI, scripted: Engine) -> None:
    first = client.responses.create(
        model="gpt-4o", instructions="Be brief.", input="Continue: the weather?", tools=[TOOL], max_output_tokens=40
    )
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    assert first.status == "completed"
    assert first.usage is not None
    assert first.usage.input_tokens == 3
    assert scripted.asked[-1]["max_tokens"] == 40
    call: Any = first.output[2]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "cold"}
    with client.responses.stream(
        model="gpt-4o", previous_response_id=first.id, input=[output], instructions="Be brief.", tools=[TOOL]
    ) as stream:
        kinds = [event.type for event in stream]
        second = stream.get_final_response()
    assert second.output_text == "You said: cold"
    assert kinds[:4] == [
        *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"),
    ]
    assert kinds[-4:] == [
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        "response.completed",
    ]
    items: list[Any] = [
        {"role": "user", "content": "Continue: the weather?"},
        *({"type": "item_reference", "id": item.id} for item in first.output),
        output,
        {"type": "item_reference", "id": second.output[0].id},
        {"role": "user", "content": "Thanks!"},
    ]
    third = client.responses.create(model="gpt-4o", input=items)
    roles = [message["role"] for message in scripted.asked[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]  # no instructions: not carried over by items
    turns = conversation_of(shared, "Continue:")
    assert [[m.content for m in turn.next_state] for turn in turns] == [["cold"], ["Thanks!"], []]
    # As the store has it.
    again = client.responses.retrieve(second.id)
    assert (again.output_text, again.previous_response_id) == (second.output_text, first.id)
    assert again.instructions == "Be brief."
    assert [item.id for item in client.responses.retrieve(first.id).output] == [item.id for item in first.output]
    # New instructions take the place of the old, none keep them.
    client.responses.create(model="m", previous_response_id=third.id, input="Go on.", instructions="Be long.")
    assert scripted.asked[-1]["messages"][0] == {"role": "system", "content": "Be long."}
    client.responses.create(model="m", previous_response_id=second.id, input="Go on.")
    assert scripted.asked[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    # A thumb overrules the judge here, too.
    body = {"completion_id": second.id, "thumbs": "down"}
    assert post(shared, "/v1/feedback", body).status_code == 200


def test_what_cannot_be_referred_to(shared: Serving, client: openai.OpenAI) -> None:
    mine = client.responses.create(model="m", input="A secret.")
    unstored = client.responses.create(model="m", input="Off the record.", store=False)
    assert conversation_of(shared, "Off the record.")  # it is learned from like any other
    bob = client.with_options(api_key="key-b")
    for who, id in ((bob, mine.id), (client, unstored.id), (client, "resp_x"), (client, "chatcmpl-1")):
        with pytest.raises(openai.NotFoundError):
            who.responses.retrieve(id)
        with pytest.raises(openai.NotFoundError):
            who.responses.create(model="m", input="Go on.", previous_response_id=id)
        reference: Any = {"type": "item_reference", "id": id.replace("resp_", "msg_")}
        with pytest.raises(openai.NotFoundError):
            who.responses.create(model="m", input=[reference])


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"tools": [{"type": "web_search"}]}, "only functions"),
        ({"tools": [{"type": "function"}]}, "name"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "fc_1"}] * 10_001}, "at most 10000"),
        ({"input": [{"type": "computer_call"}]}, "computer_call"),
        ({"input": [{"role": "wizard", "content": ""}]}, "role"),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "unknown type"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "call_id"),
        ({"input": [{"type": "item_reference", "id": "fc_1"}]}, "no answer"),
        ({"tool_choice": "x"}, "tool_choice"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "previous_response_id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"store": 1}, "store"),
    ],
)
def test_what_responses_refuse(shared: Serving, body: dict[str, Any], word: str) -> None:
    reply = post(shared, "/v1/responses", {"model": "m", "input": "Hi"} | body)
    assert reply.status_code in (400, 404)
    assert word in reply.json()["error"]["message"]


def test_what_is_not_in_the_store_is_not_left_out_silently(shared: Serving, client: openai.OpenAI) -> None:
    image: Any = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    seen = client.responses.create(model="m", input=[{"role": "user", "content": [image]}])
    with pytest.raises(openai.BadRequestError, match="images or files"):
        client.responses.create(model="m", input="And now?", previous_response_id=seen.id)
    call: Any = {"type": "item_reference", "id": seen.id.replace("resp_", "fc_") + "_3"}
    with pytest.raises(openai.NotFoundError, match="no call"):
        client.responses.create(model="m", input=[call])


def test_responses_ask_for_what_chat_completions_know(shared: Serving, scripted: Engine) -> None:
    schema = {"type": "object"}
    body = {
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "a"}]},
            {
                "role": "user",
                "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}],
            },
        ],
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        "tools": [TOOL, TOOL | {"name": "other"}],
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]},
        "parallel_tool_calls": False,
        "include": ["reasoning.encrypted_content"],
        "top_p": 0.5,
    }
    reply = post(shared, "/v1/responses", body)
    assert reply.status_code == 200, reply.text
    asked = scripted.asked[-1]
    assert asked["messages"][1]["content"][0]["image_url"] == {"url": "data:image/png;base64,AA==", "detail": "low"}
    assert asked["response_format"]["json_schema"] == {"name": "n", "schema": schema, "strict": True}
    assert (asked["tool_choice"], asked["reasoning_effort"], asked["top_p"]) == ("required", "low", 0.5)
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["other"]
    assert asked["parallel_tool_calls"] is False
    assert reply.json()["text"]["format"]["name"] == "n"
    assert reply.json()["tools"][0]["name"] == "other"


def test_functions_in_namespaces(shared: Serving, scripted: Engine) -> None:
    """Codex CLI has some, and offers a search that may not go to the web."""
    group = {"type": "namespace", "name": "skies", "description": "d", "tools": [TOOL]}
    items: list[Any] = [{"role": "user", "content": "Namespace: the weather?"}]
    body: dict[str, Any] = {"tools": [group, {"type": "web_search", "external_web_access": False}], "input": items}
    call = {"id": "c", "type": "function", "function": {"name": "skies__get_weather", "arguments": "{}"}}
    decided, scripted.decide = scripted.decide, lambda _: {"role": "assistant", "content": None, "tool_calls": [call]}
    try:
        (item,) = post(shared, "/v1/responses", body).json()["output"]
    finally:
        scripted.decide = decided
    assert [tool["function"]["name"] for tool in scripted.asked[-1]["tools"]] == ["skies__get_weather"]
    assert (item["name"], item["namespace"]) == ("get_weather", "skies")
    items += [item, {"type": "function_call_output", "call_id": "c", "output": "cold"}]
    assert post(shared, "/v1/responses", body).status_code == 200
    assert scripted.asked[-1]["messages"][1]["tool_calls"][0]["function"]["name"] == "skies__get_weather"
    assert [[m.content for m in t.next_state] for t in conversation_of(shared, "Namespace:")] == [["cold"], []]


def test_anthropic_blocks_and_events(shared: Serving, scripted: Engine) -> None:
    body: dict[str, Any] = {
        "model": "claude-sonnet-4-5", "max_tokens": 50, "stream": True, "metadata": {"user_id": "u"},
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Blocks: the weather?"}]}],
        "tools": [{"name": "get_weather", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "stop_sequences": ["END"],
    }  # fmt: skip
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "prompt-caching-2024-07-31"}
    events = typed(post(shared, "/v1/messages?beta=true", body, **headers))
    asked = scripted.asked[-1]
    assert (asked["tool_choice"], asked["parallel_tool_calls"], asked["stop"]) == ("required", False, ["END"])
    assert asked["messages"][0] == {"role": "system", "content": "Be kind."}
    assert "cache_control" not in json.dumps(asked)
    assert [e["type"] for e in events[:3]] == ["message_start", "ping", "content_block_start"]
    assert events[0]["message"]["model"] == "m"
    starts = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use"]
    delta = events[-2]
    assert (delta["delta"]["stop_reason"], delta["usage"]["input_tokens"]) == ("tool_use", 3)
    assert events[-1] == {"type": "message_stop"}
    whole = post(shared, "/v1/messages", body | {"stream": False}).json()
    assert [block["type"] for block in whole["content"]] == ["thinking", "text", "tool_use"]
    assert whole["content"][2]["input"] == {"city": "Oslo"}
    assert whole["stop_reason"] == "tool_use"
    # Results of tools come before what the user says besides.
    result = {
        "type": "tool_result",
        "tool_use_id": whole["content"][2]["id"],
        "content": [{"type": "text", "text": "c"}],
    }
    body["messages"] += [
        {"role": "assistant", "content": whole["content"]},
        {"role": "user", "content": [result, {"type": "text", "text": "And tomorrow?"}]},
    ]
    assert post(shared, "/v1/messages", body | {"stream": False, "tools": []}).status_code == 200
    assert [m["role"] for m in scripted.asked[-1]["messages"]] == ["system", "user", "assistant", "tool", "user"]
    # A last message of the assistant is to be gone on with.
    body["messages"].append({"role": "assistant", "content": "Tomorrow"})
    assert post(shared, "/v1/messages", body | {"stream": False}).status_code == 200
    assert scripted.asked[-1]["continue_final_message"] is True


@pytest.mark.parametrize(
    ("name", "result", "told"),
    [
        ("text", "no such city", "Error: no such city"),
        ("parts", [{"type": "text", "text": "no such city"}], "Error: no such city"),
        ("nothing", None, "Error: the tool failed."),
        ("tagged", "<tool_use_error>InputValidationError: city</tool_use_error>", None),
        ("said", "Error: no such city", None),
    ],
)
def test_a_tool_that_failed(shared: Serving, scripted: Engine, name: str, result: Any, told: str | None) -> None:
    """Anthropic's dialect has a flag for it; what is stored, judged and sent on says it in words, as the others do."""
    told = told or result
    word = f"Failed {name}"
    use = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {}}
    call = {"id": "t1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    decided = scripted.decide
    scripted.decide = lambda _: {"role": "assistant", "content": None, "tool_calls": [call]}
    try:
        messages: list[Any] = [{"role": "user", "content": word}]
        post(shared, "/v1/messages", {"messages": messages})
    finally:
        scripted.decide = decided
    failed = {"type": "tool_result", "tool_use_id": "t1", "content": result, "is_error": True}
    messages += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [failed]}]
    answer = post(shared, "/v1/messages", {"messages": messages}).json()["content"][0]["text"]
    assert scripted.asked[-1]["messages"][-1]["content"] == told
    # The same in chat completions goes on with it.
    chat = [
        messages[0], {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": told},
        {"role": "assistant", "content": answer}, {"role": "user", "content": "I see."},
    ]  # fmt: skip
    assert post(shared, "/v1/chat/completions", {"messages": chat}).status_code == 200
    turns = conversation_of(shared, word)
    assert [[m.content for m in turn.next_state] for turn in turns] == [[told], ["I see."], []]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]}, "server_tool_use"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]}, "source"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "only functions"),
        ({"tool_choice": {"type": "x"}}, "tool_choice"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_messages_refuse(shared: Serving, body: dict[str, Any], word: str) -> None:
    reply = post(shared, "/v1/messages", {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | body)
    said = reply.json()
    assert (reply.status_code, said["type"], said["error"]["type"]) == (400, "error", "invalid_request_error")
    assert word in said["error"]["message"]


def test_keys_and_errors_in_anthropics_form(shared: Serving) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    for key in ("", "key-c"):
        reply = post(shared, "/v1/messages", body, key)
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
    assert post(shared, "/v1/messages", body, "", Authorization="Bearer key-b").status_code == 200
    assert post(shared, "/v1/chat/completions", body, "key-b").status_code == 200
    reply = httpx2.get(f"{shared.url}/v1/messages", headers={"X-Api-Key": "key-a"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (405, "invalid_request_error")


def test_streams_that_break_off(engine: Engine, server: Serving) -> None:
    engine.chunks, engine.breaks = engine.chunks[:-1], True
    message = {"role": "user", "content": "Hi"}
    events = typed(post(server, "/v1/messages", {"messages": [message], "stream": True}))
    assert (events[-1]["type"], events[-1]["error"]["type"]) == ("error", "overloaded_error")
    events = typed(post(server, "/v1/responses", {"input": [message], "stream": True}))
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    engine.status = 500
    reply = post(server, "/v1/messages", {"messages": [message]})
    assert (reply.status_code, reply.json()["error"]["type"]) == (502, "api_error")


def test_counted_tokens(shared: Serving, engine: Engine, tmp_path: Path) -> None:
    body = {"model": "claude", "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 9}
    reply = post(shared, "/v1/messages/count_tokens", body).json()
    assert reply["estimated"] is True
    assert 100 <= reply["input_tokens"] <= 120
    engine.version, engine.tokens = {"version": "0.11"}, 17
    with serving(tmp_path / "s.db", "--upstream", engine.url) as server:
        assert post(server, "/v1/messages/count_tokens", body).json() == {"input_tokens": 17}


def test_web_pages(shared: Serving, server: Serving) -> None:
    origin = {"Origin": "https://chat.example.org"}
    wanted = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-stainless-os",
    }
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages"):
        reply = httpx2.options(f"{shared.url}{path}", headers=origin | wanted)
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == origin["Origin"]
        assert "x-stainless-os" in reply.headers["access-control-allow-headers"]
        other = httpx2.options(f"{shared.url}{path}", headers=wanted | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = httpx2.options(f"{server.url}{path}", headers=origin | wanted)
        assert refused.status_code == 405
        assert "--allow-origin" in refused.text
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    reply = post(shared, "/v1/chat/completions", body, **origin)
    assert reply.headers["access-control-allow-origin"] == origin["Origin"]
    for page in ("https://chat.example.org", "null"):  # without a key, and nobody allowed it
        reply = post(server, "/v1/chat/completions", body, Origin=page)
        assert (reply.status_code, f"--allow-origin {page}" in reply.text) == (403, True)


def test_an_allowed_page_needs_no_key_where_nobody_does(engine: Engine, tmp_path: Path) -> None:
    options = (
        "--upstream",
        engine.url,
        "--allow-origin",
        "https://a.example",
        "--allow-origin",
        "http://b.example:8080",
    )
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    with serving(tmp_path / "s.db", *options) as server:
        for page, status in (("https://a.example", 200), ("http://b.example:8080", 200), ("https://c.example", 403)):
            assert post(server, "/v1/chat/completions", body, Origin=page).status_code == status


def test_routes_that_are_not_there(shared: Serving) -> None:
    reply = httpx2.post(f"{shared.url}/v1/completions", json={})
    assert reply.status_code == 404
    for route in ("POST /v1/chat/completions", "POST /v1/responses", "POST /v1/messages", "GET /v1/models"):
        assert route in reply.json()["error"]["message"]
    reply = httpx2.get(f"{shared.url}/v1/responses")
    assert reply.status_code == 405
    assert "POST" in reply.json()["error"]["message"]


def test_any_model_name(shared: Serving, client: openai.OpenAI, engine: Engine, tmp_path: Path) -> None:
    assert client.models.list().data[0].id == "m"
    answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
    assert answer.model == "m"
    with pytest.raises(openai.NotFoundError, match="there are: m"):
        client.models.retrieve("gpt-4o")
    cards = httpx2.get(f"{shared.url}/v1/models", headers={"X-Api-Key": "key-a", "anthropic-version": "2023-06-01"})
    assert cards.json()["data"][0] | {"created_at": ""} == {
        "id": "m", "object": "model", "type": "model", "display_name": "m", "created_at": "",
    }  # fmt: skip
    wanted = {"X-Api-Key": "key-a", "anthropic-version": "2023-06-01"}
    missing = httpx2.get(f"{shared.url}/v1/models/claude", headers=wanted)
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    with serving(tmp_path / "s.db", "--upstream", engine.url, "--strict-models") as server:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        for name, status in ((None, 200), ("m", 200), ("gpt-4o", 404)):
            reply = post(server, "/v1/chat/completions", body | {"model": name})
            assert reply.status_code == status
        assert "there are: m" in reply.json()["error"]["message"]


def test_a_prompt_that_is_too_long(server: Serving, engine: Engine) -> None:
    engine.status, engine.refusal = 400, "The prompt has 13315 tokens, and with its answer it must fit in 8192."
    message = {"role": "user", "content": "Hi"}
    reply = post(server, "/v1/chat/completions", {"messages": [message]})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "context_length_exceeded")
    for word in ("13315", "8192", "fewer tools", "--model"):
        assert word in error["message"]
    said = post(server, "/v1/messages", {"messages": [message]}).json()["error"]["message"]
    assert said.startswith("prompt is too long: ")


def test_an_unknown_engine_gets_parts_of_nothing_but_text_as_one_text() -> None:
    said = [{"type": "text", "text": "Look at this."}, {"type": "text", "text": "What is it?"}]
    marked = [{**said[0], "cache_control": {"type": "ephemeral"}}, said[1]]
    picture = [*said, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]

    def sent(inner: dict[str, Any]) -> Any:
        body = engine_body(parse_request(inner, {}, ServeConfig()), "other", None, ServeConfig())
        return body["messages"][0]["content"]

    def chat(parts: list[dict[str, Any]]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": parts}]}

    assert sent(anthropic.request({"max_tokens": 9} | chat(marked))) == "Look at this.\nWhat is it?"
    assert sent(chat(said)) == "Look at this.\nWhat is it?"
    assert sent(chat(picture)) == picture
    assert sent(chat(marked)) == marked
