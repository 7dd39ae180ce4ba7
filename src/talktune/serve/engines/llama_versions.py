"""Gives versions to llama.cpp: adapters become GGUF files, and its server is started again with those wanted.

Open it to see why llama.cpp starts again.

It takes adapters at its start only, as far as its documentation goes
(https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md), and switches between them by request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from talktune.errors import UserError
from talktune.serve.engines.child import EngineProcess
from talktune.serve.engines.engine_error import EngineError
from talktune.serve.engines.gguf_adapter import write_adapter
from talktune.store.policies import Policies, Version

FOLDER = "gguf"
"""Beside the versions' own directories."""
MOST_FILES = 2
"""Versions besides the live ones that it is started with: those that were wanted last."""


class LlamaFiles:
    """The adapters that a llama.cpp server of talktune's own is started with."""

    def __init__(self, policies: Policies, model: Path, key: str) -> None:
        """For the base model in the GGUF file `model`; the server answers those who have the key."""
        self.process: EngineProcess | None = None
        self.between_requests: Callable[[Callable[[], Awaitable[bool]]], Awaitable[bool]] | None = None
        """Runs something while nothing is asked of the server."""
        self._policies = policies
        self._model = model
        self._key = key
        self._last: list[tuple[Version, str]] = []

    async def first_line(self) -> dict[str, Any]:
        """The line that the server's process reads at its start."""
        lives = await asyncio.to_thread(self._policies.lives)
        wanted = {version.number: (version, self._policies.engine_name(version.number)) for version in lives.values()}
        wanted |= {version.number: (version, name) for version, name in self._last}
        files = [await in_gguf(version, name, self._model) for version, name in wanted.values()]
        await asyncio.to_thread(_remove_others, {file.parent for file in files}, files, self._policies.engine_prefix)
        return {"model": str(self._model), "loras": [str(file) for file in files], "key": self._key}

    async def add(self, version: Version, name: str) -> None:
        """Restart the server with this version, too; raises EngineError where it does not start with it."""
        assert self.process is not None
        assert self.between_requests is not None
        process, before = self.process, self._last
        self._last = [*[one for one in before if one[0].number != version.number], (version, name)][-MOST_FILES:]
        try:
            line = await self.first_line()
        except BaseException:
            self._last = before
            raise
        if not await self.between_requests(lambda: process.restart(line)):
            self._last = before
            raise EngineError(f"llama.cpp did not start with {name}; what it said stands in the log")


async def in_gguf(version: Version, name: str, model: Path) -> Path:
    """The file of a version for llama.cpp, made where it is not there yet; raises EngineError where it cannot be."""
    target = version.path.parent / FOLDER / f"{name}.gguf"
    if not target.exists():
        try:
            target.parent.mkdir(exist_ok=True)
            await asyncio.to_thread(write_adapter, version.path, model, target)
        except (UserError, OSError) as error:
            raise EngineError(str(error)) from error
    return target


def _remove_others(folders: Collection[Path], files: Collection[Path], prefix: str) -> None:
    for folder in folders:
        for old in folder.glob(f"{prefix}*.gguf"):
            if old not in files:
                old.unlink(missing_ok=True)
