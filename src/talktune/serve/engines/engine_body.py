"""Makes the body that is sent to the engine: the client's request, in the engine's form, with token ids asked for.

Open it to see which fields of a request reach the engine.

Only fields that are known go to an engine that somebody else runs: engines have others, by which whoever may chat would
set the chat template, load an adapter by its path or name a function to call. talktune's own host knows its fields.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

from talktune.config import ServeConfig
from talktune.conversations.messages import MEDIA_PARTS, message_to_dict
from talktune.serve.dialects.chat_request import OWN_FIELDS, ChatRequest
from talktune.serve.dialects.wire import BadRequest
from talktune.serve.engines.kinds import EngineKind, whole_distribution, with_tokens

FORWARDED = frozenset(
    {
        # OpenAI's.
        *("messages", "model", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "stream"),
        *("stream_options", "temperature", "top_p", "n", "stop", "max_tokens", "max_completion_tokens", "seed"),
        *("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format"),
        *("reasoning_effort", "verbosity", "modalities", "user"),
        *("metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier"),
        # How engines sample.
        *("top_k", "min_p", "typical_p", "repetition_penalty", "repeat_penalty", "length_penalty", "min_tokens"),
        *("stop_token_ids", "bad_words", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens"),
        *("continue_final_message", "add_generation_prompt", "return_token_ids", "return_tokens_as_token_ids"),
        # The form of an answer.
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "regex", "ebnf"),
        *("json_schema", "grammar"),
    }
)
"""Fields that every client may use; `--forward` names more."""
TEMPLATE_SWITCHES = ("enable_thinking", "thinking", "thinking_budget", "reasoning_effort")
"""What of `chat_template_kwargs` goes on: by others, vLLM before 0.11 sets the template itself (CVE-2025-61620)."""


def engine_body(asked: ChatRequest, kind: EngineKind, model: str | None, config: ServeConfig) -> dict[str, Any]:
    """Make the body of the request to the engine.

    To an engine of a known kind the messages go as they are stored, so that what was asked is what is kept:
    `developer` as `system`, text parts as text. A limit that is too high is clamped, a missing temperature becomes
    the configured one, a cut that nobody asked for is ruled out, and an empty list of tools is left out (engines
    refuse it). An unknown engine gets the client's own words, those that come in parts of nothing but text as one text:
    not every engine takes parts.
    """
    body = {key: value for key, value in asked.raw.items() if key not in OWN_FIELDS and value is not None}
    if kind != "host":
        body = _known(body, config.forward)
    if model is not None:
        body["model"] = model
    if not asked.tools:
        for key in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(key, None)
    most = config.max_answer_tokens
    if kind == "other":
        for key in ("max_tokens", "max_completion_tokens"):
            if key in body:
                body[key] = min(asked.limit or most, most)
        return body | {"messages": [_in_one(message) for message in body["messages"]]}
    body.pop("max_completion_tokens", None)
    body["max_tokens"] = min(asked.limit or most, most)
    body["temperature"] = config.temperature if asked.temperature is None else asked.temperature
    for key, value in whole_distribution(kind).items():
        body.setdefault(key, value)
    if not any(message.has_image for message in asked.messages):
        body["messages"] = [message_to_dict(message) for message in asked.messages]
    return with_tokens(body, kind)


def _in_one(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is one text, where it has parts of nothing but text."""
    parts = message.get("content")
    if not isinstance(parts, list) or not parts or any(not _is_text(part) for part in cast(list[Any], parts)):
        return message
    return message | {"content": "\n".join(part["text"] for part in parts)}


def _is_text(part: Any) -> bool:
    """Whether a part says what it says by its text alone."""
    return isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"


def _known(body: dict[str, Any], more: Collection[str]) -> dict[str, Any]:
    """What of a body goes to an engine of somebody else's; BadRequest for a picture that the engine would fetch."""
    found = {key: value for key, value in body.items() if key in FORWARDED or key in more}
    switches = body.get("chat_template_kwargs")
    if isinstance(switches, dict) and "chat_template_kwargs" not in more:
        given = cast(dict[str, Any], switches)
        if kept := {name: given[name] for name in TEMPLATE_SWITCHES if isinstance(given.get(name), bool | int | str)}:
            found["chat_template_kwargs"] = kept
    for media, url in _addresses(body["messages"]):
        if not url[:5].lower().startswith("data:") and media not in more:
            raise BadRequest(
                f"The engine would fetch {url[:100]!r} from where it runs: send the data itself, as a data: URL, or "
                f"start the server with --forward {media}.",
                param="messages",
            )
    return found


def _addresses(messages: list[Any]) -> Iterator[tuple[str, str]]:
    """What in the parts of messages is an address, with the field that it stands in."""
    parts = [part for message in messages if isinstance(message.get("content"), list) for part in message["content"]]
    for part in (
        cast(Mapping[str, Any], part) for part in parts if isinstance(part, Mapping)
    ):  # a text stands there, too
        if str(part.get("type")) not in MEDIA_PARTS and part.keys().isdisjoint(
            MEDIA_PARTS
        ):  # vLLM takes parts without a type
            continue
        for name, value in part.items():
            inner = cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {name: value}
            for key, text in inner.items():
                if isinstance(text, str) and (key.endswith("url") or "://" in text[:32]):
                    yield name, text
