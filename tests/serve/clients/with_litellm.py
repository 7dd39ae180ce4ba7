"""The same with LiteLLM, on chat completions or Anthropic's messages.  python with_litellm.py URL SCRIPT…"""

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch prices otherwise

import litellm

url = sys.argv[1]
for script in map(json.loads, sys.argv[2:]):
    anthropic = script["way"] == "anthropic"
    model = "anthropic/claude-sonnet-4-5" if anthropic else "openai/gpt-4o"
    where: Any = {"model": model, "api_base": url if anthropic else f"{url}/v1", "api_key": "none", "max_retries": 0}
    messages: list[Any] = [{"role": "system", "content": script["system"]}]
    answers: list[str] = []
    for number, question in enumerate(script["questions"]):
        messages.append({"role": "user", "content": question})
        while messages[-1]["role"] != "assistant":
            asked: Any = {"messages": messages, "tools": [{"type": "function", "function": script["tool"]}]} | where
            done: Any = litellm.completion(**asked, stream=bool(number % 2))
            if number % 2:
                done = litellm.stream_chunk_builder(list(done), messages=messages)
            answer = done.choices[0].message
            messages.append(answer.model_dump(exclude_none=True))
            calls = answer.tool_calls or ()
            messages += [{"role": "tool", "tool_call_id": call.id, "content": script["result"]} for call in calls]
        answers.append(messages[-1]["content"])
    print(json.dumps(answers))
