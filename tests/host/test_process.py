"""The host as it runs: a process of its own, the openai client, vLLM's dialect."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

from talktune.config import ModelConfig
from talktune.errors import UserError
from talktune.host.process import load_host, serve
from talktune.policy.adapter import attach_adapter, load_adapter, save_adapter
from talktune.policy.load import load_policy
from talktune.policy.tokens import render_prompt
from talktune.serve.keys import Keys
from talktune.types import Message

HI = [{"role": "user", "content": "Hi"}]
EXACT = {"return_token_ids": True}
TOOL: Any = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}


@contextmanager
def host(model: Path, *options: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A running host and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "talktune.host", "--model", str(model), "--device", "cpu", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready http://127.0.0.1:"), line
        yield process, line.split()[1]
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = attach_adapter(load_policy(ModelConfig(model=str(tiny_model), device="cpu")).model, ModelConfig(), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    path = tmp_path_factory.mktemp("adapters") / "policy-000001"
    save_adapter(model, path)
    return path


@pytest.fixture(scope="module")
def running(tiny_model: Path, adapter: Path) -> Iterator[str]:
    with host(tiny_model, "--adapter", str(adapter)) as (_process, url):
        yield url


@pytest.fixture
def client(running: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running}/v1", api_key="none", max_retries=0) as client:
        yield client


def base_of(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_what_each_token_says(running: str, tiny_model: Path) -> None:
    tokenizer = load_policy(ModelConfig(model=str(tiny_model), device="cpu")).tokenizer
    ids = tokenizer.encode("né", add_special_tokens=False)
    said = httpx2.post(f"{running}/detokenize", json={"tokens": ids}).json()
    assert said == {"prompt": "né", "pieces": ["n", "", "é"]}
    for wrong in ({}, {"tokens": 1}, {"tokens": [len(tokenizer)]}, {"tokens": [-1]}, {"tokens": [True]}, []):
        assert httpx2.post(f"{running}/detokenize", json=wrong).status_code == 400, wrong


def test_how_likely_given_tokens_are_without_and_with_an_adapter(running: str, tiny_model: Path, adapter: Path) -> None:
    asked = {"prompt_ids": [1, 30, 31, 2, 40], "answer_ids": [50, 51, 52, 2], "temperature": 0.7}
    policy = load_policy(ModelConfig(model=str(tiny_model), device="cpu"))
    ids = torch.tensor([asked["prompt_ids"] + asked["answer_ids"]])  # type: ignore[operator]
    forced: list[torch.Tensor] = []
    for adapted in (False, True):  # an adapter is put into the model itself
        model = load_adapter(policy.model, adapter) if adapted else policy.model
        with torch.no_grad():
            scores = (model(input_ids=ids).logits[0, 4:-1] / 0.7).log_softmax(-1)
        forced.append(scores.gather(1, ids[0, 5:, None])[:, 0])
    told = httpx2.post(f"{running}/change", json=asked | {"model": adapter.name}).json()
    torch.testing.assert_close(torch.tensor(told["base"]), forced[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.tensor(told["now"]), forced[1], rtol=0, atol=1e-4)
    assert told["base"] != told["now"]
    told = httpx2.post(f"{running}/change", json=asked).json()
    assert told["base"] == told["now"]
    told = httpx2.post(f"{running}/change", json=asked | {"answer_ids": [5] * 600}).json()
    assert len(told["now"]) == 512
    for wrong, status in (
        ({"answer_ids": []}, 400),
        ({"prompt_ids": []}, 400),
        ({"prompt_ids": [5] * 2048}, 400),
        ({"prompt_ids": [-1]}, 400),
        ({"temperature": 0}, 400),
        ({"temperature": True}, 400),
        ({"model": "policy-000009"}, 404),
    ):
        assert httpx2.post(f"{running}/change", json=asked | wrong).status_code == status, wrong


def test_a_whole_reply_with_ids_and_logprobs(client: openai.OpenAI, tiny_model: Path, adapter: Path) -> None:
    """The base and an adapter by name; ids and log-probs equal a teacher-forced pass."""
    policy = load_policy(ModelConfig(model=str(tiny_model), device="cpu"))
    for name in (base_of(client), adapter.name):
        model = policy.model if name != adapter.name else load_adapter(policy.model, adapter)
        reply = client.chat.completions.create(
            model=name, messages=HI, max_tokens=9, temperature=0.7, logprobs=True, top_logprobs=2, extra_body=EXACT
        )
        prompt = reply.model_extra["prompt_token_ids"]
        ids = reply.choices[0].model_extra["token_ids"]
        assert prompt == render_prompt(policy.tokenizer, [Message("user", "Hi")])
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / 0.7, -1)
        content = reply.choices[0].logprobs.content
        given = torch.tensor([entry.logprob for entry in content])
        torch.testing.assert_close(given, scores.gather(1, torch.tensor(ids)[:, None])[:, 0], rtol=0, atol=1e-4)
        assert all(len(entry.top_logprobs) == 2 for entry in content)
        ended = reply.choices[0].finish_reason == "stop"
        said = policy.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        assert reply.choices[0].message.content == said
        assert reply.model == name
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(prompt), len(ids))


def test_a_stream_is_the_whole_reply_in_pieces(client: openai.OpenAI) -> None:
    asked: Any = {"model": base_of(client), "messages": HI, "max_tokens": 12, "seed": 5, "logprobs": True, "n": 2}
    whole = client.chat.completions.create(**asked, extra_body=EXACT)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}, extra_body=EXACT)
    )
    assert chunks[0].model_extra["prompt_token_ids"] == whole.model_extra["prompt_token_ids"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert [i for c in mine for i in c.model_extra.get("token_ids") or []] == choice.model_extra["token_ids"]
        assert [e for c in mine if c.logprobs for e in c.logprobs.content or []] == choice.logprobs.content
        assert [c.finish_reason for c in mine if c.finish_reason] == [choice.finish_reason]
    assert whole.choices[0].message.content != whole.choices[1].message.content


def test_nothing_is_told_that_was_not_asked_for(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=base_of(client), messages=HI, max_tokens=3)
    assert reply.choices[0].logprobs is None
    assert "token_ids" not in reply.choices[0].model_extra
    assert "prompt_token_ids" not in reply.model_extra
    for chunk in client.chat.completions.create(model=base_of(client), messages=HI, max_tokens=3, stream=True):
        assert "token_ids" not in str(chunk.model_dump(exclude_unset=True))
        assert chunk.usage is None


def test_a_stop_string_ends_the_answer_and_is_left_out(client: openai.OpenAI) -> None:
    asked: Any = {"model": base_of(client), "messages": HI, "seed": 5, "max_tokens": 30}
    text = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = next(c for c in text[2:] if c.isascii() and c.isprintable())
    choice = client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert choice.message.content == text[: text.index(stop)]
    assert (choice.finish_reason, choice.model_extra["stop_reason"]) == ("stop", stop)


def test_a_tool_that_must_be_called_is_called(client: openai.OpenAI) -> None:
    asked: Any = {"model": base_of(client), "messages": HI, "max_tokens": 5, "tools": [TOOL], "tool_choice": "required"}
    [call] = client.chat.completions.create(**asked).choices[0].message.tool_calls or []
    assert (call.type, call.function.name) == ("function", "f")
    assert isinstance(call.function.arguments, str)
    deltas = [c.choices[0].delta for c in client.chat.completions.create(**asked, stream=True) if c.choices]
    [streamed] = [one for delta in deltas for one in delta.tool_calls or []]
    assert (streamed.index, streamed.function.name) == (0, "f")
    assert streamed.id != call.id


def test_an_answer_keeps_to_the_form_that_is_asked_for(client: openai.OpenAI, adapter: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["mood", "count"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema, "strict": True}}
    for name in (base_of(client), adapter.name):
        asked: Any = {"model": name, "messages": HI, "max_tokens": 60, "temperature": 1.5, "n": 3, "seed": 4}
        asked["response_format"] = form
        whole = client.chat.completions.create(**asked).choices
        said = ["", "", ""]
        ends: dict[int, str] = {}
        for chunk in client.chat.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                said[choice.index] += choice.delta.content or ""
                ends |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
        assert said == [choice.message.content for choice in whole]
        assert [ends[i] for i in range(3)] == [choice.finish_reason for choice in whole] == ["stop"] * 3
        for text in said:
            found = json.loads(text)
            assert set(found) == {"mood", "count"}
            assert found["mood"] in ("good", "bad")
            assert found["count"] in range(100)
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for choice in client.chat.completions.create(**asked | {"tools": [tool], "max_tokens": 200}).choices:
        if choice.message.tool_calls:
            assert choice.finish_reason in ("tool_calls", "length")
        elif choice.finish_reason == "stop":
            assert set(json.loads(choice.message.content or "")) == {"mood", "count"}
    cut = client.chat.completions.create(**asked | {"max_tokens": 3, "response_format": {"type": "json_object"}})
    assert {choice.finish_reason for choice in cut.choices} <= {"length", "stop"}  # `{}` is an object, too
    assert all((choice.message.content or "").startswith("{") for choice in cut.choices)
    bad: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError, match="cannot be followed"):
        client.chat.completions.create(**asked | {"response_format": bad})


def test_one_of_several_tools_is_called_where_one_must_be(client: openai.OpenAI) -> None:
    tools: Any = [TOOL, {**TOOL, "function": {"name": "g"}}]
    asked: Any = {"model": base_of(client), "messages": HI, "n": 8, "seed": 2, "max_tokens": 30, "temperature": 1.5}
    choices = client.chat.completions.create(**asked, tools=tools, tool_choice="required").choices
    called = [call for choice in choices for call in choice.message.tool_calls or ()]
    assert {call.function.name for call in called} == {"f", "g"}
    for choice in choices:  # the others are cut off within their arguments
        assert (choice.finish_reason, bool(choice.message.tool_calls)) in (("tool_calls", True), ("length", False))


def test_adapters_come_and_go_by_name(client: openai.OpenAI, running: str, adapter: Path) -> None:
    names = [card.id for card in client.models.list().data]
    assert names[1:] == [adapter.name]
    load, unload = f"{running}/v1/load_lora_adapter", f"{running}/v1/unload_lora_adapter"
    assert httpx2.post(load, json={"lora_name": "new", "lora_path": str(adapter)}).status_code == 200
    asked: Any = {"messages": HI, "max_tokens": 6, "seed": 1}
    same = client.chat.completions.create(model=adapter.name, **asked).choices[0].message.content
    assert client.chat.completions.create(model="new", **asked).choices[0].message.content == same
    assert client.chat.completions.create(model=names[0], **asked).choices[0].message.content != same
    again = httpx2.post(load, json={"lora_name": "new", "lora_path": str(adapter)})
    assert (again.status_code, again.json()["error"]["param"]) == (400, "lora_name")
    assert httpx2.post(unload, json={"lora_name": "new"}).status_code == 200
    assert httpx2.post(unload, json={"lora_name": "new"}).status_code == 404
    missing = httpx2.post(load, json={"lora_name": "x", "lora_path": str(adapter / "no")})
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "lora_path")
    assert httpx2.post(load, json={"lora_name": "x"}).status_code == 400
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="new", **asked)
    assert caught.value.code == "model_not_found"


def test_an_answer_stays_on_the_version_that_it_began_with(client: openai.OpenAI, running: str, adapter: Path) -> None:
    asked: Any = {"messages": HI, "max_tokens": 400, "seed": 3}
    expected = client.chat.completions.create(model=adapter.name, **asked).choices[0].message.content
    httpx2.post(f"{running}/v1/load_lora_adapter", json={"lora_name": "short", "lora_path": str(adapter)})
    stream = client.chat.completions.create(model="short", stream=True, **asked)
    said = next(stream).choices[0].delta.content or ""
    httpx2.post(f"{running}/v1/unload_lora_adapter", json={"lora_name": "short"})
    said += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == expected


def test_errors_have_openais_shape(running: str) -> None:
    chat = f"{running}/v1/chat/completions"
    for content, status in (
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (json.dumps({"messages": HI, "temperature": 9}).encode(), 400),
        (json.dumps({"messages": [{"role": "user", "content": "Hi" * 2000}]}).encode(), 400),
        (json.dumps({"messages": HI, "model": "gpt"}).encode(), 404),
    ):
        reply = httpx2.post(chat, content=content)
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx2.get(chat).status_code == 405
    assert httpx2.get(f"{running}/nothing").json()["error"]["message"]
    assert httpx2.get(f"{running}/version").json()["version"]


def test_counted_tokens_are_those_of_the_prompt(running: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "system", "content": "Be kind."}, *HI], "tools": [TOOL]}
    counted = httpx2.post(f"{running}/tokenize", json=body).json()
    done = httpx2.post(f"{running}/v1/chat/completions", json=body | {"max_tokens": 1, **EXACT}).json()
    assert counted["tokens"] == done["prompt_token_ids"]
    assert counted["count"] == done["usage"]["prompt_tokens"]
    assert counted["max_model_len"] > counted["count"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_generation(running: str, stream: bool) -> None:
    def health() -> dict[str, Any]:
        return httpx2.get(f"{running}/health").json()

    before = health()["sampled"]
    body = json.dumps({"messages": HI, "max_tokens": 900, "n": 64, "stream": stream, "seed": 1}).encode()
    with socket.create_connection(("127.0.0.1", int(running.rsplit(":", 1)[1]))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        while health()["running"] == 0:
            time.sleep(0.01)
    while health()["running"] + health()["waiting"]:
        time.sleep(0.01)
    assert health()["sampled"] - before < 64 * 900 // 10
    assert httpx2.post(f"{running}/v1/chat/completions", json={"messages": HI, "max_tokens": 2}).status_code == 200


def test_many_clients_at_once_get_their_own_answers(client: openai.OpenAI, adapter: Path) -> None:
    names = [base_of(client), adapter.name]

    def ask(i: int) -> str:
        return (
            client.chat.completions.create(
                model=names[i % 2], messages=[{"role": "user", "content": "x" * i}], max_tokens=10 + i, seed=i
            )
            .choices[0]
            .message.content
            or ""
        )

    alone = [ask(i) for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone


def test_sigterm_lets_running_answers_finish(tiny_model: Path) -> None:
    with host(tiny_model) as (process, url), httpx2.Client() as client:
        body = {"messages": HI, "max_tokens": 300, "stream": True, "seed": 0}
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert process.wait(60) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/health")


def test_it_ends_when_its_parent_is_gone(tiny_model: Path) -> None:
    with host(tiny_model) as (process, _url):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
        process.stdin = None


def test_a_users_mistake_is_one_sentence(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "talktune.host", "--model", str(tiny_model), "--adapter", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert (
        done.stderr
        == "talktune: adapter /nowhere: cannot be used (no adapter there: adapter_config.json is missing).\n"
    )


def test_an_address_that_is_not_ours_is_named(tiny_model: Path) -> None:
    host = load_host(ModelConfig(model=str(tiny_model), device="cpu"))
    with pytest.raises(UserError, match=r"--host 203\.0\.113\.7 --port 1: cannot listen there"):
        serve(host, "203.0.113.7", 1, Keys({}))
