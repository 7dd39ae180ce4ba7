"""Where a request belongs: in a known conversation behind a known turn, or in a new one."""

from dataclasses import dataclass

from talktune.serve.matching import prefixes
from talktune.serve.request import ChatRequest
from talktune.store.rows import new_id
from talktune.store.store import Store
from talktune.types import Message


@dataclass(frozen=True, slots=True)
class Place:
    """A conversation, the turn that the request continues, and what the request adds to it."""

    conversation: str
    parent: str | None
    messages: tuple[Message, ...]
    """What is new since the parent's answer, without the system prompt."""
    state: bytes
    """Hash state of the whole request: with the answer it becomes the hash that the next request is found by."""


def place(store: Store, user: str, asked: ChatRequest) -> Place:
    """Find the place of a request.

    A session id decides the conversation where one is given, and the history decides the turn within it. Else the
    longest known history decides both, whoever edited or regenerated what came after it.
    """
    known = prefixes(asked.messages)
    conversation = None if asked.session is None else store.conversation_of_session(user, asked.session)
    found = None
    if known.hashes and (conversation is not None or asked.session is None):
        found = store.find(user, known.hashes, asked.system, conversation)
    if found is not None:
        conversation = found.conversation
    return Place(
        conversation or new_id("conv"),
        None if found is None else found.id,
        known.rest(None if found is None else found.hash, asked.messages),
        known.state,
    )
