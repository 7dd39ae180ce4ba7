"""Answers and questions as short marks that survive what clients do to a history.

A client sends back what was said with other white space, another Unicode form, other markup, without the reasoning,
with arguments written anew. The skeleton of a text is what is left of all of these: its letters and digits.
"""

import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, cast

from talktune.conversations.words import spoken
from talktune.types import Message, TurnKind

LONGEST = 1_000_000
"""Characters of the longest text in which reasoning is looked for: no answer is as long, whatever a client sends."""
MOST = 100_000
"""Characters of a text that its skeleton is made of: half of them from either end."""
_NAMES = r"(?:think|thinking|thoughts?|reasoning|reason|reflection|seed:think)"
_OPEN = re.compile(rf"<{_NAMES}(?:\s[^<>]{{0,200}})?>|\[THINK\]|<details\s+type=\"reasoning\"[^<>]{{0,200}}>", re.I)
_CLOSE = re.compile(rf"</{_NAMES}\s{{0,9}}>|\[/THINK\]|</details>", re.I)
_LINK = re.compile(r"!?\[([^\[\]]{0,500})\]\([^()\s]{0,2000}(?:\s\"[^\"()]{0,200}\")?\)")
_URL = re.compile(r"https?://[^\s<>()\[\]]{1,2000}")
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,200}>")
_FENCE = re.compile(r"^[ \t]{0,9}(?:```+|~~~+)[\w+.#-]{0,30}[ \t]{0,9}$", re.M)
_NUMBER = re.compile(r"^[ \t]{0,20}\d{1,3}[.)][ \t]", re.M)
_OTHER = re.compile(r"[\W_]+")
_SPACE = re.compile(r"\s+")
_MARKUP = (("```", _FENCE, ""), ("~~~", _FENCE, ""), ("](", _LINK, r"\1"), ("http", _URL, ""), ("<", _TAG, ""))
"""What goes out of a text, with the sign that it cannot do without."""
_DRAFT = re.compile(r"</(?:analysis|scratchpad|draft)>", re.I)
LEAST_LINE = 40
"""Letters and digits of a line that tells one text from others."""


def bare(text: str) -> str:
    """The text without its blocks of reasoning, whether they were opened or closed or both."""
    if len(text) > LONGEST or ("<" not in text and "[" not in text):
        return text
    kept: list[str] = []
    at = 0
    first, opened = _CLOSE.search(text), _OPEN.search(text)
    if first is not None and first[0] != "</details>" and (opened is None or first.start() < opened.start()):
        at = first.end()  # the template had opened it
    while (opened := _OPEN.search(text, at)) is not None:
        kept.append(text[at : opened.start()])
        closed = _CLOSE.search(text, opened.end())
        at = len(text) if closed is None else closed.end()
    return "".join([*kept, text[at:]]) if at else text


def skeleton(text: str) -> str:
    """Letters and digits of a text without reasoning and markup; of a text that has none of them, all but space."""
    if len(text) > MOST:
        text = text[: MOST // 2] + text[-MOST // 2 :]
    text = unicodedata.normalize("NFKC", html.unescape(bare(text)))
    plain = text
    for sign, pattern, kept in _MARKUP:  # most texts have none of the signs, and a look for one is quick
        if sign in plain:
            plain = pattern.sub(kept, plain)
    letters = _OTHER.sub("", _NUMBER.sub("", plain)).casefold()
    return letters or _SPACE.sub("", text)


def calls_of(message: Message) -> list[tuple[str, str]]:
    """Name and arguments of each tool call, the arguments in one form however they were written; no ids."""
    found: list[tuple[str, str]] = []
    for call in message.tool_calls:
        function = call.get("function")
        fields = cast(Mapping[str, Any], function) if isinstance(function, Mapping) else {}
        found.append((str(fields.get("name")), _canonical(fields.get("arguments"))))
    return found


def answer_text(message: Message) -> str:
    """All that identifies an answer: the skeleton of its text, and its calls; empty where it says nothing."""
    calls = "".join(f"\0{name}\0{arguments}" for name, arguments in calls_of(message))
    return skeleton(message.content) + calls


def answer_mark(message: Message, kind: TurnKind = "main") -> bytes | None:
    """Eight bytes by which an answer is looked up; None for one that says nothing.

    Side turns have marks of their own: a thousand heartbeats that were answered alike are in no main turn's way. That
    of a long one is its longest line's: a summary comes back with other words around it.
    """
    if kind == "side":
        line = max(lines_of(message), key=len, default="")
        if len(line) >= LEAST_LINE:
            return line_mark(line)
    text = answer_text(message)
    return _hash(kind, text) if text else None


def line_mark(line: str) -> bytes:
    """The mark of a side turn whose longest line has this skeleton."""
    return _hash("side", line)


def lines_of(message: Message) -> list[str]:
    """The skeletons of the lines in what a message says and hands to tools, without reasoning and drafts."""
    texts = [message.content]
    for call in message.tool_calls:
        arguments = _value(cast(Any, call.get("function") or {}).get("arguments"))
        fields = cast(Mapping[str, Any], arguments) if isinstance(arguments, Mapping) else {}
        texts += [value for value in fields.values() if isinstance(value, str)]
    found: list[str] = []
    for text in texts:
        whole = text if len(text) <= MOST else text[: MOST // 2] + text[-MOST // 2 :]
        kept = bare(whole)
        if (drafted := _DRAFT.split(kept)[-1]).strip():
            kept = drafted
        found += [line for one in _TAG.sub("", kept).splitlines() if (line := skeleton(one))]
    return found


def asked_mark(messages: Sequence[Message]) -> bytes | None:
    """A hash of eight bytes of the first message of a person or a tool behind the last answer; None without one."""
    for message in said(messages):
        text = skeleton(spoken(message))
        if text:
            return _hash(message.role, text)
    return None


def said(messages: Sequence[Message]) -> list[Message]:
    """Messages of the person and of tools behind the last answer among `messages`."""
    start = max((i for i, m in enumerate(messages, 1) if m.role == "assistant"), default=0)
    return [m for m in messages[start:] if m.role in ("user", "tool")]


def _hash(kind: str, text: str) -> bytes:
    return hashlib.blake2b(f"{kind}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _value(arguments: object) -> object:
    """The value that arguments are, or stand for as JSON; they themselves where they are none."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments


def _canonical(arguments: object) -> str:
    value = _value(arguments)
    if isinstance(arguments, str) and value is arguments:
        return skeleton(arguments)
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, default=str)


def _plain(value: object) -> object:
    """A JSON value without what is no difference: null fields, 1.0 for 1, Unicode forms, space around."""
    if isinstance(value, Mapping):
        fields = cast(Mapping[str, object], value)
        return {str(key): _plain(field) for key, field in fields.items() if field is not None}
    if isinstance(value, list):
        return [_plain(item) for item in cast(list[object], value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value).strip()
    return value
