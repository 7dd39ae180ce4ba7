"""Repeats the step of a role in a thread: at once while there is work, after a pause when a step failed.

Open it to see what happens when judging or learning fails.
"""

import logging
import threading
import time
from collections.abc import Callable

from talktune.errors import UserError
from talktune.policy.turnstile import ClosedError
from talktune.store.learning import LostLeaseError

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before work that failed is tried again; doubled each time."""
LEASE_PAUSE = 2.0
"""Seconds before a lease that another process has is asked for again, which may be dead by then."""
TELL_SECONDS = 30.0
"""How often a role at work says so, though nothing changed."""


class Worker:
    """Repeats the step of one role until it is stopped."""

    def __init__(
        self, name: str, step: Callable[[], bool], trouble: Callable[[], str], tell: Callable[[str, str], None]
    ) -> None:
        """`step` says whether it did something, `trouble` why nothing is done; `tell(name, trouble)` hears of it."""
        self.name = name
        self._step = step
        self._trouble = trouble
        self._tell = tell
        self._told: tuple[float, str] = (0.0, "")
        self._failure = ""
        self._began: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self.run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        self._thread.start()

    def stop(self) -> None:
        """Start no further step."""
        self._stopped.set()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, at most for this long."""
        self._thread.join(seconds)

    def run(self) -> None:
        """Repeat the step in the calling thread until stopped."""
        pause = FIRST_PAUSE
        while not self._stopped.is_set():
            self._began = time.monotonic()
            wait = POLL_SECONDS
            try:
                wait = 0.0 if self._step() else POLL_SECONDS
                self._failure, pause = "", FIRST_PAUSE
            except ClosedError:
                return
            except LostLeaseError as error:
                self._failure, pause = self._sentence(error, pause), FIRST_PAUSE
                wait = LEASE_PAUSE
            except Exception as error:
                self._failure = self._sentence(error, pause)
                wait, pause = pause, min(2 * pause, LONGEST_PAUSE)
            self._began = None
            self._say()
            self._stopped.wait(wait)

    def state(self) -> dict[str, str]:
        """The worker's state as /health shows it."""
        trouble, began = self._failure or self._trouble(), self._began
        busy = began is not None and time.monotonic() - began > POLL_SECONDS
        reason = {"reason": trouble} if trouble else {}
        return {"state": "busy" if busy else "waiting" if trouble else "ok"} | ({} if busy else reason)

    def _say(self) -> None:
        """Tell what the trouble is when it changes, and now and then that somebody is at work."""
        at, said = self._told
        trouble, now = self._failure or self._trouble(), time.monotonic()
        if trouble != said or now - at > TELL_SECONDS:
            try:
                self._tell(self.name, trouble)
                self._told = (now, trouble)
            except Exception:  # the store is locked, say: the next step tries again
                log.exception("%s could not tell how it is", self.name)

    def _sentence(self, error: Exception, pause: float) -> str:
        if isinstance(error, LostLeaseError):
            return "another process learns from this store"
        if isinstance(error, UserError):
            return str(error)
        if not self._stopped.is_set():
            log.error("%s failed; it goes on in %.0f seconds", self.name, pause, exc_info=error)
        return f"it failed ({type(error).__name__}: {error})"
