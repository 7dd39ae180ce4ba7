"""Explains an engine's refusal of a prompt that is too long: how long it is, and what can be done.

Open it when such a refusal is not recognised.

Where the prompt fits and only the longest answer would not, vLLM and SGLang refuse as well; the answer then gets the
room that is left.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from talktune.serve.dialects.wire import BadRequest

LIMITS = ("max_tokens", "max_completion_tokens")

CONTEXTS = {
    "Qwen/Qwen2.5-0.5B-Instruct": 32_768,
    "Qwen/Qwen3-0.6B": 40_960,
    "HuggingFaceTB/SmolLM3-3B": 65_536,
    "meta-llama/Llama-3.2-1B-Instruct": 131_072,
}
"""Small models with longer contexts (`max_position_embeddings` of their configurations), shortest first."""
_SAID = re.compile(r"(?i)context[ _](?:length|size|window)|maximum model length|must fit in|prompt is too long")
_LIMITS = (
    r"(?i)(?:context (?:length|size|window)|maximum model length)(?: is| of)?\s*[(:]?\s*(?:of\s*)?(\d+)",
    r"must fit in (\d+)",
    r"max_model_len=(?:\w+=)?(\d+)",
)
_FEWER = re.compile(r"(?i)\bfewer output tokens\b")
"""vLLM's words where the answer alone would be longer than the context."""
_VAGUE = re.compile(r"(?i)\bat least\b|\bcharacters\b")
_LENGTHS = (
    r"(\d+) (?:tokens )?(?:in|from) the (?:input )?messages",
    r"(\d+) input tokens",
    r"prompt \(length (\d+)\)",
    r"\((\d+) tokens\)",
    r"prompt (?:has|contains) (?:at least )?(\d+)\b(?! characters)",
    r"requested (?:a total of )?(\d+) tokens",
)


def explained(error: BadRequest) -> BadRequest:
    """The engine's refusal, with the lengths and what can be done; any other error as it is."""
    if not _is_of_length(error):
        return error
    message = str(error.body["error"]["message"])
    length, limit = _first(_LENGTHS, message), _first(_LIMITS, message)
    if length is not None and limit is not None and length < limit:
        return error  # it is the answer that does not fit
    if length is None or limit is None:
        what = f"The prompt is longer than the model takes ({message.rstrip('.')})"
    else:
        what = f"The prompt has {length} tokens, and the model takes {limit}, with its answer"
    fits = [name for name, context in CONTEXTS.items() if context > (length or 0)]
    longer = f" (--model {', '.join(fits)}, …)" if fits else ""
    return BadRequest(
        f"{what}: send fewer tools, a shorter system prompt or fewer messages, or serve a model with a longer "
        f"context{longer}.",
        status=400,
        code="context_length_exceeded",
        param="messages",
    )


async def with_room(
    body: Mapping[str, Any], error: BadRequest, measured: Callable[[], Awaitable[tuple[int, int | None] | None]]
) -> dict[str, Any]:
    """The request with the longest answer that fits behind its prompt; raises the error where that would not help.

    `measured` asks the engine for the tokens of the prompt and of the model's context: newer vLLM counts no further
    than to see that the answer does not fit, and says "at least".
    """
    asked = max((body[name] for name in LIMITS if name in body), default=0)
    message = str(error.body["error"]["message"])
    if not asked or not (_is_of_length(error) or _FEWER.search(message)):
        raise error
    length, limit = _first(_LENGTHS, message), _first(_LIMITS, message)
    if length is None or _VAGUE.search(message):
        length, context = await measured() or (None, None)
        limit = context or limit
    if length is None or limit is None or limit - length >= asked:
        raise error
    if length >= limit:
        raise BadRequest(f"The prompt has {length} tokens, and with its answer it must fit in {limit}.") from error
    return {**body, **{name: limit - length for name in LIMITS if name in body}}


def _is_of_length(error: BadRequest) -> bool:
    """Whether an engine refused a request for its length."""
    said = error.body["error"]
    named = said.get("code") == "context_length_exceeded" or said.get("type") == "exceed_context_size_error"
    return 400 <= error.status < 500 and (named or _SAID.search(str(said["message"])) is not None)


def _first(patterns: tuple[str, ...], message: str) -> int | None:
    found = next((match for pattern in patterns if (match := re.search(pattern, message))), None)
    return int(found[1]) if found else None
