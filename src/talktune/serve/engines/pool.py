"""Several engines as one: it chooses the engine of a request, and sees to it that this engine has the version.

Open it to see which engine answers, and when one is left out.

A request goes to the engine of its conversation, whose prefix cache knows what was said, else to the one with the
fewest requests under way. One that fails is left out, and looked at once a second until it answers again.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from talktune.serve.dialects.wire import BadRequest
from talktune.serve.engines.adapters import Adapters, takes_adapters
from talktune.serve.engines.engine_error import EngineError
from talktune.serve.engines.kinds import EngineKind
from talktune.serve.engines.upstream import Upstream
from talktune.serve.engines.versions import BASE, VERSION, Versions, Wish, number_of, with_version
from talktune.store.policies import EVERYBODY, Version

log = logging.getLogger("talktune.serve")
LOOK_SECONDS = 1.0
TRIES = 3
"""To find an engine for the live version, while engines fail."""
MOST_CONVERSATIONS = 1 << 16
"""Of so many it is remembered which engine answered last."""
PATIENCE_SECONDS = 10.0
"""So long an engine that must be started again is left to its requests; then new ones wait until they have ended."""
POLL_SECONDS = 0.02
HOLD_EVERY = 20.0
"""Seconds after which it is said again which versions' files are needed."""


