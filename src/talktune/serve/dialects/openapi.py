"""The server's own description, as GET /openapi.json gives it (OpenAPI 3.1).

Open it with every change of a route.
"""

from typing import Any

_ERROR = {"$ref": "#/components/schemas/Error"}


def _answers(
    ok: dict[str, Any], *statuses: int, kind: str = "application/json", other: str | None = None
) -> dict[str, Any]:
    """Responses of a route: `kind` on success, `other` where the client may ask for another form of it."""
    good: dict[str, Any] = {"description": "done", "content": {kind: {"schema": ok}}}
    if other is not None:
        good["content"][other] = {"schema": _EVENT if other == "text/event-stream" else _TEXT}
    found: dict[str, Any] = {"200": good}
    for status in statuses:
        found[str(status)] = {"description": "refused", "content": {"application/json": {"schema": _ERROR}}}
    return found


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_TEXT: dict[str, Any] = {"type": "string"}
_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": _TEXT | {"description": "a chunk or a typed event as JSON; of chunks at last [DONE]"}},
    "description": "one server-sent event",
}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "anyOf": [
                _TEXT,
                {"type": "null"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": _TEXT},
                    },
                },
            ]
        },
        "tool_call_id": {"type": ["string", "null"]},
        "reasoning_content": {"type": ["string", "null"]},
    },
}
_CHAT: dict[str, Any] = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
        "model": {"type": ["string", "null"]},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": "boolean"}}},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "max_tokens": {"type": ["integer", "null"]},
        "max_completion_tokens": {"type": ["integer", "null"]},
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 64},
        "seed": {"type": ["integer", "null"]},
        "stop": {"anyOf": [_TEXT, {"type": "null"}, {"type": "array", "items": _TEXT}]},
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "tool_choice": {},
        "logprobs": {"type": ["boolean", "null"]},
        "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
        "user": {"type": ["string", "null"]},
        "store": {"type": ["boolean", "null"]},
        "reasoning_effort": {"type": ["string", "null"]},
        "return_token_ids": {"type": ["boolean", "null"]},
        "session_id": {"type": ["string", "null"], "maxLength": 200},
        "session_done": {"type": ["boolean", "null"]},
        "turn_type": {"enum": ["main", "side", None]},
    },
}


def _of(type: str, *required: str, **fields: Any) -> dict[str, Any]:
    """An object that names its type."""
    properties = {"type": {"const": type}} | fields
    return {"type": "object", "required": ["type", *required], "properties": properties}


