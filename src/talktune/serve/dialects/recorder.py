"""Adds the chunks of one streamed choice up to the message that the client has at the end of the stream.

Open it when a stored answer is not what the client saw.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from talktune.types import Message

REFUSED = "refusal"
"""Why an answer ended that is a refusal, and whole."""


@dataclass
class Recorder:
    """Deltas of one choice, added up as OpenAI's clients add them."""

    content: list[str] = field(default_factory=list[str])
    refusal: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    calls: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    finish: str | None = None

    def add(self, choice: Mapping[str, Any]) -> None:
        """Take in one entry of a chunk's `choices`, or of a whole reply's."""
        delta = choice.get("delta") or choice.get("message") or {}
        self.content.append(delta.get("content") or "")
        self.refusal.append(delta.get("refusal") or "")
        self.reasoning.append(delta.get("reasoning_content") or delta.get("reasoning") or "")
        for place, call in enumerate(delta.get("tool_calls") or ()):
            self._add_call(call.get("index", place), call)
        self.finish = choice.get("finish_reason") or self.finish

    @property
    def begun(self) -> bool:
        """Whether anything was said."""
        return bool(self.calls) or any(self.content) or any(self.refusal) or any(self.reasoning)

    @property
    def ended(self) -> str | None:
        """The reason why the choice ended: the engine's own, but for a refusal, which stands in another field."""
        refused = any(self.refusal) and not any(self.content)
        return REFUSED if refused and self.finish == "stop" else self.finish

    def message(self) -> Message:
        """The answer so far; a refusal is its content, as it is when a client sends it back."""
        calls = tuple(self.calls[i] for i in sorted(self.calls))
        content = "".join(self.content) or "".join(self.refusal)
        return Message("assistant", content, calls, reasoning_content="".join(self.reasoning) or None)

    def _add_call(self, index: int, call: Mapping[str, Any]) -> None:
        whole = self.calls.setdefault(index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        whole["id"] = call.get("id") or whole["id"]
        function = call.get("function") or {}
        whole["function"]["name"] += function.get("name") or ""
        whole["function"]["arguments"] += function.get("arguments") or ""
