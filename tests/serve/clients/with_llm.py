"""The same with the library of the command `llm`.  python with_llm.py URL SCRIPT"""

import json
import os
import sys
import tempfile
from pathlib import Path

url, script = sys.argv[1], json.loads(sys.argv[2])
home = Path(tempfile.mkdtemp())
os.environ["LLM_USER_PATH"] = str(home)
(home / "extra-openai-models.yaml").write_text(
    f"- model_id: t\n  model_name: gpt-4o\n  api_base: {url}/v1\n  supports_tools: true\n"
)

import llm  # noqa: E402  its folder had to be named before


def get_weather(city: str) -> str:
    """The weather of a city."""
    return script["result"]


conversation = llm.get_model("t").conversation(tools=[get_weather])
answers: list[str] = []
for number, question in enumerate(script["questions"]):
    system = None if number else script["system"]
    answers.append(
        list(conversation.chain(question, system=system, stream=bool(number % 2), key="none").responses())[-1].text()
    )
print(json.dumps(answers))