def _said(*parts: dict[str, Any]) -> dict[str, Any]:
    """Text, or a list of such parts."""
    return {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": list(parts)}}]}


_NAME: dict[str, Any] = {"type": "string", "minLength": 1}
_INPUT_TEXT = _of("input_text", "text", text=_TEXT)
_ITEMS = (
    _of("message", "role", "content", role={"enum": ["user", "system", "developer"]}, content=_said(_INPUT_TEXT)),
    _of("message", "role", "content", role={"const": "assistant"}, content=_said(
        _of("output_text", "text", text=_TEXT), _of("refusal", "refusal", refusal=_TEXT)
    )),
    _of("function_call", "call_id", "name", "arguments", call_id=_NAME, name=_NAME, arguments=_TEXT),
    _of("function_call_output", "call_id", "output", call_id=_NAME, output=_said(_INPUT_TEXT)),
    _of("reasoning", "summary", summary={"type": "array", "items": _of("summary_text", "text", text=_TEXT)}),
    _of("item_reference", "id", id=_NAME),
)  # fmt: skip
_TEXT_BLOCK = _of("text", "text", text=_TEXT)
_SOURCE = {"anyOf": [
    _of("base64", "media_type", "data", media_type=_NAME, data=_TEXT), _of("url", "url", url=_NAME),
]}  # fmt: skip
_BLOCKS = (
    _TEXT_BLOCK,
    _of("image", "source", source=_SOURCE),
    _of("tool_use", "id", "name", "input", id=_NAME, name=_NAME, input={"type": "object"}),
    _of("tool_result", "tool_use_id", tool_use_id=_NAME, content=_said(_TEXT_BLOCK), is_error={"type": "boolean"}),
    _of("thinking", "thinking", thinking=_TEXT, signature=_TEXT),
)
_OBJECTS: dict[str, Any] = {"type": ["array", "null"], "items": {"type": "object"}}
_NUMBERS: dict[str, Any] = {name: _CHAT["properties"][name] for name in ("model", "stream", "temperature", "top_p")}
_RESPONSES: dict[str, Any] = {
    "type": "object",
    "required": ["input"],
    "properties": _NUMBERS
    | {
        "input": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"anyOf": list(_ITEMS)}}]},
        "instructions": {"type": ["string", "null"]},
        "previous_response_id": {"type": ["string", "null"]},
        "store": {"type": ["boolean", "null"]},
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1},
        "tools": _OBJECTS,
        "tool_choice": {},
        "parallel_tool_calls": {"type": ["boolean", "null"]},
        "reasoning": {"type": ["object", "null"]},
        "text": {"type": ["object", "null"]},
        "metadata": {"type": ["object", "null"], "additionalProperties": _TEXT},
    },
}
_MESSAGES: dict[str, Any] = {
    "type": "object",
    "required": ["messages"],
    "properties": _NUMBERS
    | {
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {
                    "role": {"enum": ["user", "assistant"]},
                    "content": _said(*_BLOCKS),
                },
            },
        },
        "system": {"anyOf": [_said(_TEXT_BLOCK), {"type": "null"}]},
        "max_tokens": {"type": ["integer", "null"], "minimum": 1},
        "stop_sequences": {"type": ["array", "null"], "items": _TEXT},
        "tools": _OBJECTS,
        "tool_choice": {"type": ["object", "null"]},
        "thinking": {"type": ["object", "null"]},
        "metadata": {"type": ["object", "null"]},
    },
}
_COUNT: dict[str, Any] = {"type": "object", "required": ["input_tokens"]}
_FEEDBACK: dict[str, Any] = {
    "type": "object",
    "required": ["completion_id"],
    "properties": {
        "completion_id": _TEXT,
        "choice": {"type": "integer", "minimum": 0, "maximum": 63},
        "thumbs": {"enum": ["up", "down"]},
        "score": {"type": "number", "minimum": -1, "maximum": 1},
        "better": _TEXT | {"description": "the answer that was wanted; alone it is a thumb down"},
    },
}
_NOTE: dict[str, Any] = _body(
    {
        "type": "object",
        "properties": {"note": _TEXT | {"maxLength": 500, "description": "why, for those who look later"}},
    }
) | {"required": False}
_LIST: dict[str, Any] = {"type": "object", "required": ["data"], "properties": {"data": {"type": "array"}}}
_ANY: dict[str, Any] = {"type": "object"}
_PAGE = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}},
    {"name": "after", "in": "query", "schema": _TEXT, "description": "the last id of the page before"},
]
_SWITCH: dict[str, Any] = {"enum": ["0", "1"]}
_TURNS = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}},
    {"name": "before", "in": "query", "schema": _TEXT, "description": "`next` of the page before"},
    {"name": "bad", "in": "query", "schema": _SWITCH, "description": "1: those with a negative reward"},
    {"name": "unscored", "in": "query", "schema": _SWITCH, "description": "1: those without a reward"},
    {"name": "corrected", "in": "query", "schema": _SWITCH, "description": "1: those with your own verdict"},
]
_FORMAT = {"name": "format", "in": "query", "schema": {"enum": ["json", "jsonl"]}}


_ID = {"name": "id", "in": "path", "required": True, "schema": _TEXT}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": _TEXT, "description": description}


_HEADERS = [
    _header("X-Session-Id", "the client's own id of the conversation"),
    {"name": "X-Turn-Type", "in": "header", "schema": {"enum": ["main", "side"]}},
    _header("X-Session-Done", "1 when the conversation ends with this answer"),
]


