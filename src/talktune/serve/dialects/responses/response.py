"""The frame around a response's items, and a response that is read from the store.

Open it to see what a response says of itself and of its request.
"""

from collections.abc import Mapping
from typing import Any, cast

from talktune.serve.dialects.growing import count
from talktune.serve.dialects.recorder import REFUSED
from talktune.serve.dialects.responses.items import item_id, new_item
from talktune.serve.dialects.wire import BadRequest
from talktune.store.lookup import Answered


def head(id: str, created: int, model: str) -> dict[str, Any]:
    """All fields of a response; what depends on its request and its answer is put over them."""
    return {"id": id, "object": "response", "created_at": created, "status": "completed", "background": False} | {
        "error": None, "incomplete_details": None, "instructions": None, "max_output_tokens": None, "metadata": {},
        "model": model, "output": [], "parallel_tool_calls": True, "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None}, "store": True, "temperature": None,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": None,
        "truncation": "disabled", "usage": None,
    }  # fmt: skip


def echo(body: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
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


def usage_of(usage: Mapping[str, Any]) -> dict[str, Any]:
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
    items = [new_item("reasoning", item_id(id, "reasoning", 0), None, answer.reasoning_content or "")]
    items = items if answer.reasoning_content else []
    if answer.content.strip() or not answer.tool_calls:
        said = "refusal" if found.turn.finish == REFUSED else "message"
        items.append(new_item(said, item_id(id, said, 0), None, answer.content))
    for number, call in enumerate(answer.tool_calls):
        made = new_item("function_call", item_id(id, "function_call", number), call, call["function"]["arguments"])
        items.append(made)
    status = "completed" if found.state == "complete" else "incomplete"
    usage = None
    if sampled is not None:
        usage = usage_of({"prompt_tokens": len(sampled.prompt_ids), "completion_tokens": len(sampled.answer_ids)})
    _, _, model = found.engine.partition(" ")
    return head(id, int(found.created), model) | {
        "status": status,
        "instructions": found.system or None,
        "output": [item | {"status": status} for item in items],
        "previous_response_id": found.parent if (found.parent or "").startswith("resp_") else None,
        "usage": usage,
    }
