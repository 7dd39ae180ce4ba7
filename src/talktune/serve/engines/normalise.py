"""Normalises what engines send to OpenAI's own form.

Open it when an engine's reply is read wrongly.

Seen in engines and gateways, and read here for what they mean: tool calls in pieces without `index`, with `index: null`
or all with index 0, with the name in every piece, without an id; `finish_reason` on every chunk, or on none though
the stream ends with [DONE]; `"error": null`, errors as text, as a plain line, or in a body of status 200; empty
events; content as a list of parts; the retired `function_call`; arguments as an object; NaN among log-probs.

What goes on has each choice's finish once, behind all that was said of it.
"""

import json
import math
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from talktune.serve.dialects.sse import events
from talktune.serve.engines.engine_error import EngineError, refusal

FINISHES = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "complete": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "safety": "content_filter",
    "refusal": "content_filter",
}
"""OpenAI's words for what other engines call the end of an answer."""
GIVEN_UP = ("abort", "aborted", "error", "cancelled")
NOTHING = ("", "null", "none")
LONGEST_FINISH = 40
SAID = ("content", "refusal", "reasoning_content", "reasoning")
"""Texts of a delta that are an answer, or a part of one."""
TEXT_KEYS = ("text", "content", "output_text", "refusal")


def parse(data: str | bytes) -> Any:
    """The JSON value; a number that JSON does not have (NaN, infinities) is read as null. Raises ValueError."""
    if isinstance(data, bytes):
        data = data.decode(json.detect_encoding(data), "surrogatepass")
    return _JSON.decode(data)


def read_whole(content: bytes) -> dict[str, Any]:
    """The chat completion of a whole reply; raises EngineError, or BadRequest, for anything else."""
    try:
        body = parse(content)
    except (ValueError, RecursionError) as error:
        raise EngineError("The engine's reply is not a chat completion.", 502) from error
    body = _checked(body)
    if not body["choices"]:
        raise EngineError("The engine's reply has no finished choice.", 502)
    for i, entry in enumerate(body["choices"]):
        choice = _Choice()
        message = entry.pop("message", None) or entry.pop("delta", None) or {"content": entry.pop("text", None)}
        said = choice.tidy(message, whole=True)
        entry["index"] = _index(entry.get("index"), i)
        entry["message"] = {"role": "assistant", "content": None} | said
        for call in said.get("tool_calls", ()):
            call.pop("index")
        entry["finish_reason"] = _finish(entry.get("finish_reason")) or choice.finish
    return _headed(body, "chat.completion")


