"""The clients that people use, unchanged and without any header, against both kinds of engine."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest

from talktune.conversations.turns import turns_of
from talktune.store.store import Store

CLIENTS = Path(__file__).parent / "clients"
PACKAGES = Path(__file__).parents[2] / ".cache" / "npm"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def shot(city: str, weather: str) -> list[dict[str, Any]]:
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": f"call_{city}", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": f"call_{city}", "content": weather},
        {"role": "assistant", "content": f"It is {weather} in {city}."},
    ]


SCRIPT = {
    "tools": [TOOL],
    "shots": [*shot("Rome", "sunny"), *shot("Oslo", "cold")],  # so small a model copies what it has seen
    "questions": ["What is the weather in Paris?", "And in one word?", "Thanks!", "Name a colour.", "Another one."],
    "result": "rainy",
}


def python_client(url: str, script: dict[str, Any]) -> dict[str, Any]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    messages: list[Any] = list(script["shots"])
    turns: list[dict[str, Any]] = []
    questions = iter(script["questions"])
    asked = 0
    while messages[-1]["role"] == "tool" or asked < len(script["questions"]):
        if messages[-1]["role"] != "tool":
            messages.append({"role": "user", "content": next(questions)})
            asked += 1
        options: Any = (
            {"tools": script["tools"], "tool_choice": "required", "max_tokens": 60}
            if asked == 1 and messages[-1]["role"] == "user"
            else {"max_tokens": 16}
        )
        with client.chat.completions.stream(
            model=script["model"], messages=messages, temperature=0,
            stream_options={"include_usage": True}, **options,
        ) as stream:  # fmt: skip
            chunks = sum(event.type == "chunk" for event in stream)
            done = stream.get_final_completion()
        answer = done.choices[0].message
        calls = [call.model_dump(exclude={"function": {"parsed_arguments"}}) for call in answer.tool_calls or ()]
        said: dict[str, Any] = {"role": "assistant", "content": answer.content}
        messages.append(said | {"tool_calls": calls} if calls else said)
        assert done.usage is not None
        finish = done.choices[0].finish_reason
        turns.append({"finish": finish, "chunks": chunks, "usage": done.usage.total_tokens, "calls": len(calls)})
        messages += [{"role": "tool", "tool_call_id": c["id"], "content": script["result"]} for c in calls]
    return {"turns": turns, "messages": messages[len(script["shots"]) :]}


def node_client(name: str, url: str, script: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    if shutil.which("node") is None or not (PACKAGES / "node_modules").is_dir():
        pytest.skip("Node, or the npm clients (make clients), are not there")
    for part in (f"{name}.mjs",):
        (tmp_path / part).write_text((CLIENTS / part).read_text())
    (tmp_path / "node_modules").symlink_to(PACKAGES / "node_modules")
    command = ["node", str(tmp_path / f"{name}.mjs"), url, json.dumps(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("where", ["before_host", "before_llama"])
@pytest.mark.parametrize("client", ["python", "openai", "pi-ai"])
def test_six_turns_with_a_tool_call(client: str, where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server = request.getfixturevalue(where)
    model = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none").models.list().data[0].id
    script = SCRIPT | {"model": model, "questions": [f"{q} ({client})" for q in SCRIPT["questions"]]}
    known = {row.id for row in Store(server.store).list_conversations(limit=100)}
    got = python_client(server.url, script) if client == "python" else node_client(client, server.url, script, tmp_path)

    assert len(got["turns"]) == 6
    assert got["turns"][0]["calls"] == 1
    assert got["turns"][0]["finish"] in ("tool_calls", "toolUse")
    assert all(turn["usage"] > 0 and turn["chunks"] > 2 for turn in got["turns"])

    store = Store(server.store)
    new = [row for row in store.list_conversations(limit=100) if row.id not in known]
    assert [row.turns for row in new] == [6]
    (conversation,) = store.show(new[0].id)
    turns = [turn for turn in turns_of(conversation) if turn.kind == "main"]
    assert len(turns) == 6
    call = turns[0].answer.tool_calls[0]
    arguments = json.loads(call["function"]["arguments"])
    # Each engine makes the model call the tool in its own way; what it fills in is the small model's own.
    assert arguments == {"city": "Paris"} if where == "before_llama" else isinstance(arguments, dict)
    assert [(m.role, m.content, m.tool_call_id) for m in turns[0].next_state] == [("tool", "rainy", call["id"])]
    assert [[m.content for m in turn.next_state] for turn in turns[1:5]] == [[q] for q in script["questions"][1:]]
    assert not turns[5].next_state
    if where == "before_host":
        assert all(turn.sampled is not None for turn in turns)
    else:
        assert turns[0].sampled is None  # llama.cpp gives no tokens for streams with tools
        assert any(turn.sampled is not None for turn in turns[1:])
