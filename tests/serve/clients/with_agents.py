"""The same with the OpenAI Agents SDK as it comes: on responses.  python with_agents.py URL SCRIPT"""

import asyncio
import json
import sys
from typing import Any

import agents
import openai

url, script = sys.argv[1], json.loads(sys.argv[2])


@agents.function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return script["result"]


async def main() -> None:
    agents.set_tracing_disabled(True)
    agents.set_default_openai_client(openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))
    agent = agents.Agent(name="a", instructions=script["system"], tools=[get_weather], model="gpt-4o")
    items: list[Any] = []
    answers: list[str] = []
    for number, question in enumerate(script["questions"]):
        items.append({"role": "user", "content": question})
        if number % 2:
            done: Any = agents.Runner.run_streamed(agent, items)
            async for _ in done.stream_events():
                pass
        else:
            done = await agents.Runner.run(agent, items)
        items = done.to_input_list()
        answers.append(done.final_output)
    print(json.dumps(answers))


asyncio.run(main())
