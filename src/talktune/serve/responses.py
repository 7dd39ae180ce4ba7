"""OpenAI's Responses (https://platform.openai.com/docs/api-reference/responses) as chat completions, and back.

An answer of chat completions is up to three kinds of items here: its reasoning, its message, its function calls. On
the way in, neighbours of these kinds become one answer again, so that a conversation is the same in every dialect.
"""

import re
import time
from collections.abc import Mapping
from typing import Any, cast

from talktune.conversations.messages import sent_form
from talktune.serve.form import typed_events
from talktune.serve.growing import Growing, count
from talktune.serve.parts import (
    call_of,
    common_fields,
    content_of,
    function_tool,
    name_of,
    objects,
    optional_text,
    refused_tool,
    text_of,
)
from talktune.serve.wire import BadRequest, Fields
from talktune.store.lookup import Answered
from talktune.store.rows import new_id

UNSTORED = "resp_unstored_"
"""How ids begin that cannot be referred to: the client said `store: false`."""
_ITEM = re.compile(r"(?:msg|rs|fc)_([0-9A-Za-z]+?)(?:_(\d{1,4}))?\Z")
_ROLES = ("user", "assistant", "system", "developer")
_UNSUPPORTED = {
    "background": "answers are sent at once",
    "conversation": "conversations are continued by previous_response_id, or by their messages",
    "prompt": "there are no stored prompts",
}
_LOGPROBS = "message.output_text.logprobs"


def may_be_named(id: str) -> bool:
    """Whether an id is one of these answers', and not one of those that the client wanted forgotten."""
    return id.startswith("resp_") and not id.startswith(UNSTORED)


def references(body: Mapping[str, Any], most: int) -> set[str]:
    """Ids of the earlier answers that a request refers to; raises BadRequest where it has more than `most` items."""
    found = {body["previous_response_id"]} if isinstance(body.get("previous_response_id"), str) else set[str]()
    raw: Any = body.get("input")
    items = cast(list[Any], raw) if isinstance(raw, list) else []
    if len(items) > most:
        raise BadRequest(f"There are {len(items)} items, and at most {most} are taken.", param="input")
    for item in items:
        if isinstance(item, dict) and cast(Any, item).get("type") == "item_reference":
            found.add(_answer_of(str(cast(Any, item).get("id"))))
    return found


def request(body: Mapping[str, Any], known: Mapping[str, Answered]) -> dict[str, Any]:
    """The chat completion that a request asks for; `known` are the answers that it refers to, by id.

    Raises BadRequest, with status 404 for an answer that is not known.
    """
    fields = Fields(dict(body))
    for name, reason in _UNSUPPORTED.items():
        if body.get(name):
            raise BadRequest(f"{name} cannot be used here: {reason}.", param=name)
    inner = common_fields(fields)
    inner["max_tokens"] = fields.number("max_output_tokens", int, 1, None)
    inner["tool_choice"], inner["tools"] = _tool_choice(body.get("tool_choice"), _tools(body.get("tools"), "tools"))
    inner["parallel_tool_calls"] = fields.get("parallel_tool_calls", bool)
    reasoning = fields.get("reasoning", dict) or {}
    inner["reasoning_effort"] = optional_text(reasoning, "effort", "reasoning")
    inner["response_format"] = _format(fields.get("text", dict) or {})
    if _LOGPROBS in (fields.get("include", list) or []):
        inner |= {"logprobs": True, "top_logprobs": fields.number("top_logprobs", int, 0, 20)}
    before = fields.get("previous_response_id", str)
    instructions = fields.get("instructions", str)
    history = [] if before is None else _history(_known(known, before), instructions)
    if before is None and instructions:
        history = [{"role": "system", "content": instructions}]
    said = _messages(body.get("input"), known)
    if not said and before is None:
        raise BadRequest("input must have at least one item that says something.", param="input")
    inner["messages"] = history + said
    return {name: value for name, value in inner.items() if value is not None}


def _known(known: Mapping[str, Answered], id: str, param: str = "previous_response_id") -> Answered:
    if id not in known:
        why = " (it was made with store: false)" if id.startswith(UNSTORED) else ""
        raise BadRequest(
            f"There is no answer {id[:100]} to refer to{why}: send the whole conversation as input.",
            status=404,
            type="not_found_error",
            param=param,
        )
    return known[id]


def _answer_of(item: str) -> str:
    """The id of the answer that an item belongs to."""
    found = _ITEM.match(item)
    return f"resp_{found[1]}" if found else item


