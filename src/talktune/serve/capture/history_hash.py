"""Hashes of message histories, by which a request finds the turn that it continues.

Open it to see which changes of a history its hash forgives.

Every history that ends with an answer has a hash; a request continues the turn whose hash is that of the longest
such prefix of its messages. An edited or regenerated history meets the last turn that it still shares: a fork.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import normalize

from talktune.conversations.marks import bare
from talktune.types import Message


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The histories in a request's messages that end with an answer, longest first."""

    hashes: tuple[bytes, ...]
    ends: tuple[int, ...]
    """How many messages each of them has."""
    state: bytes
    """After all of the messages: `extend` it by an answer."""

    def rest(self, hash: bytes | None, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages behind the history of that hash (all messages for None), system prompts left out."""
        start = 0 if hash is None else self.ends[self.hashes.index(hash)]
        return tuple(m for m in messages[start:] if m.role != "system")


def prefixes(messages: Sequence[Message]) -> Prefixes:
    """The histories in `messages` that end with an answer, with their hashes."""
    found: list[tuple[bytes, int]] = []
    state = _START
    for i, message in enumerate(messages, 1):
        state = extend(state, message)
        if message.role == "assistant":
            found.append((state, i))
    found.reverse()
    return Prefixes(tuple(h for h, _ in found), tuple(n for _, n in found), state)


def history_hash(messages: Sequence[Message]) -> bytes:
    """The hash (32 bytes) of a whole history.

    It covers what a client sends back of a message: role, text without surrounding space, tool calls and their ids.
    Not the reasoning, which clients drop wherever it stands; and not the system prompt, which may name the time of day.
    """
    state = _START
    for message in messages:
        state = extend(state, message)
    return state


_ENCODED = json.JSONEncoder(ensure_ascii=False).encode
_START = hashlib.sha256(b"talktune").digest()


def extend(state: bytes, message: Message) -> bytes:
    """The hash of a history with one more message."""
    if message.role == "system":
        return state
    calls = [[call.get("id"), *_function(call.get("function"))] for call in message.tool_calls]
    content = bare(message.content) if message.role == "assistant" else message.content
    parts = [message.role, normalize("NFC", content).strip(), calls, message.tool_call_id, message.has_image]
    text = _ENCODED(parts)
    return hashlib.sha256(state + text.encode("utf-8", "surrogatepass")).digest()


def _function(function: object) -> tuple[object, object]:
    """Name and arguments; arguments as the value that they are, since clients write JSON anew."""
    if not isinstance(function, dict):
        return None, None
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.dumps(json.loads(arguments), sort_keys=True)
        except (ValueError, RecursionError):
            arguments = arguments.strip()
    return function.get("name"), arguments
