"""Prompts to ask a policy: plain text, one a line, or JSONL of {"prompt": …}."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from talktune.conversations.files import parse_json, strict_lines
from talktune.conversations.messages import BadConversation, message_from_dict
from talktune.errors import UserError
from talktune.types import Message


def read_prompts(path: Path | str) -> list[tuple[Message, ...]]:
    """All prompts of a file, each as messages that end with the user.

    A line that starts with "{" is JSON with "prompt" (text or messages) or "messages"; in a file whose name
    ends in .txt every line is plain text. Raises `UserError` at the first line that cannot be used, and for a
    file that is missing or has no prompt.
    """
    path = Path(path)
    prompts: list[tuple[Message, ...]] = []
    for number, line in strict_lines(path):
        try:
            if path.suffix != ".txt" and line.lstrip().startswith(b"{"):
                prompts.append(parse_prompt(parse_json(line)))
            else:
                prompts.append((Message("user", line.decode("utf-8").strip()),))
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number}: it is not UTF-8 text; save the file as UTF-8.") from None
        except (BadConversation, ValueError) as reason:
            raise UserError(f"{path}, line {number}: {reason}; correct that line.") from None
    if not prompts:
        raise UserError(f"{path} is empty; give one prompt a line.")
    return prompts


def parse_prompt(raw: object) -> tuple[Message, ...]:
    """The messages of one JSON line's "prompt" or "messages"; raises BadConversation when there are none."""
    fields = cast(Mapping[str, Any], raw)
    value = fields.get("prompt", fields.get("messages"))
    if isinstance(value, str) and value.strip():
        return (Message("user", value),)
    if not isinstance(value, list) or not value:
        raise BadConversation('it has no "prompt" that is text or a list of messages')
    items = cast(list[object], value)
    messages = tuple(message_from_dict(item, f"message {i}") for i, item in enumerate(items, start=1))
    if messages[-1].role not in ("user", "tool"):
        raise BadConversation("its last message is not the user's, so there is nothing to answer")
    return messages
