"""The adapters that one engine has loaded, under names of the store's own; unused ones are unloaded.

Open it when an engine has a wrong version, or none.

Several stores may use one engine, and an engine may be started again at any moment: what it has is what it lists, by
name and by path.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from os.path import normpath

from talktune.serve.dialects.wire import BadRequest
from talktune.serve.engines.advice import ONE_AT_ONCE, advice
from talktune.serve.engines.engine_error import EngineError
from talktune.serve.engines.kinds import EngineKind
from talktune.serve.engines.llama_versions import LlamaFiles, in_gguf
from talktune.serve.engines.upstream import Listed, Upstream
from talktune.store.policies import Policies, Version

log = logging.getLogger("talktune.serve")
RETRY_SECONDS = 10.0
"""Before a version that the engine refused is offered again."""
MOST_BROUGHT = 2
"""Versions besides the live ones that the engine holds because clients named them."""


def takes_adapters(kind: EngineKind) -> bool:
    """Whether an engine of this kind can load versions as adapters."""
    return kind in ("host", "vllm", "llama.cpp")


class Adapters:
    """The versions of this store that one engine has loaded."""

    def __init__(self, upstream: Upstream, policies: Policies) -> None:
        """Of the engine behind `upstream`."""
        self.troubles: dict[int, str] = {}
        """Of each version that the engine did not take: why, and what to do."""
        self.hint = ""
        """What would be better set otherwise."""
        self.files: LlamaFiles | None = None
        """llama.cpp: who starts it again with another adapter; None where talktune did not start it."""
        self.looked = False
        """Whether the engine was asked what it has since it may have been started."""
        self._upstream = upstream
        self._policies = policies
        self._has: dict[str, Listed] = {}
        self._slots: tuple[int, ...] = ()
        self._brought: list[Version] = []
        self._using: Counter[int] = Counter()
        self._unwanted: dict[int, Version] = {}
        self._refused: dict[int, float] = {}
        self._giving: dict[int, asyncio.Task[bool]] = {}
        self._changing = asyncio.Lock()

    def has(self, version: Version) -> bool:
        """Whether the engine has this version, as far as is known: under its name, from its path."""
        listed = self._has.get(self.name(version))
        return listed is not None and (listed.slot is not None or normpath(listed.path) == normpath(version.path))

    def name(self, version: Version) -> str:
        """The name of a version in engines."""
        return self._policies.engine_name(version.number)

    def slot(self, version: Version) -> int | None:
        """llama.cpp's number of a version; None where adapters go by their names."""
        listed = self._has.get(self.name(version))
        return None if listed is None else listed.slot

    @property
    def slots(self) -> tuple[int, ...]:
        """llama.cpp's numbers of all its adapters, those of other stores included."""
        return self._slots

    @property
    def numbers(self) -> set[int]:
        """Versions of this store that the engine has, or that answers run on."""
        prefix = self._policies.engine_prefix
        listed = {int(name.removeprefix(prefix)) for name in self._has}
        return listed | {number for number, count in self._using.items() if count}

    def forget(self) -> None:
        """Take nothing for loaded any more, because the engine may have been started anew."""
        self._has, self._slots, self.looked = {}, (), False

    async def look(self, kind: EngineKind) -> None:
        """Ask the engine which adapters it has; raises EngineError."""
        if not takes_adapters(kind):
            return
        listed = await self._upstream.adapters(kind)
        prefix = self._policies.engine_prefix
        self._has = {
            name: one for name, one in listed.items() if name.startswith(prefix) and name[len(prefix) :].isdecimal()
        }
        self._slots = tuple(one.slot for one in listed.values() if one.slot is not None)
        self.looked = True

    async def look_again(self, kind: EngineKind) -> None:
        """Ask the engine while nothing is being loaded or unloaded, so that its answer is not old already."""
        async with self._changing:
            await self.look(kind)

    @contextmanager
    def use(self, version: Version | None) -> Generator[None]:
        """Keep this version in the engine while an answer uses it, inside."""
        if version is None:
            yield
            return
        self._using[version.number] += 1
        try:
            yield
        finally:
            self._using[version.number] -= 1
            if not self._using[version.number]:
                del self._using[version.number]
                if (left := self._unwanted.pop(version.number, None)) is not None:
                    task = asyncio.ensure_future(self._unload(left))
                    _running.add(task)
                    task.add_done_callback(_running.discard)

    def give(self, version: Version, kind: EngineKind) -> asyncio.Task[bool]:
        """Load a version into the engine, once however many ask; the result says whether it is there, `troubles` why
        not.
        """
        task = self._giving.get(version.number)
        if task is None or task.done():
            task = self._giving[version.number] = asyncio.ensure_future(self._give(version, kind))
            task.add_done_callback(lambda _: self._giving.pop(version.number, None))
        return task

    async def bring(self, version: Version, kind: EngineKind, serving: Collection[int]) -> bool:
        """Load a version that a client names, in place of an earlier one; returns whether it is there.

        `serving` are the versions that answer those who name none: these stay.
        """
        if not await self.give(version, kind):
            return False
        self._brought = [v for v in self._brought if v.number not in {*serving, version.number} and self.has(v)]
        for old in self._brought[: -MOST_BROUGHT + 1]:
            await self.drop(old)
        self._brought = [*self._brought[-MOST_BROUGHT + 1 :], version]
        return True

    async def drop(self, version: Version) -> None:
        """Unload a version, at once or when the last answer that uses it has ended."""
        self.troubles.pop(version.number, None)
        self._refused.pop(version.number, None)
        if self._using[version.number]:
            self._unwanted[version.number] = version
        else:
            await self._unload(version)

    async def tidy(self, wanted: Collection[int]) -> None:
        """Unload versions of this store that are neither wanted nor in use, as a restart leaves them."""
        brought = {one.number for one in self._brought}
        prefix = self._policies.engine_prefix
        for name in [*self._has]:
            number = int(name.removeprefix(prefix))
            if number not in {*wanted, *brought, *self._giving} and not self._using[number]:
                await self._unload_name(name)

    async def _give(self, version: Version, kind: EngineKind) -> bool:
        self._unwanted.pop(version.number, None)
        if self.has(version):
            return True
        if self._refused.get(version.number, 0.0) > time.monotonic():
            return False
        try:
            async with self._changing:
                await self._load(version, kind)
        except (EngineError, BadRequest) as error:
            path = str(version.path)
            status, said = error.status, str(error.body["error"]["message"])
            why = said if isinstance(error, EngineError) else advice(status, said, path)
            trouble = f"{version.name} could not be loaded into the engine ({why})"
            if self.troubles.get(version.number) != trouble:
                log.error("%s: %s; the version before goes on serving", self._upstream.url, trouble)
            self.troubles[version.number] = trouble
            self._refused[version.number] = time.monotonic() + RETRY_SECONDS
            return False
        self.troubles.pop(version.number, None)
        self._refused.pop(version.number, None)
        if kind == "vllm":
            self.hint = ONE_AT_ONCE if await self._upstream.at_once() == 1 else ""
        return True

    async def _load(self, version: Version, kind: EngineKind) -> None:
        """Until the engine lists it, by its name and from its path."""
        name = self.name(version)
        await self.look(kind)
        if self.has(version):
            return  # loaded by another server, or before a restart of this one
        if kind == "llama.cpp":
            await self._load_file(version, name)
            return
        if name in self._has:  # of this name, from elsewhere: another's
            await self._upstream.unload(name)
        try:
            said = await self._upstream.load(name, str(version.path))
        except BadRequest:
            await self.look(kind)
            if self.has(version):
                return  # another server of this store was faster
            raise
        await self.look(kind)
        if not self.has(version):
            if name not in self._has:
                raise EngineError(f"it does not list {name}, and said: {said.decode(errors='replace')[:200]}")
            raise EngineError(f"another server loads {name} from {self._has[name].path}")

    async def _load_file(self, version: Version, name: str) -> None:
        """llama.cpp takes adapters at its start only, as files."""
        if self.files is None:
            file = await in_gguf(version, name, await self._upstream.model_file())
            raise EngineError(
                f"llama.cpp takes adapters at its start only: start it again with --lora {file}, which is written, or "
                "let talktune start it, with --engine llama.cpp in the place of --upstream"
            )
        await self.files.add(version, name)
        await self.look("llama.cpp")
        if not self.has(version):
            raise EngineError(f"llama.cpp does not list {name}")

    async def _unload(self, version: Version) -> None:
        if self._using[version.number] == 0:
            await self._unload_name(self.name(version))

    async def _unload_name(self, name: str) -> None:
        async with self._changing:
            listed = self._has.get(name)
            if listed is not None and listed.slot is None:  # llama.cpp keeps what it was started with
                del self._has[name]
                with suppress(EngineError):
                    await self._upstream.unload(name)


_running: set[asyncio.Task[None]] = set()
"""Tasks that nobody waits for, so that they are not forgotten while they run."""
