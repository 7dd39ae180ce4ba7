"""A role's work on the engine: queued when something waits, again after a pause when it failed."""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from threading import Thread
from typing import Any

from talktune.errors import UserError
from talktune.host.engine import Engine
from talktune.store.learning import LostLeaseError

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before work that failed is tried again; doubled each time."""


class Work:
    """Pieces of one kind; at most one generator of them is with the engine."""

    def __init__(
        self,
        name: str,
        ready: Callable[[], bool],
        pieces: Callable[[], Generator[None]],
        trouble: Callable[[], str],
    ) -> None:
        """`pieces` makes the generator, when `ready` says that there is something to do; `trouble` says what is not."""
        self.name = name
        self._ready = ready
        self._pieces = pieces
        self._trouble = trouble
        self._failure = ""
        self._busy = False
        self._not_before = 0.0
        self._pause = FIRST_PAUSE

    def poll(self, engine: Engine) -> None:
        """Hand the work to the engine if there is some."""
        if not self._busy and time.monotonic() >= self._not_before and self._guarded(self._ready):
            self._busy = True
            engine.add_work(self._run())

    def state(self) -> dict[str, str]:
        """For /health."""
        trouble = self._failure or self._trouble()
        return {"state": "waiting" if trouble else "busy" if self._busy else "ok"} | (
            {"reason": trouble} if trouble else {}
        )

    def _run(self) -> Generator[None]:
        try:
            yield from self._pieces()
            self._failure, self._pause = "", FIRST_PAUSE
        except Exception as error:
            self._failed(error)
        finally:
            self._busy = False

    def _guarded(self, ready: Callable[[], bool]) -> bool:
        try:
            return ready()
        except Exception as error:
            self._failed(error)
            return False

    def _failed(self, error: Exception) -> None:
        if isinstance(error, LostLeaseError):
            self._failure = "another process learns from this store"
        elif isinstance(error, UserError):
            self._failure = str(error)
        else:
            log.error("%s failed; it goes on in %.0f seconds", self.name, self._pause, exc_info=error)
            self._failure = f"it failed ({type(error).__name__}: {error})"
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def watch(engine: Engine, works: Sequence[Work]) -> Thread:
    """Look for work again and again, in a thread that ends with the process."""

    def run() -> None:
        while True:
            for work in works:
                work.poll(engine)
            time.sleep(POLL_SECONDS)

    thread = Thread(target=run, name="watch", daemon=True)
    thread.start()
    return thread


def states(works: Sequence[Work]) -> Callable[[], dict[str, Any]]:
    """What all of them do, by name."""
    return lambda: {work.name: work.state() for work in works}
