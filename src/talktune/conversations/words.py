"""What a person said in a message, without what a client put around it: the time, the state of its host, reminders.

Only shapes that machines write are taken away, and only at the ends of a text where a person might write one too.
What one client adds and takes out of its history again is known by comparison (`talktune.conversations.passing`);
that and this meet in `spoken`.
"""

import re

from talktune.types import Message

EDGE = 50_000
"""Characters at either end of a text that are looked at: a message may be megabytes, and an answer waits for this."""
MOST = 64
"""Marks at one end of a text that are taken away."""
MARK = 4_000
"""Characters of the longest of them, but for a block that is closed by a line of its own."""
_BLOCKS = (
    "system[-_]reminder|system[-_]message|system[-_]notification|environment[-_](?:details|context)|env(?:ironment)?|"
    "user[-_](?:instructions|info|rules)|session[-_](?:context|info)|(?:relevant|retrieved)[-_](?:memories|context)|"
    "memor(?:y|ies)|memory[-_]context|context[-_](?:info|update|block)|host[-_](?:state|context|info|status)|"
    "(?:current|local|system)[-_](?:time|date|datetime|state|file)|time(?:stamp)?|datetime|clock|metadata|runtime|"
    "workspace[-_](?:info|state|context)|(?:attached|open|recent)[-_]files|"
    "open[-_]and[-_]recently[-_]viewed[-_]files|additional[-_]data|editor[-_]context|ide[-_](?:opened[-_]file|"
    "selection|context|state|diagnostics)|local[-_]command[-_](?:stdout|stderr|caveat)|"
    "command[-_](?:name|message|args|contents)|git[-_]status|turn[-_]aborted|tool[-_]reminder"
)
_BLOCK = re.compile(rf"<({_BLOCKS})(?:\s[^<>]{{0,300}})?>", re.I)
_WRAPPED = re.compile(r"<(task|feedback|user[-_](?:query|message|input|request)|query)>", re.I)
_MEANWHILE = re.compile(
    r"\s{0,40}(?:(?:note|important)\W{1,3})?the (?:user|person|human) (?:has |just )?(?:sent|said|typed|wrote"
    r"|added|queued)\b"
    r"[^:\n]{0,100}:\s{0,40}",
    re.I,
)
_ADDRESS = re.compile(
    r"\n\s{0,40}(?:please (?:address|respond|answer|consider|take)|important:|note:|you (?:must|should)"
    r"|after (?:you|completing"
    r"|finishing)|do not (?:ignore|mention))[^\n]{0,600}(?:\n[^\n]{1,600}){0,4}\s{0,40}\Z",
    re.I,
)
_SPACE = re.compile(r"\s*")
_STAMP = r"(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}:\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4})"
_BRACKET = re.compile(rf"[\[(](?=[^\[\]()\n]{{0,120}}{_STAMP})[^\[\]\n]{{1,200}}?[\])]:?[ \t]*")
_EVENT = re.compile(r"System(?: \(untrusted\))?:[ \t]*\[[^\[\]\n]{1,80}\][^\n]*\n\s*")
_NOTE = re.compile(r"\[(?:message_id|reply_to_id|thread_id|session|channel|from|sender)\b[^\[\]\n]{0,200}\][ \t]*")
_TIMES = r"(?:date ?(?:and|&|/)? ?time|date|time ?zone|time ?stamp|time)"
_CLOCK = re.compile(
    rf"(?:(?:(?:the )?(?:current|local|system|user|host|server|utc)[ '_-]?(?:s )?)?"
    rf"(?:{_TIMES}|now|clock|host|os|cwd|platform|uptime|load|(?:working|current) directory|today(?:'s date)?)"
    r"(?: \([^()\n]{0,60}\))?[ \t]*[:=]|(?:the )?(?:(?:current|local) " + _TIMES + r"|today(?:'s date)?) is)[ \t]*"
    r"(?=[^\n]{0,160}[\d/\\])[^\n]{1,200}(?:\n\s*|\Z)",
    re.I,
)
_UNTRUSTED = re.compile(
    r"[^\n]{0,80}\((?:untrusted|system|host|machine)[^()\n]{0,60}\):[ \t]*\n[ \t]*(?:```(?:json)?\n|(?=\{))"
)
_FENCED = re.compile(r"<<<(EXTERNAL|UNTRUSTED)[A-Z_]{0,40}[^<>\n]{0,120}>>>")
_UNTRUSTED_TAIL = re.compile(r"\n[ \t]{0,40}Untrusted context \([^()\n]{0,120}\):[ \t]*\n")
_RULES = re.compile(
    r"(?:\A|\n\n)(?:#{1,3} \*?(?:SEARCH/REPLACE block|File editing rules|File listing)[^\n]{0,60}(?:Rules)?:?"
    r"|To suggest changes to a file you MUST return"
    r"|# File editing rules:"
    r"|\*?\*?(?:Reminder|REMINDER|IMPORTANT REMINDER|System reminder|Note to the (?:assistant|model)):)[^\n]*(?:\n|\Z)"
)
"""Rules of a format that a coding client repeats behind every message (aider's reminders), to the end of the text."""


