"""The one inner request that every dialect becomes: checked where talktune depends on it, kept as sent elsewhere.

Open it to see which fields talktune itself reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from talktune.config import ServeConfig
from talktune.conversations.messages import BadConversation, message_from_dict
from talktune.serve.dialects.wire import BadRequest, Fields
from talktune.serve.side.turn_kind import kind_of
from talktune.types import Message, TurnKind

MAX_CHOICES = 64
MAX_SESSION = 200
SUMMARY = 200
"""Characters of a message that may hold a summary."""
INT64 = 2**63
OWN_FIELDS = ("session_id", "turn_type", "session_done")
"""Fields of a body that are talktune's and no engine's."""


@dataclass(frozen=True)
class ChatRequest:
    """What a client asks for."""

    raw: Mapping[str, Any]
    """The body as sent."""
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    model: str | None
    temperature: float | None
    limit: int | None
    """Longest answer asked for, in tokens; None where no positive limit was named."""
    choices: int
    stream: bool
    logprobs: bool
    token_ids: bool
    session: str | None
    kind: TurnKind
    done: bool
    """True when the client says that its conversation ends with this answer."""

    @property
    def old(self) -> bool:
        """Whether a known conversation may go on with it: where not, the store need not be asked."""
        return self.session is not None or self.summed or any(m.role == "assistant" for m in self.messages)

    @property
    def summed(self) -> bool:
        """Whether it may hold a summary of what was said."""
        return self.kind == "main" and any(len(m.content) >= SUMMARY for m in self.messages if m.role != "system")

    @property
    def system(self) -> str:
        """All system prompts, as one text."""
        return "\n\n".join(m.content for m in self.messages if m.role == "system")


def parse_request(raw: object, headers: Mapping[str, str], config: ServeConfig) -> ChatRequest:
    """Read a request's JSON and talktune's headers; raises BadRequest naming the field."""
    if not isinstance(raw, dict):
        raise BadRequest("The body must be a JSON object.")
    body = Fields(cast(dict[str, Any], raw))
    messages = _messages(body, config.max_messages)
    tools = _tools(body)
    limits = [body.number(name, int, None, None) for name in ("max_completion_tokens", "max_tokens")]
    limit = next((n for n in limits if n is not None and n > 0), None)
    body.get("stream_options", dict)
    body.number("seed", int, -INT64, INT64 - 1)
    body.number("top_p", float, 0, 1)
    body.number("top_logprobs", int, 0, 20)
    return ChatRequest(
        raw=body.raw,
        messages=messages,
        tools=tools,
        model=body.get("model", str) or None,
        temperature=body.number("temperature", float, 0, 2),
        limit=limit,
        choices=body.number("n", int, 1, MAX_CHOICES) or 1,
        stream=body.get("stream", bool) or False,
        logprobs=body.get("logprobs", bool) or False,
        token_ids=body.get("return_token_ids", bool) or False,
        session=_session(body, headers),
        kind=_kind(body, headers)
        or kind_of(
            messages, len(tools), config.side_patterns, limit=limit, shaped=bool(body.raw.get("response_format"))
        ),
        done=headers.get("x-session-done", "").lower() in ("1", "true") or bool(body.get("session_done", bool)),
    )


def _messages(body: Fields, most: int) -> tuple[Message, ...]:
    raw = body.raw.get("messages")
    if not isinstance(raw, list) or not raw:
        raise BadRequest("messages must be a list with at least one message.", param="messages")
    items = cast(list[object], raw)
    if len(items) > most:
        raise BadRequest(f"There are {len(items)} messages, and at most {most} are taken.", param="messages")
    try:
        return tuple(message_from_dict(m, f"message {i}", request=True) for i, m in enumerate(items, start=1))
    except BadConversation as error:
        raise BadRequest(f"{error}.", param="messages") from error


def _tools(body: Fields) -> tuple[Mapping[str, Any], ...]:
    raw = body.raw.get("tools")
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(isinstance(tool, dict) for tool in cast(list[Any], raw)):
        raise BadRequest("tools must be a list of objects.", param="tools")
    return tuple(cast(list[Mapping[str, Any]], raw))


def _session(body: Fields, headers: Mapping[str, str]) -> str | None:
    session = headers.get("x-session-id") or body.get("session_id", str)
    if session and (len(session) > MAX_SESSION or not session.isprintable()):
        raise BadRequest(f"A session id has at most {MAX_SESSION} printable characters.", param="session_id")
    return session or None


def _kind(body: Fields, headers: Mapping[str, str]) -> TurnKind | None:
    """What the client says; None where it says nothing."""
    kind = headers.get("x-turn-type") or body.get("turn_type", str)
    if not kind:
        return None
    if kind not in ("main", "side"):
        raise BadRequest(f"The turn type is {kind[:40]!r}, and must be main or side.", param="turn_type")
    return kind
