"""Which version of the policy answers a request, and how the engine is told.

A version is loaded into the engine when it is first needed, under its own name. Where that fails, the one before
goes on serving: a swap never costs an answer.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from talktune.serve.dialects import Dialect
from talktune.serve.exchange import VERSION
from talktune.serve.upstream import EngineError, Upstream
from talktune.serve.wire import BadRequest
from talktune.store.policies import EVERYBODY, Policies, Version

log = logging.getLogger("talktune.serve")
FRESH_SECONDS = 0.05
"""How long one look at the live version is good."""
BASE = "policy-base"
"""The name under which the model answers as it was, whatever version is live."""
MOST_BROUGHT = 2
"""Versions besides the live ones that the engine holds because clients named them."""
RETRY_SECONDS = 10.0
"""Before a version that the engine refused is offered again."""


class Versions:
    """The live version of each lineage, as the engine has it."""

    def __init__(self, policies: Policies, upstream: Upstream, *, per_user: bool) -> None:
        """`per_user`: every user has a lineage of their own."""
        self.trouble = ""
        """Why the live version does not serve, in a sentence."""
        self._policies = policies
        self._upstream = upstream
        self._per_user = per_user
        self._looked: dict[str, tuple[float, Version | None]] = {}
        self._serving: dict[str, Version | None] = {}
        """What answers each lineage right now: the live one, or the last that could be loaded."""
        self._brought: list[str] = []
        """Versions that the engine was given because clients named them, the latest last."""
        self._refused: dict[int, float] = {}
        self._loading = asyncio.Lock()

    async def of(self, user: str, dialect: Dialect) -> Version | None:
        """The version that answers this user now; None for the engine's own model."""
        if dialect not in ("host", "vllm", "llama.cpp"):
            return None
        lineage = self._lineage(user)
        live = await self._live(lineage)
        if _number(live) == _number(self._serving.get(lineage)) and (live is None or self._upstream.has(live.name)):
            return live
        async with self._loading:
            live = await self._live(lineage)  # it may have changed while another was loaded
            if live is None or self._upstream.has(live.name):
                await self._serve(lineage, live, dialect)
            elif self._refused.get(live.number, 0.0) <= time.monotonic():
                await self._load(lineage, live, dialect)
        now = self._serving.get(lineage)
        return now if now is None or self._upstream.has(now.name) else None

    async def known(self, user: str, models: Collection[str]) -> set[str]:
        """Those of these model names that exist for a user: versions of other lineages do not."""
        names = {name for name in models if VERSION.search(name)}
        if not names:
            return set(models)
        versions = await asyncio.to_thread(self._policies.versions)
        mine = {one.name for one in versions if one.lineage in (self._lineage(user), EVERYBODY)}
        # What is everybody's may be a model of the engine's own that is named like a version.
        others = names if self._per_user else {one.name for one in versions}
        return set(models) - (others - mine)

    async def bring(self, name: str, user: str) -> bool:
        """Give the engine a version that a client names, in place of an earlier one; False for no version of theirs.

        Raises EngineError when the engine does not take it.
        """
        dialect = await self._upstream.dialect()
        visible = await asyncio.to_thread(self._policies.visible, self._lineage(user))
        found = [one for one in visible if one.name == name]
        if not found or dialect not in ("host", "vllm", "llama.cpp"):
            return False
        async with self._loading:
            if not self._upstream.has(name):
                if not await self._load_quietly(found[0], dialect):
                    raise EngineError(f"{name} could not be loaded into the engine.")  # why may name a path
                serving = {one.name for one in self._serving.values() if one is not None}
                self._brought = [one for one in self._brought if one not in serving and self._upstream.has(one)]
                for old in self._brought[: -MOST_BROUGHT + 1]:
                    await self._upstream.unload(old, dialect)
                self._brought = [*self._brought[-MOST_BROUGHT + 1 :], name]
        return True

    def _lineage(self, user: str) -> str:
        return user if self._per_user else EVERYBODY

    async def _serve(self, lineage: str, live: Version | None, dialect: Dialect) -> None:
        """This one answers the lineage from now on, and the engine forgets the one before."""
        before = self._serving.get(lineage)
        self._serving[lineage] = live
        if before is not None and before.number != _number(live):
            await self._upstream.unload(before.name, dialect)

    async def _live(self, lineage: str) -> Version | None:
        at, version = self._looked.get(lineage, (float("-inf"), None))
        if time.monotonic() - at > FRESH_SECONDS:
            version = await asyncio.to_thread(self._policies.live, lineage)
            self._looked[lineage] = (time.monotonic(), version)
        return version

    async def _load(self, lineage: str, live: Version, dialect: Dialect) -> None:
        before = self._serving.get(lineage)
        try:
            await self._upstream.load(live.name, str(live.path), dialect)
        except (EngineError, BadRequest) as error:
            self.trouble = f"{live.name} could not be loaded into the engine ({error})"
            log.error("%s; the version before goes on serving", self.trouble)
            self._refused[live.number] = time.monotonic() + RETRY_SECONDS
            if before is not None and not self._upstream.has(before.name):
                await self._load_quietly(before, dialect)
            return
        self.trouble = ""
        await self._serve(lineage, live, dialect)

    async def _load_quietly(self, version: Version, dialect: Dialect) -> bool:
        """Whether the engine took it; why not is logged."""
        try:
            await self._upstream.load(version.name, str(version.path), dialect)
        except (EngineError, BadRequest) as error:
            log.error("%s could not be loaded into the engine (%s)", version.name, error)
            return False
        return True


def _number(version: Version | None) -> int | None:
    return None if version is None else version.number


def with_version(body: Mapping[str, Any], version: Version | None, slot: int | None) -> dict[str, Any]:
    """The request for that version: by its name as the model, or by llama.cpp's slot of adapters."""
    if version is None:
        return dict(body)
    if slot is not None:
        return with_slot(body, slot)
    return dict(body) | {"model": version.name}


def with_slot(body: Mapping[str, Any], slot: int) -> dict[str, Any]:
    """The request for the adapter in that slot of llama.cpp's."""
    return dict(body) | {"lora": [{"id": slot, "scale": 1.0}]}