def _history(before: Answered, instructions: str | None) -> list[dict[str, Any]]:
    """The conversation up to an answer. New instructions take the place of its system prompt, as they do at OpenAI."""
    system, turn = before.system, before.turn
    if instructions and not system.startswith(instructions):
        system = instructions
    if any(message.has_image for message in turn.prompt):
        raise BadRequest(
            "The conversation up to previous_response_id has images or files, which are not kept: send all of it as "
            "input.",
            param="previous_response_id",
        )
    messages = [sent_form(message) for message in (*turn.prompt, turn.answer) if message.role != "system"]
    return ([{"role": "system", "content": system}] if system else []) + messages


def _messages(raw: object, known: Mapping[str, Answered]) -> list[dict[str, Any]]:
    if isinstance(raw, str):
        return [{"role": "user", "content": raw}]
    if not isinstance(raw, list):
        raise BadRequest("input must be text or a list of items.", param="input")
    messages: list[dict[str, Any]] = []
    answer: dict[str, Any] | None = None
    for at, item in enumerate(objects(cast(object, raw), "input")):
        where = f"input[{at}]"
        kind = item.get("type") or "message"
        if kind == "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else content_of(_parts(output, f"{where}.output"))
            answer = None
            messages.append({"role": "tool", "tool_call_id": name_of(item, where, "call_id"), "content": content})
        elif kind == "message" and item.get("role") != "assistant":
            answer = None
            if item.get("role") not in _ROLES:
                raise BadRequest(f"{where}.role must be one of {', '.join(_ROLES)}.", param="input")
            content = item.get("content")
            content = content if isinstance(content, str) else content_of(_parts(content, f"{where}.content"))
            messages.append({"role": item["role"], "content": content})
        else:
            piece = _piece(item, str(kind), where, known)
            if answer is None or (piece.get("content") is not None and answer["content"] is not None):
                answer = {"role": "assistant", "content": None}
                messages.append(answer)
            answer["tool_calls"] = answer.get("tool_calls", []) + piece.pop("tool_calls", [])
            if thought := piece.pop("reasoning_content", None):
                answer["reasoning_content"] = answer.get("reasoning_content", "") + thought
            answer |= piece
    return [_bare(message) for message in messages if not _only_thought(message)]


def _bare(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "tool_calls" or value}


def _only_thought(message: Mapping[str, Any]) -> bool:
    """Reasoning whose answer did not come back with it says nothing."""
    return message["role"] == "assistant" and message["content"] is None and not message.get("tool_calls")


def _piece(item: Mapping[str, Any], kind: str, where: str, known: Mapping[str, Answered]) -> dict[str, Any]:
    """What one item says of an answer."""
    if kind == "message":
        content = item.get("content")
        if not isinstance(content, str):
            content = content_of(_parts(content, f"{where}.content"), "")
        return {"content": content}
    if kind == "function_call":
        arguments = item.get("arguments")
        arguments = "{}" if arguments is None else text_of(item, "arguments", where)
        return {"tool_calls": [call_of(name_of(item, where, "call_id"), _flat_name(item, where), arguments)]}
    if kind == "reasoning":
        said = objects(item.get("content"), f"{where}.content") or objects(item.get("summary"), f"{where}.summary")
        return {"reasoning_content": "".join(text_of(part, "text", where) for part in said)}
    if kind == "item_reference":
        id = name_of(item, where, "id")
        answer = _known(known, _answer_of(id), "input").turn.answer
        if id.startswith("rs_"):
            return {"reasoning_content": answer.reasoning_content or ""}
        if id.startswith("fc_"):
            found = _ITEM.match(id)
            number = int(found[2] or 0) if found else 0
            if number >= len(answer.tool_calls):
                raise BadRequest(f"{where}: that answer has no call {id[:100]}.", status=404, param="input")
            return {"tool_calls": [dict(answer.tool_calls[number])]}
        return {"content": answer.content}
    raise BadRequest(
        f"{where} is of the type {kind[:60]!r}; known are message, function_call, function_call_output, reasoning and "
        "item_reference.",
        param="input",
    )


def _parts(raw: object, where: str) -> list[dict[str, Any]]:
    """Content parts in the form of chat completions."""
    found: list[dict[str, Any]] = []
    for at, part in enumerate(objects(raw, where)):
        here, kind = f"{where}[{at}]", part.get("type")
        if kind in ("input_text", "output_text", "text", "summary_text", "reasoning_text"):
            found.append({"type": "text", "text": text_of(part, "text", here)})
        elif kind == "refusal":
            found.append({"type": "text", "text": text_of(part, "refusal", here)})
        elif kind == "input_image":
            image = {"url": name_of(part, here, "image_url")}
            detail = optional_text(part, "detail", here)
            found.append({"type": "image_url", "image_url": image | ({"detail": detail} if detail else {})})
        elif kind == "input_file":
            file = {name: part[name] for name in ("filename", "file_data", "file_id") if part.get(name) is not None}
            found.append({"type": "file", "file": file})
        elif kind == "input_audio":
            found.append({"type": "input_audio", "input_audio": part.get("input_audio")})
        else:
            raise BadRequest(f"{here} is of the unknown type {str(kind)[:60]!r}.", param=where)
    return found


