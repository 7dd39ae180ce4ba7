"""Tool calls and their results as Hermes' data has them: between tags in the text.

    <tool_call>{"name": …, "arguments": {…}}</tool_call>        said by the assistant
    <tool_response>{…}</tool_response>                          said by the tool

The form: https://huggingface.co/datasets/NousResearch/hermes-function-calling-v1
"""

import ast
import json
import re
from dataclasses import replace
from typing import Any, cast

from talktune.types import Message

CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
RESULT = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)


def from_tags(message: Message) -> list[Message]:
    """The message with its calls as tool calls, or one message for each of its results; else as it is."""
    if message.role == "tool" and (results := RESULT.findall(message.content)):
        return [replace(message, content=text) for text in results]
    if message.role != "assistant" or "<tool_call>" not in message.content:
        return [message]
    calls = [_call(text) for text in CALL.findall(message.content)]
    if not calls or not all(calls):
        return [message]
    return [replace(message, content=CALL.sub("", message.content).strip(), tool_calls=tuple(filter(None, calls)))]


def _call(text: str) -> dict[str, Any] | None:
    """The call that stands between the tags, as JSON or, in older data, as Python writes it; None for neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            raw: Any = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        call = cast(dict[str, Any], raw) if isinstance(raw, dict) else {}
        name, arguments = call.get("name"), call.get("arguments", {})
        if isinstance(name, str) and name and isinstance(arguments, dict | str):
            written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            return {"type": "function", "function": {"name": name, "arguments": written}}
    return None
