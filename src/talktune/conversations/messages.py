"""One message: its OpenAI chat form (a dict from JSON) and `Message`, checked on the way in.

Whatever is wrong raises `BadConversation` with a reason that the readers report with file and line.
Fields as in OpenAI's chat completions reference; `reasoning_content` as vLLM and DeepSeek send it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from talktune.types import Message, Role

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
MEDIA_PARTS = {"image", "image_url", "input_image", "input_audio", "audio", "audio_url", "video", "video_url", "file"}
"""Parts that a text model cannot see; `Message.has_image` stands for all of them."""


class BadConversation(Exception):
    """The reason why one line of a file cannot be used, in words."""


def message_from_dict(raw: object, where: str = "the message", *, request: bool = False) -> Message:
    """The message that OpenAI's chat form describes; raises `BadConversation` naming `where`.

    `developer` becomes `system`, null content becomes "", text parts are joined by newlines, tool-call
    arguments become a JSON string (one that already is a string stays byte for byte as it was sent, even
    when a model wrote broken JSON: that too is something a reaction may follow). Fields that `Message` does
    not have are not kept, nor is what a client says in a `request` that only talktune can know.
    """
    fields = object_of(raw, f"{where} is not an object with role and content")
    role = fields.get("role")
    if not isinstance(role, str) or role not in ROLES:
        shown = "no role" if role is None else f"the unknown role {role!r}"
        raise BadConversation(f"{where} has {shown}; known are {', '.join(ROLES)}")
    if fields.get("function_call"):
        raise BadConversation(f"{where} uses the retired function_call; write it as tool_calls")
    content, has_image = _content(fields.get("content"), where)
    refusal = _optional_text(fields, "refusal", where)
    reasoning = _optional_text(fields, "reasoning_content", where)
    if reasoning is None:
        reasoning = _optional_text(fields, "reasoning", where)
    calls = fields.get("tool_calls") or ()
    if calls and role != "assistant":
        raise BadConversation(f"{where} has tool_calls, which only the assistant can make")
    if calls != () and (not isinstance(calls, Sequence) or isinstance(calls, str)):
        raise BadConversation(f"{where}: tool_calls is not a list")
    return Message(
        role=ROLES[role],
        content=content or refusal or "",
        tool_calls=tuple(_tool_call(c, where) for c in cast(Sequence[object], calls)),
        tool_call_id=_optional_text(fields, "tool_call_id", where),
        reasoning_content=reasoning,
        name=_optional_text(fields, "name", where),
        has_image=has_image,
        words=None if request else _optional_text(fields, "words", where),
    )


def message_to_dict(message: Message) -> dict[str, Any]:
    """The message in OpenAI chat form; `message_from_dict` gives it back equal.

    An image is written as an empty `{"type": "image"}` part: its place is known, its data never was kept.
    """
    out: dict[str, Any] = {"role": message.role}
    if message.has_image:
        text = [{"type": "text", "text": message.content}] if message.content else []
        out["content"] = [*text, {"type": "image"}]
    else:
        out["content"] = message.content
    if message.reasoning_content is not None:
        out["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        out["tool_calls"] = [dict(call) for call in message.tool_calls]
    known = {"tool_call_id": message.tool_call_id, "name": message.name, "words": message.words}
    return out | {key: value for key, value in known.items() if value is not None}


def sent_form(message: Message) -> dict[str, Any]:
    """The message in OpenAI chat form as it is sent: without what only talktune knows of it."""
    return message_to_dict(replace(message, words=None))


def messages_from_list(raw: object, field: str = "messages") -> tuple[Message, ...]:
    """A whole conversation's messages, checked as one; raises `BadConversation`."""
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise BadConversation(f'"{field}" is not a list')
    items = cast(Sequence[object], raw)
    messages = tuple(message_from_dict(item, f"message {i}") for i, item in enumerate(items, start=1))
    check_conversation(messages)
    return messages


def check_conversation(messages: Sequence[Message]) -> None:
    """Raises `BadConversation` unless there are a prompt, an answer, and a call for every tool result."""
    if not messages:
        raise BadConversation("there are no messages")
    if messages[0].role == "assistant":
        raise BadConversation("it starts with the assistant, so that answer has no prompt; begin with the user")
    if all(m.role != "assistant" for m in messages):
        raise BadConversation("there is no assistant message in it, so nothing to judge")
    for i, message in enumerate(messages):
        if message.role == "tool" and caller_of(messages, i) is None:
            name = f" (tool_call_id {message.tool_call_id!r})" if message.tool_call_id else ""
            raise BadConversation(f"message {i + 1} is a tool result{name} that no earlier tool call asked for")


def caller_of(messages: Sequence[Message], index: int) -> int | None:
    """Index of the assistant message whose tool call the result `messages[index]` answers, or None.

    The nearest earlier one that made a call with this id (servers reuse ids such as `call_0`); where the
    result, or the calls, carry no id, the nearest earlier one with calls.
    """
    wanted = messages[index].tool_call_id
    for i in range(index - 1, -1, -1):
        calls = messages[i].tool_calls
        if calls and (not wanted or any(call.get("id", wanted) == wanted for call in calls)):
            return i
    return None


def object_of(raw: object, otherwise: str) -> Mapping[str, Any]:
    """A JSON object as it is; raises `BadConversation` with the reason `otherwise` for anything else."""
    if type(raw) is not dict and not isinstance(raw, Mapping):  # the first is quick, and true of nearly all
        raise BadConversation(otherwise)
    return cast(Mapping[str, Any], raw)


def _content(raw: object, where: str) -> tuple[str, bool]:
    """Text of a content field (string, null or list of parts), and whether anything in it was not text."""
    if raw is None:
        return "", False
    if isinstance(raw, str):
        return raw, False
    if not isinstance(raw, Sequence):
        raise BadConversation(f"{where}: content is neither text, null nor a list of parts")
    texts: list[str] = []
    has_media = False
    for part in cast(Sequence[object], raw):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = cast(Mapping[str, Any], part).get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind in MEDIA_PARTS:
            has_media = True
            continue
        text = cast(Mapping[str, Any], part).get(TEXT_PARTS.get(str(kind), "")) if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise BadConversation(f"{where}: content part of type {kind!r} is neither text nor an image")
        texts.append(text)
    return "\n".join(texts), has_media


def _tool_call(raw: object, where: str) -> dict[str, Any]:
    """One tool call with a name and arguments as a JSON string; other fields stay."""
    call: Mapping[str, Any] = cast(Mapping[str, Any], raw) if isinstance(raw, Mapping) else {}
    function = object_of(call.get("function"), f'{where}: a tool call has no "function" object')
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise BadConversation(f"{where}: a tool call has no function name")
    if arguments is None:
        arguments = "{}"
    elif isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not isinstance(arguments, str):
        raise BadConversation(f"{where}: the arguments of tool call {name!r} are neither a JSON string nor an object")
    call_id = call.get("id")
    if call_id is not None and not isinstance(call_id, str):
        raise BadConversation(f"{where}: the id of tool call {name!r} is not text")
    kept = {k: v for k, v in call.items() if v is not None}
    function_kept = {k: v for k, v in function.items() if v is not None}
    return {**kept, "type": "function", "function": {**function_kept, "name": name, "arguments": arguments}}


def _optional_text(fields: Mapping[str, Any], key: str, where: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise BadConversation(f"{where}: {key} is not text")
    return value