def _tools(raw: object, where: str, namespace: str | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for at, tool in enumerate(objects(raw, where)):
        here, kind = f"{where}[{at}]", tool.get("type")
        if kind == "namespace" and namespace is None:
            found += _tools(tool.get("tools"), f"{here}.tools", name_of(tool, here))
        elif kind == "web_search" and tool.get("external_web_access") is False:
            pass  # Codex CLI's default: a search that may not go to the web, and finds nothing here
        elif kind != "function":
            raise refused_tool(here, kind)
        else:
            # Some clients send the nested form of chat completions here, too.
            flat = tool["function"] if isinstance(tool.get("function"), dict) else tool
            named = flat | {"name": _flat_name(flat | {"namespace": namespace}, here)}
            found.append(function_tool(named, here, flat.get("parameters")))
    return found


def _flat_name(fields: Mapping[str, Any], where: str) -> str:
    """A function's name, with its namespace where it has one: chat completions know none."""
    name, namespace = name_of(fields, where), optional_text(fields, "namespace", where)
    return f"{namespace.rstrip('_')}__{name}" if namespace else name


def _namespaces(body: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Of the functions in a namespace: their names as a client knows them, by their flat ones."""
    found: dict[str, dict[str, str]] = {}
    for tool in objects(body.get("tools"), "tools"):
        for function in objects(tool.get("tools"), "tools") if tool.get("type") == "namespace" else ():
            if function.get("type") == "function" and isinstance(function.get("name"), str):
                named = {"name": function["name"], "namespace": tool["name"]}
                found[_flat_name(named, "tools")] = named
    return found


def _tool_choice(raw: Any, tools: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    """The choice and the tools that it leaves."""
    if raw is None or raw in ("auto", "none", "required"):
        return raw, tools
    if isinstance(raw, dict):
        choice = cast(dict[str, Any], raw)
        if choice.get("type") == "function":
            return {"type": "function", "function": {"name": _flat_name(choice, "tool_choice")}}, tools
        if choice.get("type") == "allowed_tools" and choice.get("mode") in ("auto", "required"):
            names = [tool.get("name") for tool in objects(choice.get("tools"), "tool_choice.tools")]
            return choice["mode"], [tool for tool in tools if tool["function"]["name"] in names]
    raise BadRequest("tool_choice must be auto, none, required, or name a function.", param="tool_choice")


def _format(text: Mapping[str, Any]) -> dict[str, Any] | None:
    """`text.format` as `response_format`."""
    format: Any = text.get("format")
    if format is None:
        return None
    kind = format.get("type") if isinstance(format, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind != "json_schema":
        raise BadRequest("text.format must be of the type text, json_object or json_schema.", param="text")
    names = ("name", "description", "schema", "strict")
    return {"type": kind, "json_schema": {n: format[n] for n in names if format.get(n) is not None}}


class ResponsesForm:
    """The answer to one request: items, and the typed events that tell how they grow."""

    def __init__(self, body: Mapping[str, Any], inner: Mapping[str, Any]) -> None:
        """`inner` is what `request` made of the body."""
        Fields(dict(body)).get("store", bool)
        self._stored = body.get("store") is not False
        name = new_id("resp").replace("-", "_")
        self.id = name if self._stored else name.replace("resp_", UNSTORED)
        self._head = _head(self.id, int(time.time()), str(inner.get("model") or "")) | _echo(body, inner)
        self._namespaces = _namespaces(body)
        self._answer = Growing()
        self._items: list[dict[str, Any]] = []
        """As far as they have grown, in the order in which they began."""
        self._places: dict[str, int] = {}
        """Of the items that are still growing, by what they are of the answer."""
        self._logprobs: list[Any] = []
        self._wants_logprobs = bool(inner.get("logprobs"))
        self._held = ""
        """White space before any text: whether it belongs to a message is not known yet."""
        self._number = 0
        self._begun = False

    def whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """The response, made as a stream of one chunk would be."""
        self.add(body)
        return self.close()[-1]["response"]

    def chunk(self, body: dict[str, Any]) -> bytes:
        """The events of one chunk."""
        return typed_events(self.add(body))

    def end(self) -> bytes:
        """The events that close the items, and the whole response in the last one."""
        return typed_events(self.close())

    def broken(self, status: int, body: Mapping[str, Any]) -> bytes:
        """The event of a response that failed."""
        error = {"code": "server_error", "message": body["error"]["message"]}
        failed = self._response("failed") | {"error": error}
        return typed_events([*self._begin(), self._event("response.failed", response=failed)])

    def refused(self, status: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """OpenAI's error body, which is the inner one."""
        return body

    def add(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The events that a chunk of the inner stream becomes."""
        new = self._answer.add(body)
        found = self._begin()
        if new.reasoning:
            found += self._grow("reasoning", new.reasoning)
        text = self._held + new.text
        self._held = text if "message" not in self._places and not text.strip() else ""
        if self._wants_logprobs:
            self._logprobs += new.logprobs
        if text and not self._held:
            found += self._close("reasoning") + self._grow("message", text)
        for number, call, arguments in new.calls:
            found += self._close("reasoning") + self._grow(f"call {number}", arguments, call)
        return found

    def close(self) -> list[dict[str, Any]]:
        """The events that end the stream."""
        found = self._begin()
        finish = self._answer.finish
        if not any(item["type"] != "reasoning" for item in self._items):
            found += self._close("reasoning") + self._grow("message", self._held)
        status = "incomplete" if finish in ("length", "content_filter") else "completed"
        for what in list(self._places):
            found += self._close(what, status)
        response = self._response(status)
        return [*found, self._event(f"response.{status}", response=response)]

    def _begin(self) -> list[dict[str, Any]]:
        if self._begun:
            return []
        self._begun = True
        kinds = ("response.created", "response.in_progress")
        return [self._event(kind, response=self._response("in_progress")) for kind in kinds]

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _response(self, status: str) -> dict[str, Any]:
        finish = self._answer.finish
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish)
        ended = status in ("completed", "incomplete")
        return self._head | {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "model": self._answer.model or self._head["model"],
            "output": list(self._items),
            "usage": _usage(self._answer.usage) if ended else None,
        }

    def _grow(self, what: str, more: str, call: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """An item begins, where it has not, and has so much more in it."""
        found: list[dict[str, Any]] = []
        kind = "function_call" if call is not None else what
        if what not in self._places:
            self._places[what] = len(self._items)
            item = _item(kind, self._item_id(kind), call)
            self._items.append(item | self._namespaces.get(item.get("name", ""), {}))
            shown = _copy(self._items[-1], kind, "in_progress")
            found.append(self._event("response.output_item.added", output_index=self._places[what], item=shown))
            if kind != "function_call":
                part = self._items[-1]["content"][0]
                found.append(self._event("response.content_part.added", **self._at(what), part=dict(part)))
        item = self._items[self._places[what]]
        if kind == "function_call":
            item["arguments"] += more
            field = self._at(what, part=False)
            return found + ([self._event(f"{_DELTAS[kind]}.delta", **field, delta=more)] if more else [])
        item["content"][0]["text"] += more
        logprobs: dict[str, Any] = {}
        if kind == "message":
            logprobs, self._logprobs = {"logprobs": self._logprobs}, []
            item["content"][0]["logprobs"] += logprobs["logprobs"]
        delta = [self._event(f"{_DELTAS[kind]}.delta", **self._at(what), delta=more, **logprobs)] if more else []
        return found + delta

    def _close(self, what: str, status: str = "completed") -> list[dict[str, Any]]:
        """An item is whole, where there is one."""
        if what not in self._places:
            return []
        item = self._items[self._places[what]]
        kind = item["type"]
        item["status"] = status
        if kind == "function_call":
            fields = self._at(what, part=False) | {"arguments": item["arguments"], "name": item["name"]}
            found = [self._event(f"{_DELTAS[kind]}.done", **fields)]
        else:
            part = dict(item["content"][0])
            fields = {"text": part["text"]} | ({"logprobs": part["logprobs"]} if kind == "message" else {})
            found = [self._event(f"{_DELTAS[kind]}.done", **self._at(what), **fields)]
            found.append(self._event("response.content_part.done", **self._at(what), part=part))
        place = self._places.pop(what)
        return [*found, self._event("response.output_item.done", output_index=place, item=dict(item))]

    def _at(self, what: str, *, part: bool = True) -> dict[str, Any]:
        place = self._places[what]
        found = {"item_id": self._items[place]["id"], "output_index": place}
        return found | ({"content_index": 0} if part else {})

    def _item_id(self, kind: str) -> str:
        before = sum(item["type"] == kind for item in self._items)
        return _item_id(self.id, kind, before)


_DELTAS = {
    "reasoning": "response.reasoning_text",
    "message": "response.output_text",
    "function_call": "response.function_call_arguments",
}


def _item_id(answer: str, kind: str, number: int) -> str:
    """An item's id, which names its answer."""
    prefix = {"reasoning": "rs", "message": "msg", "function_call": "fc"}[kind]
    id = f"{prefix}_{answer.removeprefix('resp_')}"
    return f"{id}_{number}" if number or kind == "function_call" else id


def _item(kind: str, id: str, call: Mapping[str, Any] | None = None, text: str = "") -> dict[str, Any]:
    item: dict[str, Any] = {"id": id, "type": kind, "status": "in_progress"}
    if kind == "reasoning":
        return item | {"summary": [], "content": [{"type": "reasoning_text", "text": text}], "encrypted_content": None}
    if kind == "message":
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return item | {"role": "assistant", "content": [part]}
    assert call is not None
    name = call["function"]["name"]
    return item | {"call_id": call.get("id") or id.replace("fc_", "call_"), "name": name, "arguments": text}


def _copy(item: Mapping[str, Any], kind: str, status: str) -> dict[str, Any]:
    """An item as it is shown when it begins: without its content."""
    return dict(item) | {"status": status} | ({} if kind == "function_call" else {"content": []})


def _head(id: str, created: int, model: str) -> dict[str, Any]:
    return {"id": id, "object": "response", "created_at": created, "status": "completed", "background": False} | {
        "error": None, "incomplete_details": None, "instructions": None, "max_output_tokens": None, "metadata": {},
        "model": model, "output": [], "parallel_tool_calls": True, "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None}, "store": True, "temperature": None,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": None,
        "truncation": "disabled", "usage": None,
    }  # fmt: skip


def _echo(body: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """What a response repeats of its request, as it was understood."""
    metadata: Any = body.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in cast(dict[str, Any], metadata).values()):
        raise BadRequest("metadata must be an object of texts.", param="metadata")
    found = {name: body[name] for name in ("instructions", "previous_response_id") if body.get(name) is not None}
    found |= {name: inner[name] for name in ("temperature", "top_p", "user", "parallel_tool_calls") if name in inner}
    choice = inner.get("tool_choice", "auto")
    format = inner.get("response_format")
    if format is not None and "json_schema" in format:
        format = {"type": "json_schema", **format["json_schema"]}
    tools = [{"parameters": None, "strict": None, "description": None} | t["function"] for t in inner.get("tools", ())]
    return found | {
        "max_output_tokens": inner.get("max_tokens"),
        "metadata": metadata,
        "reasoning": {"effort": inner.get("reasoning_effort"), "summary": None},
        "store": body.get("store") is not False,
        "text": {"format": format or {"type": "text"}},
        "tool_choice": choice if isinstance(choice, str) else {"type": "function", **choice["function"]},
        "tools": [{"type": "function", **tool} for tool in tools],
        "top_logprobs": inner.get("top_logprobs") or 0,
    }


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's clients want numbers: 0 where the engine does not tell."""
    asked, answered = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    cached = count(usage, "prompt_tokens_details", "cached_tokens")
    thought = count(usage, "completion_tokens_details", "reasoning_tokens")
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": count(usage, "total_tokens") or asked + answered,
    }


def stored_response(id: str, found: Answered) -> dict[str, Any]:
    """A response as the store knows it; its tokens are counted where the engine told them."""
    answer, sampled = found.turn.answer, found.turn.sampled
    items = [_item("reasoning", _item_id(id, "reasoning", 0), None, answer.reasoning_content or "")]
    items = items if answer.reasoning_content else []
    if answer.content.strip() or not answer.tool_calls:
        items.append(_item("message", _item_id(id, "message", 0), None, answer.content))
    for number, call in enumerate(answer.tool_calls):
        made = _item("function_call", _item_id(id, "function_call", number), call, call["function"]["arguments"])
        items.append(made)
    status = "completed" if found.state == "complete" else "incomplete"
    usage = None
    if sampled is not None:
        usage = _usage({"prompt_tokens": len(sampled.prompt_ids), "completion_tokens": len(sampled.answer_ids)})
    _, _, model = found.engine.partition(" ")
    return _head(id, int(found.created), model) | {
        "status": status,
        "instructions": found.system or None,
        "output": [item | {"status": status} for item in items],
        "previous_response_id": found.parent if (found.parent or "").startswith("resp_") else None,
        "usage": usage,
    }
