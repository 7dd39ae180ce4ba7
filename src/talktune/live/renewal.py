"""A lease that lives as long as its work, however long that takes."""

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from talktune.store.queues import CLAIM_SECONDS, lease
from talktune.store.store import Store

log = logging.getLogger(__name__)


@contextmanager
def renewed(
    store: Store, name: str, owner: str, clock: Callable[[], float], every: float = CLAIM_SECONDS / 4
) -> Generator[None]:
    """Renew a lease that `owner` has while the block runs, and say that the role of this name is at work.

    A thread does it, since the work has steps of minutes; where somebody else has the lease now, it stops, and the
    transaction that ends the work finds out.
    """
    done = threading.Event()

    def renew() -> None:
        while not done.wait(every):
            try:
                if not lease(store, name, owner, clock()):
                    return
                store.tell(name, "", time.time())
            except Exception:  # the store is locked, say: tried again
                log.warning("the lease of the %s could not be renewed", name, exc_info=True)

    thread = threading.Thread(target=renew, name=f"lease of the {name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
