"""Anthropic's Messages (https://docs.anthropic.com/en/api/messages) as chat completions, and back.

Open it when a client of Anthropic's API gets something else than it expects.

An answer is a list of blocks here: thinking, text, tool_use. They come one after the other, so that in a stream what
belongs to a block that is closed already waits until the end. Results of tools stand in the user's message; they
become messages of their own, before what the user says besides.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from talktune.serve.dialects.form import typed_events
from talktune.serve.dialects.growing import Growing, count
from talktune.serve.dialects.parts import (
    call_of,
    common_fields,
    content_of,
    failed,
    function_tool,
    name_of,
    objects,
    optional_text,
    refused_tool,
    text_of,
)
from talktune.serve.dialects.recorder import REFUSED
from talktune.serve.dialects.wire import BadRequest, Fields
from talktune.store.rows import new_id

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    REFUSED: "refusal",
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_BLOCKS = "text, image, document, tool_use, tool_result, thinking and redacted_thinking"


def request(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat completion that a request asks for; raises BadRequest."""
    fields = Fields(dict(body))
    for name in ("mcp_servers", "container"):
        if body.get(name):
            raise BadRequest(f"{name} cannot be used here: tools run on the client's side.", param=name)
    inner = common_fields(fields)
    inner["max_tokens"] = fields.number("max_tokens", int, 1, None)
    stops: Any = body.get("stop_sequences")
    if stops is not None and (not isinstance(stops, list) or not all(isinstance(s, str) for s in cast(Any, stops))):
        raise BadRequest("stop_sequences must be a list of texts.", param="stop_sequences")
    inner["stop"] = stops or None
    inner["tools"] = _tools(body)
    inner |= _tool_choice(body.get("tool_choice"))
    inner["response_format"] = _format(fields)
    system = body.get("system")
    messages: list[dict[str, Any]] = []
    if system:
        content = system if isinstance(system, str) else content_of(_parts(system, "system"))
        messages.append({"role": "system", "content": content})
    for at, message in enumerate(objects(body.get("messages"), "messages")):
        messages += _messages(message, f"messages[{at}]")
    if messages and messages[-1]["role"] == "assistant":  # here that always means: go on with it
        inner |= {"continue_final_message": True, "add_generation_prompt": False}
    inner["messages"] = messages
    return {name: value for name, value in inner.items() if value is not None}


def _messages(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise BadRequest(f"{where}.role must be user or assistant.", param="messages")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    blocks = objects(content, f"{where}.content")
    if role == "assistant":
        return [_answer(blocks, f"{where}.content")]
    found: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for at, block in enumerate(blocks):
        here = f"{where}.content[{at}]"
        if block.get("type") != "tool_result":
            said.append(block)
            continue
        result: Any = block.get("content")
        told = result if isinstance(result, str) else content_of(_parts(result, f"{here}.content"))
        told = failed(told) if block.get("is_error") is True else told
        found.append({"role": "tool", "tool_call_id": name_of(block, here, "tool_use_id"), "content": told})
    if said or not found:
        # The parts of a person's message stay apart: a client puts its own words into others than the person's.
        parts = _parts(said, f"{where}.content")
        found.append({"role": role, "content": parts if len(parts) > 1 else content_of(parts)})
    return found


def _answer(blocks: list[dict[str, Any]], where: str) -> dict[str, Any]:
    """An answer of the model as it comes back."""
    found: dict[str, Any] = {"role": "assistant", "content": None}
    said: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thought = ""
    for at, block in enumerate(blocks):
        here, kind = f"{where}[{at}]", block.get("type")
        if kind == "tool_use":
            given = block.get("input")
            if not isinstance(given, dict | None):
                raise BadRequest(f"{here}.input must be an object.", param="messages")
            arguments = json.dumps(given or {}, ensure_ascii=False)
            calls.append(call_of(name_of(block, here, "id"), name_of(block, here), arguments))
        elif kind == "thinking":
            thought += optional_text(block, "thinking", here) or ""
        elif kind != "redacted_thinking":
            said.append(block)
    if said:
        found["content"] = content_of(_parts(said, where), "")
    elif not calls:
        found["content"] = ""
    if thought:
        found["reasoning_content"] = thought
    return found | ({"tool_calls": calls} if calls else {})


def _parts(raw: object, where: str) -> list[dict[str, Any]]:
    """Content parts in the form of chat completions."""
    found: list[dict[str, Any]] = []
    for at, block in enumerate(objects(raw, where)):
        here, kind = f"{where}[{at}]", block.get("type")
        source: Any = block.get("source")
        source = cast(dict[str, Any], source) if isinstance(source, dict) else {}
        if kind == "text":
            found.append({"type": "text", "text": text_of(block, "text", here)})
        elif kind == "image":
            found.append({"type": "image_url", "image_url": {"url": _url(source, here)}})
        elif kind == "document" and source.get("type") == "text":
            found.append({"type": "text", "text": text_of(source, "data", here)})
        elif kind == "document":
            name = optional_text(block, "title", here) or "document"
            found.append({"type": "file", "file": {"filename": name, "file_data": _url(source, here)}})
        else:
            raise BadRequest(f"{here} is of the type {str(kind)[:60]!r}; known are {_BLOCKS}.", param="messages")
    return found


def _url(source: Mapping[str, Any], where: str) -> str:
    """Where an image or a document is: an address, or its data in one."""
    if source.get("type") == "url":
        return name_of(source, where, "url")
    if source.get("type") == "base64":
        return f"data:{name_of(source, where, 'media_type')};base64,{text_of(source, 'data', where)}"
    raise BadRequest(f"{where}.source must be of the type base64 or url.", param="messages")


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for at, tool in enumerate(objects(body.get("tools"), "tools")):
        if tool.get("type") not in (None, "custom", "function"):
            raise refused_tool(f"tools[{at}]", tool.get("type"))
        found.append(function_tool(tool, f"tools[{at}]", tool.get("input_schema")))
    return found


def _tool_choice(raw: object) -> dict[str, Any]:
    if raw is None:
        return {}
    choice = cast(dict[str, Any], raw) if isinstance(raw, dict) else {}
    kind = choice.get("type")
    found: dict[str, Any] = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}
    if kind == "tool":
        return found | {"tool_choice": {"type": "function", "function": {"name": name_of(choice, "tool_choice")}}}
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise BadRequest("tool_choice.type must be auto, any, tool or none.", param="tool_choice")
    return found | {"tool_choice": _CHOICES[kind]}