def _asked(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    """A route that answers, in one dialect or another."""
    statuses = (400, 401, 403, 404, 408, 413, 422, 429, 502, 503, 504)
    responses = _answers(_ANY, *statuses, other="text/event-stream")
    return {"summary": summary, "parameters": _HEADERS, "requestBody": _body(body), "responses": responses}


DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "talktune"},
    "paths": {
        "/v1/chat/completions": {
            "post": _asked("OpenAI's chat completions; every answer is stored before its end is sent", _CHAT)
        },
        "/v1/responses": {"post": _asked("OpenAI's responses: the same answers as items and typed events", _RESPONSES)},
        "/v1/responses/{id}": {
            "get": {
                "summary": "an earlier response",
                "parameters": [_ID],
                "responses": _answers(_ANY, 401, 403, 404),
            }
        },
        "/v1/messages": {"post": _asked("Anthropic's messages: the same answers as blocks", _MESSAGES)},
        "/v1/messages/count_tokens": {
            "post": {
                "summary": "how many tokens a prompt has; estimated where the engine does not say",
                "requestBody": _body(_MESSAGES),
                "responses": _answers(_COUNT, 400, 401, 403, 404, 408, 413, 502, 503),
            }
        },
        "/v1/models": {
            "get": {
                "summary": "the models, first the one that a client should name",
                "responses": _answers(_LIST, 401, 403, 502, 503),
            }
        },
        "/v1/models/{model}": {
            "get": {
                "parameters": [{"name": "model", "in": "path", "required": True, "schema": _TEXT}],
                "responses": _answers(_ANY, 401, 403, 404, 502, 503),
            }
        },
        "/v1/feedback": {
            "post": {
                "summary": "a person's own word on an answer: it overrules the judge",
                "requestBody": _body(_FEEDBACK),
                "responses": _answers(_ANY, 400, 401, 403, 404, 408, 413),
            }
        },
        "/v1/conversations": {
            "get": {
                "summary": "a page of your conversations, newest first; format=jsonl exports them",
                "parameters": [*_PAGE, _FORMAT],
                "responses": _answers(_LIST, 400, 401, 403, other="application/jsonl"),
            }
        },
        "/v1/conversations/{id}": {
            "get": {
                "summary": "one conversation: its main line and its forks",
                "parameters": [_ID, _FORMAT],
                "responses": _answers(_ANY, 400, 401, 403, 404, other="application/jsonl"),
            }
        },
        "/v1/turns": {
            "get": {
                "summary": "a page of your turns, newest first: request, answer, reaction, votes, reward, feedback",
                "parameters": _TURNS,
                "responses": _answers(_LIST, 400, 401, 403),
            }
        },
        "/v1/turns/{id}": {
            "get": {
                "summary": "one turn, whole, with its tokens and the log-probs that sampled them",
                "parameters": [_ID],
                "responses": _answers(_ANY, 401, 403, 404),
            }
        },
        "/v1/turns/{id}/change": {
            "get": {
                "summary": "the log-prob of each token of an answer (its first 512) under the model as it was and "
                "under the version that serves now, at the temperature it was sampled at; on talktune's own host, for "
                "a prompt and answer of at most 2048 tokens together",
                "parameters": [_ID],
                "responses": _answers(_ANY, 400, 401, 403, 404, 409, 429, 502, 503),
            }
        },
        "/v1/judge-lines": {
            "get": {
                "summary": "your own verdicts on answers that were reacted to, as lines for `talktune judge-train`",
                "responses": _answers(_TEXT, 401, 403, kind="application/jsonl"),
            }
        },
        "/v1/learning": {
            "get": {
                "summary": "what was heard and learned, the share of liked answers over time, the next update",
                "responses": _answers(_ANY, 401, 403),
            }
        },
        "/v1/versions": {
            "get": {
                "summary": "versions of the policy, newest first; each can be named as `model`, the model as it was "
                "as policy-base; with notes on what was promoted and rolled back by hand, newest first",
                "responses": _answers(_LIST, 401, 403),
            }
        },
        "/v1/versions/{number}/promote": {
            "post": {
                "summary": "this version serves from the next request on; needs an admin's key",
                "parameters": [{"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}}],
                "requestBody": _NOTE,
                "responses": _answers(_ANY, 400, 401, 403, 404, 408, 409, 413, 415),
            }
        },
        "/v1/versions/rollback": {
            "post": {
                "summary": "the version before the live one serves, at last the model as it was; needs an admin's key",
                "requestBody": _NOTE,
                "responses": _answers(_ANY, 400, 401, 403, 408, 409, 413, 415),
            }
        },
        "/v1/events": {
            "get": {
                "summary": "an event whenever there is something new to be fetched: ids of the last turn and version",
                "responses": _answers(_EVENT, 401, 403, 429, kind="text/event-stream"),
            }
        },
        "/health": {"get": {"summary": "server and engines: ok, or what is wrong", "responses": _answers(_ANY, 503)}},
        "/healthz": {"get": {"summary": "the server itself", "responses": _answers(_TEXT, kind="text/plain")}},
        "/metrics": {"get": {"summary": "for Prometheus", "responses": _answers(_TEXT, 401, 403, kind="text/plain")}},
    },
    "components": {
        "securitySchemes": {
            "key": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        },
        "schemas": {
            "Error": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type"],
                        "properties": {"message": _TEXT, "type": _TEXT},
                    }
                },
            }
        },
    },
    "security": [{"key": []}, {"header": []}, {}],
}
