"""GET /v1/events: one look at the store a second, told to all who listen.

Open it when the page does not follow what happens.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from typing import Any

from talktune.serve.dialects.sse import event
from talktune.serve.dialects.wire import BadRequest
from talktune.store.changes import Latest, latest
from talktune.store.policies import EVERYBODY
from talktune.store.store import Store

log = logging.getLogger("talktune.serve")
LOOK_SECONDS = 1.0
QUIET_SECONDS = 15.0
"""After so long without an event a comment is sent: who has left is noticed by it."""
MOST_LISTENERS, MOST_OF_ONE = 256, 16


class Events:
    """Looks at the store while somebody listens."""

    def __init__(self, store: Store, readers: Executor) -> None:
        """`readers` do the looking."""
        self.ending: Callable[[], bool] = lambda: False
        """Whether the server is about to end: streams end with it, so that it need not wait for them."""
        self._store = store
        self._readers = readers
        self._secret = secrets.token_bytes(16)
        self._users: Counter[str] = Counter()
        self._latest: Latest | None = None
        self._looked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def listen(self, user: str, lineage: str) -> AsyncGenerator[bytes]:
        """The events of one listener; BadRequest (429) where too many listen."""
        if self._users[user] >= MOST_OF_ONE or self._users.total() >= MOST_LISTENERS:
            raise BadRequest("Too many pages listen already; close one.", status=429, type="rate_limit_error")
        return self._events(user, lineage)

    async def _events(self, user: str, lineage: str) -> AsyncGenerator[bytes]:
        self._users[user] += 1
        try:
            if self._users[user] > MOST_OF_ONE or self._users.total() > MOST_LISTENERS:
                return  # several came at once, before the first of them was counted
            if self._looking is None or self._looking.done():
                self._looking = asyncio.ensure_future(self._look())
            yield b": listening\n\n"
            told: dict[str, Any] | None = None
            at = time.monotonic()
            while not self.ending():
                seen = self._latest
                now = _shown(seen, user, lineage, self._secret) if seen is not None and user in seen.turns else told
                if now != told:
                    told, at = now, time.monotonic()
                    yield event(now or {})
                elif time.monotonic() - at > QUIET_SECONDS:
                    at = time.monotonic()
                    yield b": nothing new\n\n"
                await self._looked.wait()
        finally:
            self._users[user] -= 1
            self._users += Counter()  # without those who have left

    async def _look(self) -> None:
        """Look once a second, whether it succeeds or not, until nobody listens."""
        loop = asyncio.get_running_loop()
        while self._users:
            users = set(self._users)
            try:
                self._latest = await loop.run_in_executor(self._readers, lambda users=users: latest(self._store, users))
            except Exception:  # the store is locked, say
                log.warning("the store could not be looked at for changes", exc_info=True)
            self._looked.set()
            self._looked = asyncio.Event()
            await asyncio.sleep(LOOK_SECONDS)


def _shown(found: Latest, user: str, lineage: str, secret: bytes) -> dict[str, Any]:
    """What one user may know of it: nothing of other lineages, and that somebody was judged, not when."""
    made = [of for name, of in found.versions.items() if name in (lineage, EVERYBODY)]
    live = next(((number, stopped) for name, number, stopped in found.live if name == lineage), (None, ""))
    return {
        "turn": found.turns.get(user),
        "judged": hashlib.blake2b(repr(found.judged).encode(), key=secret, digest_size=8).hexdigest(),
        "version": max((newest for newest, _, _ in made), default=0),
        "candidates": sum(waiting for _, waiting, _ in made),
        "live": live[0],
        "stopped": bool(live[1]),
        "update": found.update if lineage == EVERYBODY else max((update for _, _, update in made), default=0),
    }
