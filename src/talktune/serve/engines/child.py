"""An engine that the server starts itself: a child process that is watched, and started again when it dies.

Open it to see what happens when the host crashes.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from talktune.errors import UserError

log = logging.getLogger("talktune.serve")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a host that died is started again; doubled each time that it dies young."""
YOUNG = 60.0


class EngineProcess:
    """A host (`talktune.live`, which may judge and learn), or llama.cpp. It ends with the server: its stdin closes."""

    def __init__(
        self, arguments: Sequence[str], first_line: Mapping[str, Any], moved: Callable[[str | None], None], grace: float
    ) -> None:
        """`arguments` are Python's, `first_line` is what it reads as JSON: others see the arguments of a process.

        `moved` is told each new address, and None when there is none.
        """
        self.state: Literal["starting", "ready", "restarting"] = "starting"
        self.starts = 0
        self._arguments = [sys.executable, *arguments]
        self._first_line = _line(first_line)
        self._moved = moved
        self._grace = grace
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running child."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the child and wait until it serves; UserError when it does not."""
        if not await self._start_once():
            raise UserError("The host did not start; what it said stands above.")
        self._watching = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        """Let the child finish within the grace time, then end it."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._end()

    async def restart(self, first_line: Mapping[str, Any]) -> bool:
        """Restart the child with another first line, or as it was where that fails; returns whether the new one serves.

        Whoever calls this sees to it that nothing is asked of it meanwhile.
        """
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        before, self._first_line = self._first_line, _line(first_line)
        self._moved(None)
        self.state = "restarting"
        await self._end()
        taken = await self._start_once()
        if not taken:
            self._first_line = before
            await self._start_once()
        self._watching = asyncio.ensure_future(self._watch())
        return taken

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._grace):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _start_once(self) -> bool:
        self.starts += 1
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the server's to handle
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(self._first_line)
        with contextlib.suppress(ConnectionError):  # it died already: its end says so
            await self._process.stdin.drain()
        while line := await self._process.stdout.readline():
            word, _, address = line.decode(errors="replace").strip().partition(" ")
            if word == "ready":
                self.state = "ready"
                self._moved(address)
                return True
        await self._process.wait()
        return False

    async def _watch(self) -> None:
        """Start it again whenever it dies, with longer and longer pauses while it dies young."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            assert self._process is not None
            began = loop.time()
            code = await self._process.wait()
            self._moved(None)
            self.state = "restarting"
            pause = FIRST_PAUSE if loop.time() - began > YOUNG else pause
            log.warning("the host ended (%s); starting it again in %.1f seconds", code, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            with contextlib.suppress(OSError):
                await self._start_once()


def _line(first: Mapping[str, Any]) -> bytes:
    return json.dumps(first).encode() + b"\n"