async def read_stream(chunks: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream, each choice's finish once and at its end.

    An answer has ended when the stream says [DONE], or when each of its choices has a finish behind its last piece.
    Raises EngineError (or BadRequest) where the engine fails, or breaks off before that.
    """
    choices: dict[int, _Choice] = {}
    ends: dict[int, dict[str, Any]] = {}
    tail: list[dict[str, Any]] = []
    done = False
    try:
        async for data in events(chunks):
            if data == "[DONE]":
                done = True
                break
            if not data:
                continue
            for body in _split(_chunk(data), choices, ends):
                if ends and not body["choices"]:
                    tail.append(body)  # usage: it comes behind the finish
                else:
                    yield body
    except EngineError as error:
        if not error.broken_off or not choices or not all(choice.sure for choice in choices.values()):
            raise
    left = [index for index in choices if index not in ends]
    if not choices or any(not done or not choices[index].said for index in left):
        raise EngineError("The engine ended before its answer did.", broken_off=True)
    for index in left:
        entry = {"index": index, "delta": {}, "finish_reason": choices[index].finish}
        ends[index] = choices[index].head | {"choices": [entry]}
    for index in sorted(ends):
        yield ends[index]
    for body in tail:
        yield body


@dataclass
class _Call:
    """A tool call as far as it has come."""

    index: int
    id: str
    name: str = ""
    arguments: str = ""

    @property
    def whole(self) -> bool:
        """Whether its arguments are all there."""
        try:
            return isinstance(json.loads(self.arguments), dict)
        except (ValueError, RecursionError):
            return False


@dataclass
class _Choice:
    """What has come of one choice."""

    head: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of its last chunk: all but its choices."""
    calls: list[_Call] = field(default_factory=list[_Call])
    numbered: dict[int, _Call] = field(default_factory=dict[int, _Call])
    """The newest call of each index that the engine gave."""
    begun: bool = False
    said: bool = False
    ended: bool = False
    went_on: bool = False
    """True once something was said behind a finish, which was none then."""

    @property
    def finish(self) -> str:
        """Why it ended, where the engine never says."""
        return "tool_calls" if self.calls else "stop"

    @property
    def sure(self) -> bool:
        """Whether the finish that came was the end."""
        return self.ended and not self.went_on

    def tidy(self, raw: Any, *, whole: bool = False) -> dict[str, Any]:
        """A delta (or with `whole` a message) in OpenAI's form."""
        if not isinstance(raw, Mapping):
            raw = {} if raw is None else {"content": raw}
        delta = dict(cast(Mapping[str, Any], raw))
        thought = ""
        if "content" in delta:
            delta["content"], thought = _text(delta["content"])
        for key in ("reasoning_content", "reasoning", "refusal"):
            if key in delta:
                delta[key] = _text(delta[key])[0]
        if thought:
            delta["reasoning_content"] = (delta.get("reasoning_content") or "") + thought
        calls, old = delta.pop("tool_calls", None), delta.pop("function_call", None)
        listed: list[Any] = [calls] if isinstance(calls, Mapping) else list(calls) if isinstance(calls, list) else []
        if isinstance(old, Mapping) and not listed:
            listed = [{"index": 0, "function": old}]
        pieces: list[dict[str, Any]] = []
        known = len(self.calls)
        for place, one in enumerate(listed):
            if isinstance(one, Mapping):
                earlier = self.calls[place] if len(listed) > 1 and place < known else None
                pieces += self._piece(cast(Mapping[str, Any], one), earlier, known, whole)
        if pieces:
            delta["tool_calls"] = pieces
        substance = bool(pieces or any(delta.get(key) for key in SAID))
        self.said = self.said or substance
        self.went_on = self.went_on or (substance and self.ended)
        return delta

    def _piece(self, raw: Mapping[str, Any], earlier: _Call | None, known: int, whole: bool) -> list[dict[str, Any]]:
        """What is new in one piece of a tool call; [] where nothing is."""
        function: Any = raw.get("function")
        function = function if isinstance(function, Mapping) else raw  # some leave out that level
        index, id, name, arguments = raw.get("index"), raw.get("id"), function.get("name"), function.get("arguments")
        index = index if isinstance(index, int) and not isinstance(index, bool) else None
        id = "" if id is None else str(id)
        name = name if isinstance(name, str) else ""
        if not isinstance(arguments, str):
            arguments = "" if arguments is None else json.dumps(arguments, ensure_ascii=False)
        call = None if whole else self._known(index, id, name, arguments, earlier, known)
        if call is not None:
            fresh = "" if name == call.name else name.removeprefix(call.name)  # all of it so far, or the next piece
            call.name += fresh
            call.arguments += arguments
            said = {"name": fresh} if fresh else {}
            said |= {"arguments": arguments} if arguments else {}
            return [{"index": call.index, "function": said}] if said else []
        call = _Call(len(self.calls), id or f"call_{uuid.uuid4().hex[:24]}", name, arguments or ("{}" if whole else ""))
        self.calls.append(call)
        if index is not None:
            self.numbered[index] = call
        more = {key: raw[key] for key in raw if key not in ("index", "id", "type", "function", "name", "arguments")}
        said = {"name": name, "arguments": call.arguments}
        return [{"index": call.index, "id": call.id, "type": "function", "function": said} | more]

    def _known(
        self, index: int | None, id: str, name: str, arguments: str, earlier: _Call | None, known: int
    ) -> _Call | None:
        """The call that a piece goes on with; None for a new one.

        A new id is a new call, whatever the index; without an id the index tells, then the place among several. A
        name together with arguments begins a new call once the last one has all of its own.
        """
        same = next((call for call in reversed(self.calls) if id and call.id == id), None)
        if same is not None or (id and name):
            return same
        last = self.calls[-1] if self.calls else None
        call = self.numbered.get(index) if index is not None else earlier or last
        if call is None or (index is None and call.index >= known):  # two of one chunk are two calls
            return None
        return None if name and arguments.strip() and call.whole else call


def _chunk(data: str) -> dict[str, Any]:
    try:
        return _checked(parse(data))
    except (ValueError, RecursionError) as error:
        raise EngineError(f"The engine sent something that is no chunk of an answer: {data[:200]}") from error


def _checked(body: Any) -> dict[str, Any]:
    """A body with a list of choices; raises what it says where it is an error."""
    if not isinstance(body, dict):
        raise EngineError(f"The engine sent something that is no answer: {str(body)[:200]}", 502)
    raw = cast(dict[str, Any], body)
    choices: Any = raw.get("choices")
    failed: Any = raw.get("error")
    if not failed and choices is None and (raw.get("object") == "error" or "message" in raw or "detail" in raw):
        failed = raw
    if isinstance(choices, list):
        failed = failed or next((one["error"] for one in choices if isinstance(one, dict) and one.get("error")), None)
    if failed:
        code = cast(Any, failed).get("code") if isinstance(failed, dict) else None
        status = code if type(code) is int and 400 <= code < 600 else 500
        raise refusal(status, json.dumps({"error": failed}).encode())
    raw.pop("error", None)
    if choices is None:
        raw["choices"] = []
    elif not isinstance(choices, list) or not all(isinstance(one, dict) for one in cast(list[Any], choices)):
        raise EngineError("The engine sent choices that are no list of objects.", 502)
    return raw


def _split(body: dict[str, Any], choices: dict[int, _Choice], ends: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """What of a chunk goes on at once; the finish of a choice goes to `ends`, until something follows it."""
    if not body["choices"]:
        return [body]
    head = {key: value for key, value in _headed(body, "chat.completion.chunk").items() if key != "choices"}
    out: list[dict[str, Any]] = []
    for place, entry in enumerate(cast(list[dict[str, Any]], body["choices"])):
        index = _index(entry.get("index"), place)
        choice = choices.setdefault(index, _Choice())
        choice.head = {key: value for key, value in head.items() if key != "prompt_token_ids"}
        raw = next((entry[key] for key in ("delta", "message", "text") if entry.get(key) is not None), None)
        delta = choice.tidy(raw)
        if not choice.begun:
            choice.begun, delta = True, {"role": "assistant"} | delta
        rest = {key: value for key, value in entry.items() if key not in ("delta", "message", "text")}
        rest |= {"index": index, "finish_reason": None}
        if (held := ends.pop(index, None)) is not None:
            mine = held["choices"][0]
            if any(mine.get(key) for key in ("logprobs", "token_ids")):
                out.append(held | {"choices": [mine | {"finish_reason": None}]})
        finish = _finish(entry.get("finish_reason")) or (held and held["choices"][0]["finish_reason"])
        if finish is None:
            out.append(head | {"choices": [rest | {"delta": delta}]})
            continue
        choice.ended = True
        if any(delta.values()):
            out.append(head | {"choices": [rest | {"delta": delta}]} | ({"usage": None} if "usage" in head else {}))
            rest = {key: value for key, value in rest.items() if key not in ("logprobs", "token_ids")}
            delta = {}
        ends[index] = (choice.head if not delta and out else head) | {
            "choices": [rest | {"delta": delta, "finish_reason": finish}]
        }
    return out


def _headed(body: dict[str, Any], object: str) -> dict[str, Any]:
    """The body with what clients expect of each."""
    known = {"id": "", "object": object, "created": int(time.time()), "model": ""}
    return body | {key: body.get(key) or value for key, value in known.items()}


def _index(raw: Any, place: int) -> int:
    return raw if type(raw) is int and raw >= 0 else place


def _finish(raw: Any) -> str | None:
    """OpenAI's word for a finish; None for none. Raises EngineError where the engine has given up."""
    if isinstance(raw, Mapping):  # SGLang's own form
        raw = cast(Mapping[str, Any], raw).get("type")
    if not isinstance(raw, str) or (said := raw.strip().lower()) in NOTHING:
        return None
    if said in GIVEN_UP:
        raise EngineError(f"The engine gave its answer up ({said}).")
    return FINISHES.get(said, said)[:LONGEST_FINISH]


def _text(raw: Any) -> tuple[str | None, str]:
    """Text and reasoning of a content field: text, null, or parts of any kind."""
    if raw is None or isinstance(raw, str):
        return raw, ""
    if not isinstance(raw, Mapping) and not isinstance(raw, list):
        return str(raw), ""
    said, thought = "", ""
    for part in [cast(Any, raw)] if isinstance(raw, Mapping) else cast(list[Any], raw):
        if isinstance(part, str):
            said += part
        elif isinstance(part, Mapping):
            fields = cast(Mapping[str, Any], part)
            if "thinking" in fields or "reasoning" in fields:
                thought += _text(fields.get("thinking", fields.get("reasoning")))[0] or ""
            else:
                inner = next((fields[key] for key in TEXT_KEYS if fields.get(key) is not None), None)
                text, more = _text(inner)
                said, thought = said + (text or ""), thought + more
    return said, thought


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _no_number(_name: str) -> None:
    return None


_JSON = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
"""Made once: `json.loads` would make one for each chunk."""
