"""The rows that go into the store and come out of it, as frozen dataclasses.

Open it to see what is known of a new turn.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from talktune.types import Message, Sampled, TurnKind

TurnState = Literal["complete", "partial"]
Lost = Literal["unknown", "ambiguous"]
"""Why a request that has answers in its history continues no turn: none is known, or several as well as one."""


def new_id(prefix: str) -> str:
    """A fresh id: `prefix`, the time in milliseconds and 80 random bits, as in a UUID of version 7 (RFC 9562).

    Ids that grow with time are added at the end of the store's indexes; random ones would touch a page anywhere.
    """
    return f"{prefix}-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class NewTurn:
    """One answer as the server saw it, ready to be committed."""

    id: str
    user: str
    conversation: str
    """Of the conversation it belongs to; made with this turn when the store does not know it."""
    parent: str | None
    """The turn whose answer its history ends with; None for the first of a conversation."""
    hash: bytes
    """Of all messages up to and with the answer: what the next request of the conversation will be found by."""
    messages: tuple[Message, ...]
    """What was new since the parent's answer, without the system prompt."""
    answer: Message
    engine: str
    created: float
    """Seconds since 1970."""
    system: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    kind: TurnKind = "main"
    state: TurnState = "complete"
    sampled: Sampled | None = None
    """None where the engine gave no token ids."""
    session: str | None = None
    """The client's own id of the conversation."""
    history: tuple[Message, ...] | None = None
    """What the client sent up to the parent's answer, where that is not what had been said; no system prompt."""
    lost: Lost | None = None
    finish: str | None = None
    """Why the engine ended the answer, in OpenAI's words."""


@dataclass(frozen=True, slots=True)
class Found:
    """A known turn that a request continues."""

    id: str
    conversation: str
    hash: bytes
    kind: TurnKind


@dataclass(frozen=True, slots=True)
class MarkedTurn:
    """A stored turn that a changed history may go on behind."""

    id: str
    conversation: str
    parent: str | None
    kind: TurnKind
    mark: bytes | None
    continued: bool
    created: float
    messages: tuple[Message, ...]
    answer: Message


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """One conversation in a list."""

    id: str
    session: str | None
    created: float
    touched: float
    closed: float | None
    turns: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was deleted, and which policy versions had been trained on it."""

    conversations: int
    turns: int
    versions: tuple[int, ...]
