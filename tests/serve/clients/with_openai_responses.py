"""The same on responses: all items each time, or the id of the one before.  python … URL SCRIPT…"""

import json
import sys
from typing import Any

import openai

url = sys.argv[1]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
for script in map(json.loads, sys.argv[2:]):
    previous = script["way"] == "previous"
    items: list[Any] = []
    answers: list[str] = []
    before: str | None = None
    for number, question in enumerate(script["questions"]):
        items.append({"role": "user", "content": question})
        while True:
            asked: Any = {"model": "gpt-4o", "instructions": script["system"], "input": items}
            asked |= {"tools": [{"type": "function", "strict": False, **script["tool"]}]}
            if previous and before is not None:
                asked["previous_response_id"] = before
            if number % 2:
                with client.responses.stream(**asked) as stream:
                    for _ in stream:
                        pass
                    done = stream.get_final_response()
            else:
                done = client.responses.create(**asked)
            calls = [item for item in done.output if item.type == "function_call"]
            before = done.id
            new = [{"type": "function_call_output", "call_id": c.call_id, "output": script["result"]} for c in calls]
            items = new if previous else [*items, *(i.to_dict(exclude_unset=True) for i in done.output), *new]
            if not calls:
                break
        answers.append(done.output_text)
    print(json.dumps(answers))