def spoken(message: Message) -> str:
    """What its author says in a message: a person's words without envelopes; of other roles all but tagged blocks."""
    text = message.content if message.words is None else message.words
    if message.role == "user":
        return words_of(text)
    return _without_blocks(text) if message.role == "tool" else text


def words_of(text: str) -> str:
    """A person's words in a text; the text itself where nothing else is in it, as far as its ends tell.

    Empty when all of it was tagged or marked as not the person's. A clock that stands alone is left: it may be what
    somebody was asked for.
    """
    found = _without_rules(_without_blocks(text))
    found = _unwrapped(found)
    if not found.strip():
        return "" if text.strip() else text
    bare = _without_clocks(found)
    if bare.strip():
        found = bare
    return text if found == text else found.strip()


def _unwrapped(text: str) -> str:
    """What stands in a tag for the person's own words, where that is all."""
    inner = text.strip()
    opened = _WRAPPED.match(inner[:40])
    close = "" if opened is None else f"</{opened[1]}>"
    if opened is None or inner[-len(close) :].lower() != close.lower() or len(inner) < opened.end() + len(close):
        return text
    return inner[opened.end() : -len(close)]


def _without_blocks(text: str) -> str:
    """Tagged blocks taken out wherever they stand near an end; one that never ends is text like any other."""
    if "<" not in text:
        return text
    kept: list[str] = []
    at = start = 0
    unclosed: set[str] = set()
    lower = text.lower()
    left = EDGE
    while at < len(text):
        opened = _BLOCK.search(text, at, at + left)
        if opened is None:
            at = max(at + left, len(text) - EDGE)  # on to the other end, or past it
            left = EDGE
            continue
        left -= opened.end() - at
        name = opened[1].lower()
        close = -1 if name in unclosed else lower.find(f"</{name}>", opened.end())
        at = opened.end()
        if close < 0 or len(lower) != len(text):
            unclosed.add(name)
            continue
        end = close + len(name) + 3
        if _within(text, opened.start(), end):
            at = end
            continue
        said = _said_meanwhile(text[opened.end() : close])
        kept += [text[start : opened.start()], said, "\n" if said and text[end : end + 1] != "\n" else ""]
        start = at = end
    if not kept:
        return text
    rest = text[start:]
    return "".join([*kept, rest]).strip()


def _within(text: str, start: int, end: int) -> bool:
    """Whether a block stands in the midst of a line, where a person writes about it: a client's is at an end of one."""
    before = text[max(0, start - MARK) : start].rpartition("\n")[2].strip()
    behind = text[end : end + MARK].partition("\n")[0].strip()
    inline = "\n" not in text[start:end]
    return inline and bool(before and behind) and not before.endswith(">") and not behind.startswith("<")


def _said_meanwhile(block: str) -> str:
    """What a person said while the model was at work, which a client hands on in a block of its own."""
    found = _MEANWHILE.match(block[:MARK])
    if found is None:
        return ""
    words = block[found.end() :]
    end = _ADDRESS.search(words, max(0, len(words) - MARK))
    return (words if end is None else words[: end.start()]).strip()


def _without_rules(text: str) -> str:
    end = max(0, len(text) - EDGE)
    found = _RULES.search(text, end)
    if found is not None and text[: found.start()].strip():
        text = text[: found.start()]
    found = _UNTRUSTED_TAIL.search(text, end)
    return text if found is None else text[: found.start()]


def _without_clocks(text: str) -> str:
    """Brackets with a date or time, lines that tell them, and untrusted blocks: those that stand at either end."""
    start = 0
    for _ in range(MOST):
        end = _marked_end(text, start)
        if end is None:
            break
        start = end
    text = text[start:]
    rest, tail = text[:-EDGE], text[-EDGE:]
    for _ in range(MOST):
        before, line, last = tail.rstrip().rpartition("\n")
        if not line or not any(p.fullmatch(last.strip()) for p in (_CLOCK, _BRACKET, _NOTE)):
            break
        tail = before
    return rest + tail


def _marked_end(text: str, start: int) -> int | None:
    """Where the marked part that begins at `start` ends; None where none begins."""
    stop = start + MARK
    space = _SPACE.match(text, start, stop)
    start = start if space is None else space.end()
    for pattern in (_EVENT, _BRACKET, _NOTE, _CLOCK):
        found = pattern.match(text, start, stop)
        if found is not None and found.end() > start:
            return found.end()
    found = _UNTRUSTED.match(text, start, stop)
    if found is not None:
        fenced = found[0].rstrip(" ").endswith(("```json\n", "```\n"))
        close = re.compile(r"\n[ \t]*```[ \t]*(?:\n|\Z)" if fenced else r"\n\}[ \t]*(?:\n|\Z)").search(
            text, found.end(), found.end() + EDGE
        )
        if close is not None:
            return close.end()
    found = _FENCED.match(text, start, stop)
    if found is not None:
        close = re.compile(rf"<<<END_{found[1]}[^<>\n]{{0,160}}>>>\s*").search(text, found.end(), found.end() + EDGE)
        if close is not None:
            return close.end()
    return None
