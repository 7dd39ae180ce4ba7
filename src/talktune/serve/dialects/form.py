"""The form in which a client is answered; each dialect has its own.

Open it to see what a new dialect has to implement: `Form`.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from talktune.serve.dialects.chat_request import ChatRequest
from talktune.serve.dialects.sse import DONE, event
from talktune.serve.dialects.wire import LOWEST
from talktune.store.rows import new_id


class Form(Protocol):
    """One answer on its way to a client."""

    id: str
    """Of the answer, and of its turn in the store."""

    def whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """What a whole inner reply becomes."""
        ...

    def chunk(self, body: dict[str, Any]) -> bytes:
        """What one inner chunk becomes; empty where it says nothing yet."""
        ...

    def end(self) -> bytes:
        """What closes a stream whose answer is whole."""
        ...

    def broken(self, status: int, body: Mapping[str, Any]) -> bytes:
        """What closes a stream whose answer broke off; `body` is the inner error."""
        ...

    def refused(self, status: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an inner error becomes where no stream has begun."""
        ...


class ChatForm:
    """OpenAI's chat completions: the inner form itself, without what the client did not ask for."""

    def __init__(self, asked: ChatRequest) -> None:
        self.id = new_id("chatcmpl")
        self._asked = asked

    def whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply."""
        return without_tokens(body | {"id": self.id}, logprobs=self._asked.logprobs, token_ids=self._asked.token_ids)

    def chunk(self, body: dict[str, Any]) -> bytes:
        """The chunk, as an event."""
        return event(self.whole(body))

    def end(self) -> bytes:
        """The mark that OpenAI's streams end with."""
        return DONE

    def broken(self, status: int, body: Mapping[str, Any]) -> bytes:
        """The error as an event, without [DONE]: half an answer is not a whole one."""
        return event(body)

    def refused(self, status: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The error as it is."""
        return body


def typed_events(bodies: list[dict[str, Any]]) -> bytes:
    """Server-sent events that are named after their bodies' types."""
    lines = (f"event: {body['type']}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n" for body in bodies)
    return "".join(lines).encode()


def without_tokens(body: dict[str, Any], *, logprobs: bool, token_ids: bool) -> dict[str, Any]:
    """A reply or chunk as the client gets it: nothing that it did not ask for."""
    if not token_ids:
        body.pop("prompt_token_ids", None)
    for choice in body.get("choices") or ():
        if not token_ids:
            for name in ("token_ids", "prompt_token_ids", "meta_info"):
                choice.pop(name, None)
        if not logprobs:
            choice.pop("logprobs", None)
        elif isinstance(told := choice.get("logprobs"), dict):
            _numbers_only(told)
    return body


def _numbers_only(told: dict[str, Any]) -> None:
    """Log-probs that are no numbers in JSON, as engines write those of tokens that could not come."""
    for entry in told.get("content") or ():
        for one in (entry, *(entry.get("top_logprobs") or ())):
            if "logprob" in one and one["logprob"] is None:
                one["logprob"] = LOWEST
