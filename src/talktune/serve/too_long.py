"""The refusal of a prompt that is longer than the model takes: how long it is, and what can be done about it."""

import re

from talktune.serve.wire import BadRequest

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
)
_LENGTHS = (
    r"(\d+) (?:tokens )?(?:in|from) the (?:input )?messages",
    r"(\d+) input tokens",
    r"prompt \(length (\d+)\)",
    r"\((\d+) tokens\)",
    r"prompt (?:has|contains) (?:at least )?(\d+)",
    r"requested (?:a total of )?(\d+) tokens",
)


def explained(error: BadRequest) -> BadRequest:
    """The engine's refusal with the lengths and the ways out; any other error as it is."""
    said = error.body["error"]
    message = str(said["message"])
    named = said.get("code") == "context_length_exceeded" or said.get("type") == "exceed_context_size_error"
    if not 400 <= error.status < 500 or not (named or _SAID.search(message)):
        return error
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


def _first(patterns: tuple[str, ...], message: str) -> int | None:
    found = next((match for pattern in patterns if (match := re.search(pattern, message))), None)
    return int(found[1]) if found else None
