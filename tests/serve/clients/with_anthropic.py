"""The same with the anthropic client, and what Claude Code sends besides.  python with_anthropic.py URL SCRIPT"""

import json
import sys
from typing import Any

import anthropic

url, script = sys.argv[1], json.loads(sys.argv[2])
client = anthropic.Anthropic(
    base_url=url,
    api_key="none",
    max_retries=0,
    default_headers={"anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14", "x-app": "cli"},
)
cache = {"cache_control": {"type": "ephemeral"}}
tool = {"name": script["tool"]["name"], "description": "d", "input_schema": script["tool"]["parameters"]}
messages: list[Any] = []
answers: list[str] = []
for number, question in enumerate(script["questions"]):
    messages.append({"role": "user", "content": [{"type": "text", "text": question} | cache]})
    while messages[-1]["role"] != "assistant":
        asked: Any = {"model": "claude-sonnet-4-5", "max_tokens": 200, "messages": messages, "tools": [tool | cache]}
        asked |= {"system": [{"type": "text", "text": script["system"]} | cache], "metadata": {"user_id": "u"}}
        if number % 2:
            with client.messages.stream(**asked) as stream:
                for _ in stream:
                    pass
                done = stream.get_final_message()
        else:
            done = client.messages.create(**asked)
        calls = [block for block in done.content if block.type == "tool_use"]
        assert (done.stop_reason == "tool_use") == bool(calls)
        messages.append({"role": "assistant", "content": [b.to_dict() for b in done.content]})
        if calls:
            results = [{"type": "tool_result", "tool_use_id": c.id, "content": script["result"]} for c in calls]
            messages.append({"role": "user", "content": results})
    answers.append("".join(block.text for block in done.content if block.type == "text"))
assert client.messages.count_tokens(model="claude-sonnet-4-5", messages=messages).input_tokens > 0
print(json.dumps(answers))
