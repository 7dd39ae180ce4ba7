"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), read and written.

Open it when a stream cannot be read.
"""

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"


async def events(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The data of each event of a stream of bytes, however it was cut.

    A stream that is no stream but one JSON object (an engine that does not stream, or fails) is one event. Engines
    that leave out blank lines, between events or behind the last, are understood.
    """
    held, begun = b"", False
    async for chunk in chunks:
        held += chunk.replace(b"\r", b"")
        begun = begun or held.lstrip()[:1] not in (b"", b"{")
        if not begun:
            continue
        *whole, held = held.split(b"\n\n")
        for event in whole:
            for data in _data(event):
                yield data
    if not begun and held.strip():
        yield held.decode("utf-8", "replace")
    for data in _data(held) if begun else ():
        yield data


def _data(event: bytes) -> list[str]:
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    if len(lines) > 1 and all(line == b"[DONE]" or (line[:1] == b"{" and line[-1:] == b"}") for line in lines):
        return [line.decode("utf-8", "replace") for line in lines]
    return [b"\n".join(lines).decode("utf-8", "replace")] if lines else []


def event(body: Mapping[str, Any]) -> bytes:
    """One event with a JSON object as its data."""
    return b"data: " + json.dumps(body, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"
