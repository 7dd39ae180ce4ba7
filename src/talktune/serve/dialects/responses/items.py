"""The items of a response, and their ids, which name the answer that they belong to.

Open it when a client refers to an item that is not found.
"""

import re
from collections.abc import Mapping
from typing import Any

UNSTORED = "resp_unstored_"
"""How ids begin that cannot be referred to: the client said `store: false`."""
ITEM = re.compile(r"(?:msg|rs|fc)_([0-9A-Za-z]+?)(?:_(\d{1,4}))?\Z")
"""An item's id: the answer's, and the number among those of its kind."""


def may_be_named(id: str) -> bool:
    """Whether an id is one of these answers', and not one of those that the client wanted forgotten."""
    return id.startswith("resp_") and not id.startswith(UNSTORED)


def answer_of(item: str) -> str:
    """The id of the answer that an item belongs to."""
    found = ITEM.match(item)
    return f"resp_{found[1]}" if found else item


def item_id(answer: str, kind: str, number: int) -> str:
    """An item's id, which names its answer."""
    prefix = {"reasoning": "rs", "message": "msg", "refusal": "msg", "function_call": "fc"}[kind]
    id = f"{prefix}_{answer.removeprefix('resp_')}"
    return f"{id}_{number}" if number or kind == "function_call" else id


def new_item(kind: str, id: str, call: Mapping[str, Any] | None = None, text: str = "") -> dict[str, Any]:
    """An item that begins, with the text that it has already; `call` is that of a function call.

    A refusal is a message whose content is of another type.
    """
    if kind == "refusal":
        return new_item("message", id) | {"content": [{"type": "refusal", "refusal": text}]}
    item: dict[str, Any] = {"id": id, "type": kind, "status": "in_progress"}
    if kind == "reasoning":
        return item | {"summary": [], "content": [{"type": "reasoning_text", "text": text}], "encrypted_content": None}
    if kind == "message":
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return item | {"role": "assistant", "content": [part]}
    assert call is not None
    name = call["function"]["name"]
    return item | {"call_id": call.get("id") or id.replace("fc_", "call_"), "name": name, "arguments": text}


def emptied(item: Mapping[str, Any], kind: str, status: str) -> dict[str, Any]:
    """An item as it is shown when it begins: without its content."""
    return dict(item) | {"status": status} | ({} if kind == "function_call" else {"content": []})
