"""Reads a request's body: at most so many bytes, within so many seconds.

Open it when a body is refused.
"""

import asyncio
from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request

from talktune.serve.dialects.wire import BadRequest
from talktune.serve.limits import Limits

BODY_SECONDS = 30.0
"""The longest that a request's body may take."""
CLOSE = {"Connection": "close"}
"""With an answer to a body that was not read to its end."""


def page_size(query: Mapping[str, str], most: int) -> int:
    """How many rows a list has, by its `limit` (50); BadRequest for anything but a whole number from 1 to `most`."""
    limit = query.get("limit", "50")
    if not limit.isdecimal() or len(limit) > len(str(most)) or not 1 <= int(limit) <= most:
        raise BadRequest(f"limit must be a whole number from 1 to {most}.", param="limit")
    return int(limit)


def expected(request: Request, most: int) -> int:
    """How many bytes a body may turn out to have."""
    length = request.headers.get("content-length", "")
    return min(int(length), most) if length.isdecimal() else most if "transfer-encoding" in request.headers else 0


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """The whole body; raises BadRequest (413 too long, 408 too slow), ClientDisconnect when the client leaves."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise _too_long(most)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise _too_long(most)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        raise BadRequest(f"The body did not come within {seconds:.0f} seconds.", status=408) from error


async def read_counted(request: Request, limits: Limits, user: str, most: int, seconds: float) -> bytes:
    """The whole body of a request that no engine answers; while it comes, it counts among those of its user."""
    place = limits.take(user, expected(request, most))
    try:
        return await read_body(request, most, seconds)
    finally:
        limits.leave(place)


def _too_long(most: int) -> BadRequest:
    return BadRequest(f"The body is longer than {most} bytes.", status=413, code="request_too_large")
