"""How much of the server one key may take: requests at once, bytes at once, requests a minute.

Open it when a client is told to come again (429).

A request counts as running from when its body is there: bodies that come slowly keep nobody from an answer.
Requests that only read have the same limits once more, for themselves: a page that looks often costs nobody an answer.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from talktune.config import ServeConfig
from talktune.serve.dialects.wire import BadRequest

READING = 4
"""Requests whose bodies are read at once, as a multiple of those that are answered at once."""


@dataclass
class Place:
    """One request's place in the limits: first among those that are read, then among those that are answered."""

    user: str
    size: int
    """Bytes of its body, at most as long as it is read."""
    runs: bool = False


class Limits:
    """Counts what is being read and answered, in all and for each user."""

    def __init__(self, config: ServeConfig, *, keyed: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """Where nobody needs a key (`keyed` is False) there is one user, who may take it all; `clock` gives seconds."""
        self.running = 0
        """Requests that are answered now."""
        self._config = config
        self._keyed = keyed
        self._clock = clock
        self._reading = 0
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._reads: Counter[str] = Counter()
        self._spent: dict[tuple[str, bool], tuple[float, float]] = {}
        """Requests of each user, by whether they only read, that the last minute does not cover yet, and when."""

    def take(self, user: str, size: int) -> Place:
        """Take a place for a request whose body has up to `size` bytes; BadRequest (429) where there is none."""
        most, bytes_ = self._config.key_running, self._config.key_body_mib << 20
        if self._reading >= READING * self._config.max_running:
            raise _busy(f"{self._reading} requests are being read; try again.")
        if self._keyed:
            if self._requests[user] >= most:
                raise _busy(f"{most} requests with this key are under way; wait for one of them.")
            if self._requests[user] and self._bytes[user] + size > bytes_:
                raise _busy(f"Requests with this key hold {self._bytes[user]} bytes; wait for one of them.")
            self._spend(user, reads=False)
        self._reading += 1
        self._requests[user] += 1
        self._bytes[user] += size
        return Place(user, size)

    def run(self, place: Place, size: int) -> None:
        """Count a request as running, once its body of `size` bytes is there; BadRequest (429) where too many run."""
        self._bytes[place.user] += size - place.size
        place.size = size
        if self.running >= self._config.max_running:
            raise _busy(f"{self.running} requests are being answered; try again.")
        self._reading -= 1
        self.running += 1
        place.runs = True

    def leave(self, place: Place) -> None:
        """Give the place of an ended request back."""
        self.running -= place.runs
        self._reading -= not place.runs
        self._requests[place.user] -= 1
        self._bytes[place.user] -= place.size

    @contextmanager
    def reads(self, user: str) -> Generator[None]:
        """Count a request that only reads, while it is answered; BadRequest (429) where this key has too many."""
        most = self._config.key_running
        if self._keyed:
            if self._reads[user] >= most:
                raise _busy(f"{most} requests with this key are being read for; wait for one of them.")
            self._spend(user, reads=True)
        self._reads[user] += 1
        try:
            yield
        finally:
            self._reads[user] -= 1

    def _spend(self, user: str, *, reads: bool) -> None:
        rate, now = self._config.key_rate, self._clock()
        spent, at = self._spent.get((user, reads), (0.0, now))
        spent = max(spent - (now - at) * rate / 60, 0.0)
        if spent + 1 > rate:
            wait = int((spent + 1 - rate) * 60 / rate) + 1
            raise _busy(f"There were {rate} requests with this key in a minute; try again.", wait)
        self._spent[user, reads] = (spent + 1, now)


def _busy(message: str, seconds: int | None = None) -> BadRequest:
    retry_after = None if seconds is None else str(seconds)
    return BadRequest(message, status=429, type="rate_limit_error", retry_after=retry_after)
