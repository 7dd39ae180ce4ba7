"""Parses sampled token ids into what a client reads: text, reasoning, tool calls, stop strings.

Open it when a model's tool calls or thoughts arrive as plain text.

Tool calls are read off the text in the two forms that open models write: Hermes and Qwen
(`<tool_call>{"name": …, "arguments": {…}}</tool_call>`), and Llama 3.1 (the whole answer is
`{"name": …, "parameters": {…}}`). Reasoning stands between `<think>` and `</think>`.
"""

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

Kind = Literal["content", "reasoning", "call"]
THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"


class Delta(NamedTuple):
    """A piece of an answer."""

    kind: Kind
    text: str
    """The text; for a call, its arguments."""
    name: str = ""
    id: str = ""


class TextStream:
    """Turns ids into text, one at a time; the bytes of an unfinished character wait for the rest of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer: Any = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._said = 0

    def feed(self, token: int) -> str:
        """The text that `token` completes, possibly none."""
        self._ids.append(token)
        text = self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
        self._said += len(text)
        return text

    def close(self) -> str:
        """The text of the bytes that never became a whole character."""
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(whole)[self._said :]


@dataclass
class AnswerParser:
    """Cuts the text of one answer into deltas; text that might begin a marker or a stop string is held back."""

    tools: Collection[str] = ()
    """Names of the tools on offer; without any, calls are plain text."""
    stops: Sequence[str] = ()
    thinking: bool = False
    """True when the prompt has already opened the reasoning."""
    forced: str | None = None
    """The tool that the prompt has already begun to call, up to the `{` of its arguments: the answer goes on."""
    calling: bool = False
    """True when the prompt has already opened a call of any tool."""
    stopped: str | None = None
    """The stop string that ended the answer."""
    complete: bool = False
    """True when a call that the prompt began has all its arguments, so that nothing more is needed."""
    calls: int = 0
    _held: str = ""
    _space: str = ""
    _mode: Literal["start", "reasoning", "content", "call", "bare"] = "start"
    _marked: bool = False
    """True once reasoning or a call was seen: white space beside it belongs to the template."""
    _spoken: bool = False
    """True once something was said since the last marker."""

    def __post_init__(self) -> None:
        if self.forced is not None:
            self._mode, self._held = "call", "{"
        elif self.calling:
            self._mode = "call"
        elif self.thinking:
            self._mode, self._marked = "reasoning", True

    def feed(self, text: str) -> list[Delta]:
        """The deltas that `text` completes. After a stop string (`stopped`) there are no more."""
        if self.stopped is not None or self.complete:
            return []
        self._held += text
        found = [(self._held.find(stop), stop) for stop in self.stops if stop in self._held]
        if found:
            at, self.stopped = min(found)
            self._held = self._held[:at]
        return self._cut()

    def close(self) -> list[Delta]:
        """The deltas of the text that was held back."""
        out = self._cut(last=True)
        if self._mode in ("call", "bare"):
            out += self._calls(self._held, closed=False)
        elif self._held:
            out += self._say(self._held)
        self._held = ""
        if self._space and not self._marked:
            out.append(Delta("content", self._space))
        self._space = ""
        return out

    def _cut(self, last: bool = False) -> list[Delta]:
        out: list[Delta] = []
        while True:
            before = (self._mode, self._held)
            out += self._cut_one(last)
            if (self._mode, self._held) == before:
                return out

    def _cut_one(self, last: bool) -> list[Delta]:
        """Take one step: leave the start, or cut up to the next marker."""
        if self._mode == "start":
            return self._start(last)
        if self._mode == "reasoning":
            return self._until(END_THINK, "content", last)
        if self._mode == "content":
            return self._until(CALL, "call", last) if self.tools else self._until("", "content", last)
        if self._mode == "call":
            return self._call()
        return []

    def _start(self, last: bool) -> list[Delta]:
        text = self._held.lstrip()
        if text.startswith(THINK):
            self._mode, self._held, self._marked, self._space = "reasoning", text[len(THINK) :], True, ""
        elif self.tools and text.startswith("{"):
            self._mode = "bare"
        elif last or not THINK.startswith(text):
            self._mode = "content"
        return []

    def _until(self, marker: str, following: Literal["content", "call"], last: bool) -> list[Delta]:
        """Say what stands before `marker`, and go over to what follows it; hold back what may begin it."""
        at = self._held.find(marker) if marker else -1
        if at >= 0:
            text, self._held = self._held[:at], self._held[at + len(marker) :]
            out = self._say(text)
            self._mode = following
            if following == "content":  # what is marked as a call may yet turn out to be none
                self._mark()
            return out
        keep = 0 if last else max((_overlap(self._held, one) for one in (marker, *self.stops)), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return self._say(text)

    def _say(self, text: str) -> list[Delta]:
        """White space waits for what follows it: at the borders of reasoning and calls it is dropped."""
        kind: Kind = "reasoning" if self._mode == "reasoning" else "content"
        whole = self._space + text
        body = whole.rstrip()
        self._space = whole[len(body) :]
        if not body:
            return []
        if self._marked and not self._spoken:
            body = body.lstrip()
        self._spoken = True
        return [Delta(kind, body)]

    def _call(self) -> list[Delta]:
        if self.forced is not None or self.calling:
            end = _json_end(self._held)
            if end is None:
                return []
            self.complete = True
            text, self._held, self._mode = self._held[:end], "", "content"
            return self._calls(text, closed=True) if self.forced is None else [self._made(self.forced, text)]
        at = self._held.find(END_CALL)
        if at < 0:
            return []
        text, self._held = self._held[:at], self._held[at + len(END_CALL) :]
        self._mode = "content"
        return self._calls(text, closed=True)

    def _calls(self, text: str, closed: bool) -> list[Delta]:
        """The calls that a marked text describes; text that describes none is content, as it was written."""
        if self.forced is not None:
            return [self._made(self.forced, text.replace(END_CALL, "").strip())]
        made = parse_calls(text)
        if self._mode == "bare" and any(name not in self.tools for name, _ in made):
            made = []
        if made:
            return [self._made(name, arguments) for name, arguments in made]
        bare, self._mode = self._mode == "bare", "content"
        return self._say(text if bare else CALL + text + (END_CALL if closed else ""))

    def _mark(self) -> None:
        """A border was passed: white space on either side of it belongs to the template."""
        self._marked, self._spoken, self._space = True, False, ""

    def _made(self, name: str, arguments: str) -> Delta:
        self.calls += 1
        self._mark()
        return Delta("call", arguments, name, f"call_{uuid.uuid4().hex[:24]}")


def parse_calls(text: str) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of every call that `text` describes; empty when it is anything else.

    One JSON object, a list of them, or several joined by `;`, each with a name and `arguments` or `parameters`.
    """
    try:
        found: Any = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        try:
            found = [json.loads(part, strict=False) for part in text.split(";")]
        except (ValueError, RecursionError):
            return []
    calls: list[tuple[str, str]] = []
    for call in cast(list[Any], found if isinstance(found, list) else [found]):
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return []
        arguments = call.get("arguments", call.get("parameters", {}))
        calls.append((call["name"], arguments if isinstance(arguments, str) else _dump(arguments)))
    return calls


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json_end(text: str) -> int | None:
    """Where the JSON value ends that `text` begins with; None while it is not complete."""
    start = len(text) - len(text.lstrip())
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker`."""
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:n])), 0)