def _format(fields: Fields) -> dict[str, Any] | None:
    """`output_config.format` (before: `output_format`) as `response_format`."""
    config = fields.get("output_config", dict) or {}
    format: Any = config.get("format") or fields.get("output_format", dict)
    if format is None:
        return None
    if not isinstance(format, dict) or cast(Any, format).get("type") != "json_schema":
        raise BadRequest("output_config.format must be of the type json_schema.", param="output_config")
    schema = cast(Any, format).get("schema")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


class AnthropicForm:
    """The answer to one request: a message of blocks, or the events that tell how it grows."""

    def __init__(self, inner: Mapping[str, Any]) -> None:
        """`inner` is what `request` made of the body."""
        self.id = new_id("msg").replace("-", "_")
        self._model = str(inner.get("model") or "")
        self._answer = Growing()
        self._blocks = 0
        self._open: str | int | None = None
        """What grows: thinking, text, or the number of a tool call."""
        self._called = False
        self._held = ""
        """White space, which makes no block of its own."""
        self._late: dict[int, tuple[Mapping[str, Any], str]] = {}
        """Calls after the first, which wait until it is whole."""
        self._begun = False

    def whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """The message."""
        self._answer.add(body)
        said = self._answer.recorder.message()
        blocks: list[dict[str, Any]] = []
        if said.reasoning_content:
            blocks.append({"type": "thinking", "thinking": said.reasoning_content, "signature": self.id})
        if said.content.strip() or not said.tool_calls:
            blocks.append({"type": "text", "text": said.content})
        for number, call in enumerate(said.tool_calls):
            blocks.append(self._call(number, call) | {"input": _input(call["function"]["arguments"])})
        stopped = self._stopped() | {"usage": self._usage()}
        return self._message() | {"content": blocks} | stopped

    def chunk(self, body: dict[str, Any]) -> bytes:
        """The events of one chunk."""
        return typed_events(self.add(body))

    def end(self) -> bytes:
        """The events that close the message."""
        return typed_events(self.close())

    def broken(self, status: int, body: Mapping[str, Any]) -> bytes:
        """The event of a stream that broke off."""
        return typed_events([self.refused(status, body)])

    def refused(self, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """An error."""
        return error(status, body)

    def add(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The events that a chunk of the inner stream becomes."""
        new = self._answer.add(body)
        found = self._begin()
        if new.reasoning and not self._called:
            found += self._grow("thinking", new.reasoning)
        text = self._held + new.text + new.refusal
        self._held = text if self._called or (self._open != "text" and not text.strip()) else ""
        if text and not self._held:
            found += self._grow("text", text)
        for number, call, arguments in new.calls:
            if not self._called or self._open == number:
                self._called = True
                found += self._grow(number, arguments, call)
            else:
                self._late[number] = (call, self._late.get(number, (call, ""))[1] + arguments)
        return found

    def close(self) -> list[dict[str, Any]]:
        """The events that end the stream."""
        found = self._begin()
        for number, (call, arguments) in self._late.items():
            found += self._grow(number, arguments, call)
        if self._held.strip() or not (self._called or self._open == "text"):
            found += self._grow("text", self._held)
        found += self._stop()
        delta = {"type": "message_delta", "delta": self._stopped(), "usage": self._usage()}
        return [*found, delta, {"type": "message_stop"}]

    def _begin(self) -> list[dict[str, Any]]:
        if self._begun:
            return []
        self._begun = True
        usage = _usage(self._answer.prompt_tokens, 0, 0)
        empty = {"stop_reason": None, "stop_sequence": None, "content": [], "usage": usage}
        return [{"type": "message_start", "message": self._message() | empty}, {"type": "ping"}]

    def _grow(self, what: str | int, more: str, call: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """A block begins, where it is not open, and has so much more in it."""
        found: list[dict[str, Any]] = []
        if self._open != what:
            found += self._stop()
            self._open = what
            block: dict[str, Any] = {"type": "text", "text": ""}
            if isinstance(what, int):
                assert call is not None
                block = self._call(what, call) | {"input": {}}
            elif what == "thinking":
                block = {"type": "thinking", "thinking": "", "signature": ""}
            found.append({"type": "content_block_start", "index": self._blocks, "content_block": block})
        delta = {"type": "input_json_delta", "partial_json": more}
        if isinstance(what, str):
            delta = {"type": f"{what}_delta", what: more}
        return found + ([self._delta(delta)] if more else [])

    def _stop(self) -> list[dict[str, Any]]:
        """The open block is whole."""
        if self._open is None:
            return []
        # Clients drop thinking that is not signed.
        signed = [self._delta({"type": "signature_delta", "signature": self.id})] if self._open == "thinking" else []
        found = [*signed, {"type": "content_block_stop", "index": self._blocks}]
        self._open, self._blocks = None, self._blocks + 1
        return found

    def _delta(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}

    def _message(self) -> dict[str, Any]:
        model = self._answer.model or self._model
        return {"id": self.id, "type": "message", "role": "assistant", "model": model}

    def _call(self, number: int, call: Mapping[str, Any]) -> dict[str, Any]:
        id = call.get("id") or f"toolu_{self.id.removeprefix('msg_')}_{number}"
        return {"type": "tool_use", "id": id, "name": call["function"]["name"]}

    def _stopped(self) -> dict[str, Any]:
        finish, at = self._answer.finish, self._answer.stopped_at
        if self._answer.recorder.ended == REFUSED:
            finish = REFUSED
        if finish == "stop" and at is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": at}
        return {"stop_reason": STOPS.get(finish, "end_turn"), "stop_sequence": None}

    def _usage(self) -> dict[str, Any]:
        usage = self._answer.usage
        cached = count(usage, "prompt_tokens_details", "cached_tokens")
        return _usage(self._answer.prompt_tokens, cached, count(usage, "completion_tokens"))


def _usage(asked: int, cached: int, answered: int) -> dict[str, Any]:
    """What is read from a cache is not counted as input here."""
    return {
        "input_tokens": max(asked - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": answered,
    }


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object that they must be here; other words of the model stand under one key."""
    try:
        value: Any = json.loads(arguments or "{}")
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        value = arguments
    return cast(dict[str, Any], value) if isinstance(value, dict) else {"arguments": arguments}


def error(status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """An inner error in Anthropic's form. Claude Code shortens its conversation when it reads `prompt is too long`."""
    said: Any = body.get("error") or {}
    message = str(said.get("message") or "The server failed.")
    if said.get("code") == "context_length_exceeded":
        message = f"prompt is too long: {message}"
    kind = TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}


def model(card: Mapping[str, Any]) -> dict[str, Any]:
    """A model's card for a client of either dialect."""
    created: Any = card.get("created")
    moment = datetime.fromtimestamp(created if type(created) is int and 0 <= created < 2**32 else 0, tz=UTC)
    return dict(card) | {"type": "model", "display_name": card["id"], "created_at": moment.isoformat()}


def count_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat completion whose prompt is to be counted."""
    return request({name: value for name, value in body.items() if name != "stream"})


def estimate(inner: Mapping[str, Any]) -> int:
    """Tokens of a prompt where no tokenizer can be asked: one for each four bytes, as in English text."""
    text = json.dumps([inner.get("messages"), inner.get("tools")], ensure_ascii=False)
    return max(len(text.encode("utf-8", "surrogatepass")) // 4, 1)
