"""What goes on to the engine: the client's request, in the form that the engine takes and with its tokens asked for."""

from typing import Any

from talktune.config import ServeConfig
from talktune.conversations.messages import message_to_dict
from talktune.serve.dialects import Dialect, whole_distribution, with_tokens
from talktune.serve.request import OWN_FIELDS, ChatRequest


def engine_body(asked: ChatRequest, dialect: Dialect, model: str | None, config: ServeConfig) -> dict[str, Any]:
    """The body for the engine.

    To an engine of a known dialect the messages go as they are stored, so that what was asked is what is kept:
    `developer` as `system`, text parts as text. A limit that is too high is clamped, a missing temperature becomes
    the configured one, a cut that nobody asked for is ruled out, and an empty list of tools is left out (engines
    refuse it). An unknown engine gets the client's own words.
    """
    body = {key: value for key, value in asked.raw.items() if key not in OWN_FIELDS and value is not None}
    if model is not None:
        body["model"] = model
    if not asked.tools:
        for key in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(key, None)
    most = config.max_answer_tokens
    if dialect == "other":
        for key in ("max_tokens", "max_completion_tokens"):
            if key in body:
                body[key] = min(asked.limit or most, most)
        return body
    body.pop("max_completion_tokens", None)
    body["max_tokens"] = min(asked.limit or most, most)
    body["temperature"] = config.temperature if asked.temperature is None else asked.temperature
    for key, value in whole_distribution(dialect).items():
        body.setdefault(key, value)
    if not any(message.has_image for message in asked.messages):
        body["messages"] = [message_to_dict(message) for message in asked.messages]
    return with_tokens(body, dialect)
