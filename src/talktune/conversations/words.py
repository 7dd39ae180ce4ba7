"""What a person said in a message, without what a client put around it: the time, the state of its host, reminders.

Only shapes that machines write are taken away, and only at the ends of a text where a person might write one too.
What one client adds and takes out of its history again is known by comparison (`talktune.conversations.passing`);
that and this meet in `spoken`.
"""

import re

from talktune.types import Message

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
_UNWRAPPED = re.compile(r"\s*<(task|feedback|user[-_](?:query|message|input|request)|query)>(.*)</\1>\s*", re.I | re.S)
_STAMP = r"(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}:\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4})"
_BRACKET = re.compile(rf"\s*[\[(](?=[^\[\]()\n]{{0,120}}{_STAMP})[^\[\]\n]{{1,200}}?[\])]:?[ \t]*")
_EVENT = re.compile(r"\s*System(?: \(untrusted\))?:[ \t]*\[[^\[\]\n]{1,80}\][^\n]*\n\s*")
_NOTE = re.compile(r"\s*\[(?:message_id|reply_to_id|thread_id|session|channel|from|sender)\b[^\[\]\n]{0,200}\][ \t]*")
_TIMES = r"(?:date ?(?:and|&|/)? ?time|date|time ?zone|time ?stamp|time)"
_CLOCK = re.compile(
    rf"\s*(?:(?:(?:the )?(?:current|local|system|user|host|server|utc)[ '_-]?(?:s )?)?"
    rf"(?:{_TIMES}|now|clock|host|os|cwd|platform|uptime|load|(?:working|current) directory|today(?:'s date)?)"
    r"(?: \([^()\n]{0,60}\))?[ \t]*[:=]|(?:the )?(?:(?:current|local) " + _TIMES + r"|today(?:'s date)?) is)[ \t]*"
    r"(?=[^\n]{0,160}[\d/\\])[^\n]{1,200}(?:\n\s*|\Z)",
    re.I,
)
_UNTRUSTED = re.compile(
    r"\s*[^\n]{0,80}\((?:untrusted|system|host|machine)[^()\n]{0,60}\):[ \t]*\n[ \t]*(?:```(?:json)?\n|(?=\{))"
)
_FENCED = re.compile(r"\s*<<<(EXTERNAL|UNTRUSTED)[A-Z_]{0,40}[^<>\n]{0,120}>>>")
_UNTRUSTED_TAIL = re.compile(r"\n\s*Untrusted context \([^()\n]{0,120}\):[ \t]*\n")
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
    """A person's words in a text; the text itself where nothing else is in it.

    Empty when all of it was tagged or marked as not the person's. A clock that stands alone is left: it may be what
    somebody was asked for.
    """
    found = _without_rules(_without_blocks(text))
    unwrapped = _UNWRAPPED.fullmatch(found)
    if unwrapped is not None:
        found = unwrapped[2]
    if not found.strip():
        return "" if text.strip() else text
    bare = _without_clocks(found)
    if bare.strip():
        found = bare
    return text if found == text else found.strip()


def _without_blocks(text: str) -> str:
    """Tagged blocks taken out wherever they stand; one that never ends is text like any other."""
    if "<" not in text:
        return text
    kept: list[str] = []
    at = start = 0
    unclosed: set[str] = set()
    lower = text.lower()
    while (opened := _BLOCK.search(text, at)) is not None:
        name = opened[1].lower()
        close = -1 if name in unclosed else lower.find(f"</{name}>", opened.end())
        at = opened.end()
        if close < 0 or len(lower) != len(text):
            unclosed.add(name)
            continue
        kept.append(text[start : opened.start()])
        start = at = close + len(name) + 3
    if not kept:
        return text
    rest = text[start:]
    return "".join([*kept, rest]).strip()


def _without_rules(text: str) -> str:
    found = _RULES.search(text)
    if found is not None and text[: found.start()].strip():
        text = text[: found.start()]
    found = _UNTRUSTED_TAIL.search(text)
    return text if found is None else text[: found.start()]


def _without_clocks(text: str) -> str:
    """Brackets with a date or time, lines that tell them, and untrusted blocks: those that stand at either end."""
    start = 0
    while (end := _marked_end(text, start)) is not None:
        start = end
    text = text[start:]
    while True:
        lines = text.rstrip().rsplit("\n", 1)
        last = lines[-1]
        if len(lines) < 2 or not any(p.fullmatch(last) for p in (_CLOCK, _BRACKET, _NOTE)):
            return text
        text = lines[0]


def _marked_end(text: str, start: int) -> int | None:
    """Where the marked part that begins at `start` ends; None where none begins."""
    for pattern in (_EVENT, _BRACKET, _NOTE, _CLOCK):
        found = pattern.match(text, start)
        if found is not None and found.end() > start:
            return found.end()
    found = _UNTRUSTED.match(text, start)
    if found is not None:
        fenced = found[0].rstrip(" ").endswith(("```json\n", "```\n"))
        close = re.compile(r"\n[ \t]*```[ \t]*(?:\n|\Z)" if fenced else r"\n\}[ \t]*(?:\n|\Z)").search(
            text, found.end()
        )
        if close is not None:
            return close.end()
    found = _FENCED.match(text, start)
    if found is not None:
        close = re.compile(rf"<<<END_{found[1]}[^<>\n]{{0,160}}>>>\s*").search(text, found.end())
        if close is not None:
            return close.end()
    return None
