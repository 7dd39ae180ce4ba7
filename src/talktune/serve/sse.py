"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), as engines send them."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"


async def events(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The data of each event of a stream of bytes, however it was cut; an event without its end is not one."""
    held = b""
    async for chunk in chunks:
        held += chunk.replace(b"\r", b"")
        *whole, held = held.split(b"\n\n")
        for event in whole:
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines).decode("utf-8", "replace")


def event(body: Mapping[str, Any]) -> bytes:
    """One event with a JSON object as its data."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
