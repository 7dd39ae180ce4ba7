"""The same with LangChain's ChatOpenAI, on chat completions or responses.  python with_langchain.py URL SCRIPT…"""

import json
import sys
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI

url = sys.argv[1]
for script in map(json.loads, sys.argv[2:]):
    options: Any = {"use_responses_api": script["way"] == "responses"}
    model = ChatOpenAI(model="gpt-4o", base_url=f"{url}/v1", api_key="none", max_retries=0, **options)
    bound = model.bind_tools([{"type": "function", "function": script["tool"]}])
    messages: list[Any] = [SystemMessage(script["system"])]
    answers: list[str] = []
    for number, question in enumerate(script["questions"]):
        messages.append(HumanMessage(question))
        while True:
            answer: Any = None
            if number % 2:
                for piece in bound.stream(messages):
                    answer = piece if answer is None else answer + piece
            else:
                answer = bound.invoke(messages)
            messages.append(answer)
            messages += [ToolMessage(script["result"], tool_call_id=call["id"]) for call in answer.tool_calls]
            if not answer.tool_calls:
                break
        answers.append(answer.text if isinstance(answer.text, str) else answer.text())
    print(json.dumps(answers))
