"""Renews a claim while its work goes on, however long that takes.

Open it when a long update loses its lease.
"""

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from talktune.store.queues import RENEW_SECONDS

log = logging.getLogger(__name__)


@contextmanager
def renewed(what: str, renew: Callable[[], bool], every: float = RENEW_SECONDS) -> Generator[None]:
    """Call `renew` every so many seconds while the block runs, until it says that somebody else has the claim now.

    A thread does it, since the work has steps of minutes; that the claim was lost, the transaction that ends the work
    finds out.
    """
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(every):
            try:
                if not renew():
                    return
            except Exception:  # the store is locked, say: tried again
                log.warning("the claim of the %s could not be renewed", what, exc_info=True)

    thread = threading.Thread(target=go_on, name=f"claim of the {what}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
