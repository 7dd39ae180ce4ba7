"""Writes turns to the store: one thread, in which all turns that wait share one durable transaction.

Open it to see when a turn is committed.

A commit waits for the disk; 32 clients who finish together wait for it once.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from talktune.store.rows import NewTurn

log = logging.getLogger("talktune.serve")

MOST = 256
"""Turns of one transaction."""


class Turns(Protocol):
    """Where turns go: the store."""

    def add_turns(self, turns: Sequence[NewTurn]) -> None:
        """Commit them together, or raise and commit none."""
        ...


class Writer:
    """Commits turns in the order in which they came; `write` returns when its turns are safe."""

    def __init__(self, store: Turns) -> None:
        """Start the thread."""
        self._store = store
        self._waiting: queue.SimpleQueue[tuple[list[NewTurn], Callable[[Exception | None], object]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, turns: Sequence[NewTurn]) -> None:
        """Commit some turns; raises what the store raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish(error: Exception | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._waiting.put((list(turns), lambda error: loop.call_soon_threadsafe(finish, error)))
        # A client that leaves cancels its request, not what it said.
        await asyncio.shield(done)

    def submit(self, turns: Sequence[NewTurn]) -> None:
        """Commit some turns without waiting; a failure is logged."""

        def finish(error: Exception | None) -> None:
            if error is not None:
                log.error("turns %s could not be stored: %s", [turn.id for turn in turns], error)

        self._waiting.put((list(turns), finish))

    def close(self) -> None:
        """Commit what waits, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, last = [first], False
            while sum(len(turns) for turns, _ in batch) < MOST and not last:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                else:
                    batch.append(more)
            self._commit(batch)
            if last:
                return

    def _commit(self, batch: Sequence[tuple[list[NewTurn], Callable[[Exception | None], object]]]) -> None:
        try:
            self._store.add_turns([turn for turns, _ in batch for turn in turns])
        except Exception as error:
            if len(batch) > 1:  # one bad turn must not take the others with it
                for one in batch:
                    self._commit([one])
            else:
                batch[0][1](error)
            return
        for _, finish in batch:
            finish(None)