@dataclass(eq=False)
class Engine:
    """One engine with its adapters and its count of running requests."""

    upstream: Upstream
    adapters: Adapters
    running: int = 0
    """Requests of this server that it answers."""
    asked: int = 0
    """Requests that it was given so far."""
    left_out: bool = False
    """Whether it failed, and has not been seen well since."""
    seen: bool = False
    """Whether it was looked at since it was left out, or at all."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while it may be asked: not while it is started again."""
    models: list[str] = field(default_factory=list[str])
    """Its own models, first the one to name; without adapters."""

    def __post_init__(self) -> None:
        self.open.set()

    async def between_requests(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """Run something while the engine has no request: when it is next idle, or soon after new requests wait."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while self.running and time.monotonic() < give_up:
            await asyncio.sleep(POLL_SECONDS)
        self.open.clear()
        try:
            while self.running:
                await asyncio.sleep(POLL_SECONDS)
            return await work()
        finally:
            self.open.set()


@dataclass(frozen=True)
class Route:
    """An engine for one request, and the version by which it answers."""

    engine: Engine
    kind: EngineKind
    version: Version | None

    @contextmanager
    def taken(self) -> Generator[None]:
        """Count the engine as answering, inside."""
        self.engine.running += 1
        self.engine.asked += 1
        try:
            with self.engine.adapters.use(self.version):
                yield
        finally:
            self.engine.running -= 1

    def model(self, name: str | None) -> str | None:
        """The engine's name for the model that a client named: its own where it has that, else its first."""
        models = self.engine.models
        if name is None or name in models:
            return name
        # Nobody's name for a version goes on from a client: it may be another user's, or another store's.
        return models[0] if models else None if name == BASE or is_adapter(name) else name

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request's body with the version in it."""
        adapters, version = self.engine.adapters, self.version
        if version is None:
            return with_version(body, None, None, adapters.slots)
        return with_version(body, adapters.name(version), adapters.slot(version), adapters.slots)


class Engines:
    """All engines of this server."""

    def __init__(
        self, upstreams: Sequence[Upstream], versions: Versions, hold: Callable[[Collection[int]], None]
    ) -> None:
        """`hold` is told now and then which versions' files are needed, in a thread."""
        self.all = [Engine(upstream, Adapters(upstream, versions.policies)) for upstream in upstreams]
        self._versions = versions
        self._hold = hold
        self._held: tuple[float, frozenset[int]] = (float("-inf"), frozenset())
        self._serving: dict[str, Version | None] = {}
        """What answers each lineage right now: the live one, or the last that could be loaded."""
        self._live: dict[str, int | None] = {}
        """What should."""
        self._of: OrderedDict[str, Engine] = OrderedDict()

    @property
    def several(self) -> bool:
        """Whether there are several engines, so that a conversation should stay with one of them."""
        return len(self.all) > 1

    @property
    def up(self) -> list[Engine]:
        """The engines that are not left out; all of them, where that leaves none."""
        return [one for one in self.all if not one.left_out] or self.all

    def move(self, url: str | None) -> None:
        """Note that the engine which this server started has another address and no adapter yet, or no address."""
        self.all[0].upstream.move(url)
        self.all[0].adapters.forget()

    def remember(self, conversation: str, engine: Engine) -> None:
        """Let the next request of a conversation go to this engine, if it can."""
        self._of[conversation] = engine
        self._of.move_to_end(conversation)
        if len(self._of) > MOST_CONVERSATIONS:
            self._of.popitem(last=False)

    def failed(self, engine: Engine, error: EngineError) -> None:
        """Leave out an engine that may be gone, until it answers again."""
        if error.gone and not engine.left_out:
            engine.left_out, engine.seen = True, False
            engine.upstream.forget()
            engine.adapters.forget()
            if self.several:
                log.warning("the engine at %s is left out (%s)", engine.upstream.url, error)

    async def route(self, wish: Wish, conversation: str | None = None, without: Collection[Engine] = ()) -> Route:
        """The engine that answers a request, and its version; `without` are those that failed at it already.

        Raises EngineError when there is none, or when none takes the version that the client named.
        """
        tries = 0
        while True:
            found = await self._route(wish, conversation, without)
            if found is not None and found.engine.open.is_set():
                return found
            if found is not None:
                await found.engine.open.wait()
                continue
            tries += 1  # an engine that had the version is gone since: another may have it, or get it
            if not wish.follows or tries == TRIES:
                version = "The live version" if wish.version is None else wish.version.name
                raise EngineError(f"{version} could not be loaded into the engine.")  # why may name a path

    async def _route(self, wish: Wish, conversation: str | None, without: Collection[Engine]) -> Route | None:
        """The same as far as it is known now; None where no engine has the version."""
        there = await self._reached([one for one in self.up if one not in without] or self._rest(without))
        version = await self._follow(wish.lineage, there) if wish.follows else wish.version
        if version is None:
            return self._pick(there, version, conversation)
        takes: dict[Engine, EngineKind] = {one: kind for one, kind in there.items() if takes_adapters(kind)}
        ready: dict[Engine, EngineKind] = {one: kind for one, kind in takes.items() if one.adapters.has(version)}
        if not ready and not wish.follows and takes:
            first = self._pick(takes, version, conversation)
            serving = [v.number for v in self._serving.values() if v is not None]
            await self._keep({version.number})
            await first.engine.adapters.bring(version, first.kind, serving)
            ready = {first.engine: first.kind} if first.engine.adapters.has(version) else {}
        return self._pick(ready, version, conversation) if ready else None

    async def plain(self) -> Route:
        """An engine for a question about a prompt, for which no version matters."""
        return self._pick(await self._reached(self.up), None, None)

    def _rest(self, without: Collection[Engine]) -> list[Engine]:
        rest = [one for one in self.all if one not in without]
        if not rest:
            raise EngineError("No engine could answer.")
        return rest

    async def _reached(self, engines: Iterable[Engine]) -> dict[Engine, EngineKind]:
        """Those of the engines that can be reached; raises EngineError when none can."""
        found: dict[Engine, EngineKind] = {}
        last = EngineError("No engine could be reached.")
        for engine in engines:
            try:
                await engine.open.wait()
                kind = await engine.upstream.kind()
                if kind == "llama.cpp" and not engine.adapters.looked:
                    await engine.adapters.look_again(kind)  # else all of its adapters would answer
                found[engine] = kind
            except EngineError as error:
                last = error
                self.failed(engine, error)
        if not found:
            raise last
        return found

    def _pick(self, among: dict[Engine, EngineKind], version: Version | None, conversation: str | None) -> Route:
        own = None if conversation is None else self._of.get(conversation)
        engine = own if own in among else min(among, key=lambda one: (one.running, one.asked))
        return Route(engine, among[engine], version)

    async def _follow(self, lineage: str, there: dict[Engine, EngineKind]) -> Version | None:
        """The version that answers a lineage: the live one as soon as an engine has it, else the one before."""
        takes: dict[Engine, EngineKind] = {one: kind for one, kind in there.items() if takes_adapters(kind)}
        while takes:
            live = await self._versions.live(lineage)
            self._live[lineage] = number_of(live)
            if live is not None and not any(one.adapters.has(live) for one in takes):
                giving = [one.adapters.give(live, kind) for one, kind in takes.items()]
                now = self._serving.get(lineage)
                started_again = lineage in self._serving and any(one.adapters.files is not None for one in takes)
                if started_again and (now is None or any(one.adapters.has(now) for one in takes)):
                    return now  # that answers until an engine is started again with the live one
                await _first(giving)
                if number_of(await self._versions.live(lineage)) != live.number:
                    continue  # another went live while this one was loaded
            if live is None or any(one.adapters.has(live) for one in takes):
                await self._serve(lineage, live)
                return live
            now = self._serving.get(lineage)
            if now is not None and not any(one.adapters.has(now) for one in takes):
                await _first([one.adapters.give(now, kind) for one, kind in takes.items()])
            return now if now is not None and any(one.adapters.has(now) for one in takes) else None
        return None

    async def _serve(self, lineage: str, live: Version | None) -> None:
        """This one answers the lineage from now on, and the engines forget the one before."""
        before = self._serving.get(lineage)
        self._serving[lineage] = live
        if before is not None and before.number != number_of(live):
            await asyncio.gather(*(one.adapters.drop(before) for one in self.all))

    # What each engine is told without being asked for anything.

    async def watch(self) -> None:
        """Look at all engines again and again, and load the live versions into each."""
        while True:
            try:
                await self.look()
            except Exception:  # the store is locked, say: the next look tries again
                log.exception("looking at the engines failed")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look at all engines once."""
        lives = await self._versions.lives()
        await asyncio.gather(*(self._look(engine, lives) for engine in self.all))
        with suppress(EngineError):
            there = await self._reached(one for one in self.all if one.seen and not one.left_out)
            for lineage in {*self._serving, *(() if self._versions.per_user else (EVERYBODY,))}:
                await self._follow(lineage, there)
        await self._keep({one.number for one in lives.values()})

    async def _keep(self, more: Collection[int]) -> None:
        """Say which versions' files are needed, where that has changed or was said a while ago."""
        used = frozenset(more).union(*(one.adapters.numbers for one in self.all))
        at, held = self._held
        if used != held or time.monotonic() - at > HOLD_EVERY:
            await asyncio.to_thread(self._hold, used)
            self._held = (time.monotonic(), used)

    async def _look(self, engine: Engine, lives: dict[str, Version]) -> None:
        """Whether an engine is well; one that comes back is told of the live versions before it is asked again."""
        upstream, adapters = engine.upstream, engine.adapters
        if not await upstream.healthy():
            self.failed(engine, EngineError("it is not well", gone=True))
            return
        try:
            kind = await upstream.kind()
            engine.models = await own_models(upstream)
            await adapters.look_again(kind)
        except EngineError as error:
            self.failed(engine, error)
            return
        if takes_adapters(kind):
            if not engine.seen:
                await adapters.tidy([one.number for one in lives.values()])
            wanted = [lives[name] for name in {*self._serving, EVERYBODY} if name in lives]
            await asyncio.gather(*(adapters.give(one, kind) for one in wanted))
        if engine.left_out and self.several:
            log.warning("the engine at %s is back", upstream.url)
        engine.left_out, engine.seen = False, True

    def troubles(self) -> list[str]:
        """The reasons why a live version does not answer, and the engines that are left out, in sentences."""
        found: list[str] = []
        for engine in self.all:
            whose = f"{engine.upstream.url}: " if self.several else ""
            if engine.left_out and self.several:
                found.append(f"{whose}it does not answer, and is left out until it does")
            told = engine.adapters.troubles
            found += [f"{whose}{told[number]}" for number in told.keys() & set(self._live.values())]
        return found

    def hints(self) -> list[str]:
        """Advice on settings of the engines, in sentences."""
        return [f"{one.upstream.url}: {one.adapters.hint}" for one in self.all if one.adapters.hint]


async def own_models(upstream: Upstream) -> list[str]:
    """The models of an engine that are nobody's adapters, as it lists them; none where it does not tell."""
    with suppress(EngineError, BadRequest):
        data = (await upstream.models())["data"]
        named = [one["id"] for one in data if isinstance(one, dict) and isinstance(one.get("id"), str)]
        return own_first(name for name in named if not is_adapter(name))
    return []


def own_first(names: Iterable[str]) -> list[str]:
    """Sort names of models: those that are named like versions come last."""
    return sorted(names, key=lambda name: VERSION.search(name) is not None)


def is_adapter(name: str) -> bool:
    """Whether a name is that of some store's version in an engine."""
    parts = name.split("-")
    return len(parts) == 3 and parts[0] == "tt" and len(parts[1]) == 4 and parts[2].isdecimal()


async def _first(tasks: Sequence[asyncio.Task[bool]]) -> None:
    """Until one of them gave True, or all have ended."""
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if any(task.result() for task in done):
            return
