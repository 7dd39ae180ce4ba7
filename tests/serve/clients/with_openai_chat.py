"""A conversation with the openai client on chat completions.  python with_openai_chat.py URL SCRIPT"""

import json
import sys
from typing import Any

import openai

url, script = sys.argv[1], json.loads(sys.argv[2])
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
tool = {"type": "function", "function": script["tool"]}
messages: list[Any] = [{"role": "system", "content": script["system"]}]
answers: list[str] = []
for number, question in enumerate(script["questions"]):
    messages.append({"role": "user", "content": question})
    while messages[-1]["role"] != "assistant":
        asked: Any = {"model": "gpt-4o", "messages": messages, "tools": [tool]}
        if number % 2:
            with client.chat.completions.stream(**asked) as stream:
                for _ in stream:
                    pass
                done = stream.get_final_completion()
        else:
            done = client.chat.completions.create(**asked)
        answer = done.choices[0].message
        calls = [c.model_dump(exclude={"function": {"parsed_arguments"}}) for c in answer.tool_calls or ()]
        messages.append({"role": "assistant", "content": answer.content} | ({"tool_calls": calls} if calls else {}))
        messages += [{"role": "tool", "tool_call_id": c["id"], "content": script["result"]} for c in calls]
    answers.append(messages[-1]["content"])
print(json.dumps(answers))
