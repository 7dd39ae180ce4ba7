"""Readers for the parts of a request, shared by the dialects; a wrong part raises BadRequest naming its place.

Open it to write another dialect.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from talktune.serve.dialects.wire import BadRequest, Fields

PASSED = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "user"),
    *("session_id", "turn_type", "session_done"),
)
"""Fields that mean the same in every dialect."""
_FAILURE = re.compile(r"(?i)\W{0,40}(?:\w{0,40}error|\w{0,40}exception|traceback|fail(?:ed|ure))\b")
"""How a result begins that says by itself that the tool failed."""


def common_fields(fields: Fields) -> dict[str, Any]:
    """What of a request means the same in every dialect, as chat completions say it; a stream tells its usage."""
    found: dict[str, Any] = {name: fields.raw[name] for name in PASSED if fields.raw.get(name) is not None}
    stream = fields.get("stream", bool) or False
    found |= {"model": fields.get("model", str), "stream": stream}
    return found | ({"stream_options": {"include_usage": True}} if stream else {})


def objects(value: object, where: str) -> list[dict[str, Any]]:
    """A list of objects; empty for null."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in cast(list[object], value)):
        raise BadRequest(f"{where} must be a list of objects.", param=where)
    return cast(list[dict[str, Any]], value)


def text_of(fields: Mapping[str, Any], key: str, where: str) -> str:
    """A field that must be text."""
    value = fields.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"{where}.{key} must be text.", param=where)
    return value


def name_of(fields: Mapping[str, Any], where: str, key: str = "name") -> str:
    """A field that must be text and not empty."""
    if not (name := text_of(fields, key, where)):
        raise BadRequest(f"{where}.{key} is empty.", param=where)
    return name


def optional_text(fields: Mapping[str, Any], key: str, where: str) -> str | None:
    """A field that is text, or absent."""
    return None if fields.get(key) is None else text_of(fields, key, where)


def content_of(parts: list[dict[str, Any]], between: str = "\n") -> str | list[dict[str, Any]]:
    """A message's content: plain text where all parts are text, so that every engine takes it."""
    if all(part["type"] == "text" for part in parts):
        return between.join(part["text"] for part in parts)
    return parts


def failed(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """The result of a tool that failed, saying so in words, as it does where there is no other place for it."""
    if isinstance(content, str):
        return content if _FAILURE.match(content) else f"Error: {content or 'the tool failed.'}"
    told = any(part["type"] == "text" and _FAILURE.match(part["text"]) for part in content)
    return content if told else [{"type": "text", "text": "Error: the tool failed."}, *content]


def function_tool(fields: Mapping[str, Any], where: str, parameters: object) -> dict[str, Any]:
    """A tool in the form of chat completions."""
    function: dict[str, Any] = {"name": name_of(fields, where)}
    if (description := optional_text(fields, "description", where)) is not None:
        function["description"] = description
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise BadRequest(f"{where}: the parameters must be a JSON schema, which is an object.", param=where)
        function["parameters"] = parameters
    if fields.get("strict") is not None:
        function["strict"] = bool(fields["strict"])
    return {"type": "function", "function": function}


def call_of(id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call in the form of chat completions."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def refused_tool(where: str, kind: object) -> BadRequest:
    """The refusal of a tool that somebody else's server would run."""
    return BadRequest(
        f"{where} is of the type {str(kind)[:60]!r}, and only functions can be called here: take it out of tools, or "
        "switch it off in the client.",
        param="tools",
    )
