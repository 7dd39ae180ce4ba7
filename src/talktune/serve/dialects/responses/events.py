"""The typed events of a streamed response.

Open it when a client of the Responses API misses an event.
"""

import time
from collections.abc import Mapping
from typing import Any

from talktune.serve.dialects.form import typed_events
from talktune.serve.dialects.growing import Growing
from talktune.serve.dialects.responses.items import UNSTORED, emptied, item_id, new_item
from talktune.serve.dialects.responses.response import echo, head, usage_of
from talktune.serve.dialects.responses.tools import namespaces
from talktune.serve.dialects.wire import Fields
from talktune.store.rows import new_id

_DELTAS = {
    "reasoning": "response.reasoning_text",
    "message": "response.output_text",
    "refusal": "response.refusal",
    "function_call": "response.function_call_arguments",
}


class ResponsesForm:
    """The answer to one request: items, and the typed events that tell how they grow."""

    def __init__(self, body: Mapping[str, Any], inner: Mapping[str, Any]) -> None:
        """`inner` is what `request` made of the body."""
        Fields(dict(body)).get("store", bool)
        self._stored = body.get("store") is not False
        name = new_id("resp").replace("-", "_")
        self.id = name if self._stored else name.replace("resp_", UNSTORED)
        self._head = head(self.id, int(time.time()), str(inner.get("model") or "")) | echo(body, inner)
        self._namespaces = namespaces(body)
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
        if new.refusal:
            found += self._close("reasoning") + self._close("message") + self._grow("refusal", new.refusal)
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
            "usage": usage_of(self._answer.usage) if ended else None,
        }

    def _grow(self, what: str, more: str, call: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """An item begins, where it has not, and has so much more in it."""
        found: list[dict[str, Any]] = []
        kind = "function_call" if call is not None else what
        if what not in self._places:
            self._places[what] = len(self._items)
            item = new_item(kind, self._item_id(kind), call)
            self._items.append(item | self._namespaces.get(item.get("name", ""), {}))
            shown = emptied(self._items[-1], kind, "in_progress")
            found.append(self._event("response.output_item.added", output_index=self._places[what], item=shown))
            if kind != "function_call":
                part = self._items[-1]["content"][0]
                found.append(self._event("response.content_part.added", **self._at(what), part=dict(part)))
        item = self._items[self._places[what]]
        if kind == "function_call":
            item["arguments"] += more
            field = self._at(what, part=False)
            return found + ([self._event(f"{_DELTAS[kind]}.delta", **field, delta=more)] if more else [])
        item["content"][0]["refusal" if kind == "refusal" else "text"] += more
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
        kind = "refusal" if what == "refusal" else item["type"]
        item["status"] = status
        if kind == "function_call":
            fields = self._at(what, part=False) | {"arguments": item["arguments"], "name": item["name"]}
            found = [self._event(f"{_DELTAS[kind]}.done", **fields)]
        else:
            part = dict(item["content"][0])
            fields = {name: part[name] for name in ("text", "refusal", "logprobs") if name in part}
            found = [self._event(f"{_DELTAS[kind]}.done", **self._at(what), **fields)]
            found.append(self._event("response.content_part.done", **self._at(what), part=part))
        place = self._places.pop(what)
        return [*found, self._event("response.output_item.done", output_index=place, item=dict(item))]

    def _at(self, what: str, *, part: bool = True) -> dict[str, Any]:
        place = self._places[what]
        found = {"item_id": self._items[place]["id"], "output_index": place}
        return found | ({"content_index": 0} if part else {})

    def _item_id(self, kind: str) -> str:
        type = "message" if kind == "refusal" else kind
        before = sum(item["type"] == type for item in self._items)
        return item_id(self.id, kind, before)
