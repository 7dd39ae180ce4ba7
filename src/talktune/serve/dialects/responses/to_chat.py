"""Turns a request of the Responses API into the inner chat request.

Open it when a field of such a request is refused or ignored.
"""

from collections.abc import Mapping
from typing import Any, cast

from talktune.conversations.messages import sent_form
from talktune.serve.dialects.parts import call_of, common_fields, content_of, name_of, objects, optional_text, text_of
from talktune.serve.dialects.responses.items import ITEM, UNSTORED, answer_of
from talktune.serve.dialects.responses.tools import flat_name, tool_choice, tools
from talktune.serve.dialects.wire import BadRequest, Fields
from talktune.store.lookup import Answered

_ROLES = ("user", "assistant", "system", "developer")
_UNSUPPORTED = {
    "background": "answers are sent at once",
    "conversation": "conversations are continued by previous_response_id, or by their messages",
    "prompt": "there are no stored prompts",
}
_LOGPROBS = "message.output_text.logprobs"


def references(body: Mapping[str, Any], most: int) -> set[str]:
    """Ids of the earlier answers that a request refers to; raises BadRequest where it has more than `most` items."""
    found = {body["previous_response_id"]} if isinstance(body.get("previous_response_id"), str) else set[str]()
    raw: Any = body.get("input")
    items = cast(list[Any], raw) if isinstance(raw, list) else []
    if len(items) > most:
        raise BadRequest(f"There are {len(items)} items, and at most {most} are taken.", param="input")
    for item in items:
        if isinstance(item, dict) and cast(Any, item).get("type") == "item_reference":
            found.add(answer_of(str(cast(Any, item).get("id"))))
    return found


def chat_of(body: Mapping[str, Any], known: Mapping[str, Answered]) -> dict[str, Any]:
    """The chat completion that a request asks for; `known` are the answers that it refers to, by id.

    Raises BadRequest, with status 404 for an answer that is not known.
    """
    fields = Fields(dict(body))
    for name, reason in _UNSUPPORTED.items():
        if body.get(name):
            raise BadRequest(f"{name} cannot be used here: {reason}.", param=name)
    inner = common_fields(fields)
    inner["max_tokens"] = fields.number("max_output_tokens", int, 1, None)
    inner["tool_choice"], inner["tools"] = tool_choice(body.get("tool_choice"), tools(body.get("tools"), "tools"))
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
        return {"tool_calls": [call_of(name_of(item, where, "call_id"), flat_name(item, where), arguments)]}
    if kind == "reasoning":
        said = objects(item.get("content"), f"{where}.content") or objects(item.get("summary"), f"{where}.summary")
        return {"reasoning_content": "".join(text_of(part, "text", where) for part in said)}
    if kind == "item_reference":
        id = name_of(item, where, "id")
        answer = _known(known, answer_of(id), "input").turn.answer
        if id.startswith("rs_"):
            return {"reasoning_content": answer.reasoning_content or ""}
        if id.startswith("fc_"):
            found = ITEM.match(id)
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
