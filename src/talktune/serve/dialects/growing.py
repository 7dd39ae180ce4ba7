"""An inner answer while it grows: what each chunk adds to it, however the engine cuts its chunks.

Open it when the events of a stream come in the wrong order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from talktune.serve.dialects.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Added:
    """What one chunk added to an answer."""

    reasoning: str
    text: str
    calls: tuple[tuple[int, Mapping[str, Any], str], ...]
    """Of each tool call that grew: its number, the call so far (with its name) and the new arguments."""
    logprobs: tuple[Mapping[str, Any], ...] = ()
    refusal: str = ""


@dataclass
class Growing:
    """The first choice of a stream of chunks; a whole reply is a stream of one."""

    recorder: Recorder = field(default_factory=Recorder)
    model: str = ""
    stopped_at: str | None = None
    """The stop sequence that ended it, where the engine tells."""
    usage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prompt_tokens: int = 0
    """As far as the chunks so far tell."""
    _told: list[int] = field(default_factory=lambda: [0, 0, 0])
    _calls: dict[int, int] = field(default_factory=dict[int, int])

    @property
    def finish(self) -> str:
        """OpenAI's word for why it ended; `tool_calls` wherever it called tools, though a named one ends with stop."""
        finish = self.recorder.finish or "stop"
        return "tool_calls" if finish in ("stop", "function_call") and self.recorder.calls else finish

    def add(self, body: Mapping[str, Any]) -> Added:
        """Take in one chunk."""
        self.model = str(body.get("model") or self.model)
        self.usage = body.get("usage") or self.usage
        self.prompt_tokens = (
            count(self.usage, "prompt_tokens") or len(body.get("prompt_token_ids") or ()) or (self.prompt_tokens)
        )
        logprobs: list[Mapping[str, Any]] = []
        for choice in body.get("choices") or ():
            if int(choice.get("index") or 0) == 0:
                self.recorder.add(choice)
                logprobs += (choice.get("logprobs") or {}).get("content") or ()
                stopped_at = choice.get("stop_reason")
                self.stopped_at = stopped_at if isinstance(stopped_at, str) else self.stopped_at
        reasoning, text = self._new(0, self.recorder.reasoning), self._new(1, self.recorder.content)
        refusal = self._new(2, self.recorder.refusal)
        return Added(reasoning, text, tuple(self._new_calls()), tuple(logprobs), refusal)

    def _new(self, which: int, pieces: list[str]) -> str:
        new = "".join(pieces[self._told[which] :])
        self._told[which] = len(pieces)
        return new

    def _new_calls(self) -> list[tuple[int, Mapping[str, Any], str]]:
        found: list[tuple[int, Mapping[str, Any], str]] = []
        for number, call in self.recorder.calls.items():
            known, arguments = self._calls.get(number), call["function"]["arguments"]
            if call["function"]["name"] and (known is None or len(arguments) > known):
                found.append((number, call, arguments[known or 0 :]))
                self._calls[number] = len(arguments)
        return found


def count(usage: Mapping[str, Any], *names: str) -> int:
    """A number of tokens in a usage, found by its path of names; 0 where the engine does not tell."""
    value: Any = usage
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if type(value) is int else 0
