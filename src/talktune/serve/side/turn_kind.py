"""Decides whether a request is a person's (main) or a client's own (side): a title, a summary, a heartbeat.

Open it to see in which order the patterns and the scores decide; the patterns are in `clients.py`.

Decided by the shape of the whole request: what the system prompt makes of the model, and what the messages since the
last finished answer ask. Words alone decide nothing: people, too, ask for titles and write about heartbeats. In doubt
a request is a person's, since a side turn is never learned from.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from talktune.serve.side import clients, likeness
from talktune.serve.side.telling import (
    ENOUGH,
    FORM,
    PERSON,
    SHOWN,
    TRANSCRIPT,
    TRIGGERS,
    is_probe,
    is_transcript,
    points,
)
from talktune.types import Message, TurnKind

START = 1200
"""Characters at the start of a text where a client says what it wants."""
HEAD = 10_000
"""Characters of a text that are looked at from its start: a message may be megabytes, and an answer waits for this."""
TAIL = 800
"""And from its end, where some clients say what they want, behind a transcript."""
ENVELOPE = 200_000
"""Characters of one block that a client puts before what somebody says."""
LATEST = 32
"""Messages since the last answer that are looked at, from the newest back."""
SHORT = 200
"""A person asks for a summary of the talk in a sentence or two; clients write a page."""

FEW_TOKENS = 64
"""An answer of so many tokens is a label rather than an answer."""
PROBE_TOKENS = 16


def kind_of(
    messages: Sequence[Message],
    tools: int = 0,
    patterns: Sequence[str] = (),
    *,
    limit: int | None = None,
    shaped: bool = False,
) -> TurnKind:
    """Whether a request is a person's (main) or the client's own (side).

    `tools` counts those on offer; `limit` is the longest answer, in tokens; `shaped` says that the answer has a given
    form; `patterns` are a user's own, looked for in the system prompt and in what was said since the last finished
    answer, in the parts of them that are looked at.
    """
    system, words = seen(messages)
    if patterns and any(re.search(pattern, text) for pattern in patterns for text in (*system, *words)):
        return "side"
    answered = any(m.role == "assistant" for m in messages)
    alone = len(words) == 1 and not tools and not answered
    short = limit is not None and limit <= FEW_TOKENS
    if tools <= 1 and any(_is_task(text) for text in system):
        return "side"
    told = max((_told(text, alone, short, shaped) for text in system), default=0) if tools <= 1 else 0
    if told >= ENOUGH or (told >= ENOUGH - SHOWN and words and is_transcript(words[-1])):
        return "side"
    if tools <= 1 and likeness.points(system, lasting(words), shape(messages, words, tools, limit)) >= likeness.ENOUGH:
        return "side"
    last = messages[-1]
    if len(messages) > len(system) and last.role == "system" and clients.BEHIND.match(last.content[:START]):
        return "side"
    if shaped and alone and _is_task(words[0]):
        return "side"
    if words in ([word] for word in clients.QUICK) and not answered:
        return "side"
    if alone and not system and limit is not None and limit <= PROBE_TOKENS and is_probe(words[0]):
        return "side"
    theirs = [_is_clients(text, alone=alone, short=short, shaped=shaped) for text in words]
    if not any(theirs):
        return "main"
    later = words[len(theirs) - theirs[::-1].index(True) :]
    return "side" if all(clients.PASSING.match(text) for text in later) else "main"


def seen(messages: Sequence[Message]) -> tuple[list[str], list[str]]:
    """The texts that are looked at: the system prompts, and what users said since the last answer."""
    system = [_looked_at(m.content) for m in messages if m.role == "system"][:LATEST]
    return system, [text for text in map(_bare, since_last_answer(messages)[-LATEST:]) if text]


def shape(messages: Sequence[Message], words: Sequence[str], tools: int, limit: int | None) -> list[str]:
    """The features of a request besides its words."""
    told = {
        "answered": any(m.role == "assistant" for m in messages),
        "short": limit is not None and limit <= FEW_TOKENS,
    }
    return [f"said {min(len(words), 2)}", f"tools {min(tools, 2)}", *(name for name, there in told.items() if there)]


def lasting(words: Sequence[str]) -> list[str]:
    """What was said, without messages that a client adds in passing."""
    return [text for text in words if not clients.PASSING.match(text)]


@lru_cache(maxsize=256)
def _told(system: str, alone: bool, short: bool, shaped: bool) -> int:
    """Points of a system prompt, which a client sends each time."""
    return points(system, system=True, alone=alone, short=short, shaped=shaped) if _has(system, TRIGGERS) else 0


def _has(text: str, words: Sequence[str]) -> bool:
    lower = text.lower()
    # Each request waits for this, and any() takes longer.
    for word in words:
        if word in lower:
            return True
    return clients.CAPITALS.search(text) is not None


def since_last_answer(messages: Sequence[Message]) -> list[str]:
    """What users said since the last answer that ended a turn: calls of tools and their results go on with one."""
    found: list[str] = []
    for message in reversed(messages):
        if message.role == "assistant" and not message.tool_calls and message.content.strip():
            break
        if message.role == "user":
            found.append(message.content)
    return found[::-1]


def _looked_at(text: str) -> str:
    """The beginning of a text, and its end where it is a long one."""
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


def _bare(text: str) -> str:
    """What was said, as far as it is looked at, without the envelope of time and host."""
    at = 0
    for _ in range(LATEST):
        found = clients.ENVELOPE.match(text, at, at + ENVELOPE)
        if found is None:
            break
        at = found.end()
    return _looked_at(text[at:].strip())


@lru_cache(maxsize=256)
def _is_task(system: str) -> bool:
    """Whether a system prompt makes the model a helper of the client, rather than of a person."""
    if not _has(system, clients.WORDS):
        return False
    text = clients.IDENTITY.sub("", system.lstrip())
    if clients.TITLER.match(text) and not any(p.search(text) for p in (clients.TERSE, clients.ONLY, clients.BRIEF)):
        return False
    return any(pattern.match(text) for pattern in clients.SYSTEM) or _names_talk(text[:START], clients.SHOWN)


def _is_clients(text: str, *, alone: bool, short: bool, shaped: bool) -> bool:
    """Whether a user message is one that a client wrote."""
    if _has(text, clients.WORDS) and _is_known(text):
        return True
    found = points(text, system=False, alone=alone, short=short, shaped=shaped) if _has(text, TRIGGERS) else 0
    return found >= ENOUGH


def _is_known(text: str) -> bool:
    """Whether it has the shape of one that clients are known to write."""
    head, end = text[:START], text[-TAIL:]
    if any(pattern.search(text) for pattern in clients.CLIENT):
        return True
    if text.endswith("?") and len(text) <= SHORT and not is_transcript(text):
        return False
    if clients.HEARTBEAT.search(text) and not clients.ABOUT.search(text):
        return True
    if _names_talk(head) or (not clients.OWN.match(head) and _names_talk(end.rsplit("\n\n", 1)[-1])):
        return True
    for part in (head, end):
        if clients.TITLE.search(part) and (clients.TERSE.search(part) or re.search(r"(?i)\btitle:\s*\Z", end)):
            return is_transcript(text) or not clients.ABOUT.match(head) or clients.TITLE.match(head) is not None
    markers = {found.lower() for found in clients.COMPACTION.findall(text)}
    return len(text) > SHORT and len(markers) > 1 and bool(clients.ORDER.match(head) and clients.SUMMARY.search(text))


def _names_talk(text: str, *more: re.Pattern[str]) -> bool:
    """Whether a text wants a label for the talk that it stands in or before, and nothing else: nobody says "I" in it.

    Each of these is a matter of words; that all of them come together, in whatever order, is a client's.
    """
    ask = text[: min([m.start() for p in (TRANSCRIPT, PERSON) if (m := p.search(text)) is not None], default=len(text))]
    if sum(form.search(ask) is not None for form in FORM) > 1:
        ask = clients.ASKS.sub("", ask)
    if clients.OWN.search(ask) or not (clients.TERSE.search(ask) or clients.ONLY.search(ask)):
        return False
    sentences = [
        one for one in clients.SENTENCE.split(ask) if clients.LABEL.search(one) and not clients.PROGRAM.search(one)
    ]
    return any(of.search(one) for one in sentences for of in (clients.THIS, *more))
