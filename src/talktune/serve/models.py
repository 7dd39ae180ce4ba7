"""Model names: any is served by the live policy, whose version the answer names; `--strict-models` takes known ones."""

import time
from collections.abc import Mapping
from typing import Any

from talktune.serve.exchange import VERSION
from talktune.serve.upstream import EngineError, Upstream
from talktune.serve.versions import BASE, Versions
from talktune.serve.wire import BadRequest

FRESH_SECONDS = 30.0
"""How long one look at the engine's models is good, but for versions: one that is asked for by name may be new."""
MOST_SHOWN = 20


class Models:
    """What the engine has, as it was seen last."""

    def __init__(self, upstream: Upstream, versions: Versions, *, strict: bool) -> None:
        self._upstream = upstream
        self._versions = versions
        self._strict = strict
        self._names: list[str] = []
        self._seen = float("-inf")

    async def listed(self, user: str) -> list[dict[str, Any]]:
        """The engine's models that exist for a user, first the one that a client should name; raises EngineError."""
        found = [dict(one) for one in (await self._upstream.models())["data"] if isinstance(one, Mapping)]
        found = [one for one in found if isinstance(one.get("id"), str)]
        found.sort(key=lambda one: VERSION.search(one["id"]) is not None)  # stable: versions come last
        self._names, self._seen = [one["id"] for one in found], time.monotonic()
        known = await self._versions.known(user, self._names)
        # `root` is where the engine has it from: a path of this machine.
        return [{name: value for name, value in one.items() if name != "root"} for one in found if one["id"] in known]

    async def named(self, name: str | None, user: str) -> str | None:
        """The engine's model for the name that a client gave: itself where the engine has it, else the first.

        Raises BadRequest (404) for a version that is not there, and for any unknown name where names are strict.
        """
        if name is None:
            return None
        if name == BASE:
            if not self._names:
                await self.listed(user)
            return next(iter(self._names), None)
        version = VERSION.search(name) is not None
        if version and not await self._versions.known(user, [name]):
            raise await self.unknown(name, user)
        if self._upstream.has(name):
            return name
        if name in self._names and not version:
            return name
        if version or time.monotonic() - self._seen > FRESH_SECONDS:
            try:
                await self.listed(user)
            except EngineError:
                if self._strict:
                    raise
                self._seen = time.monotonic()  # not every engine tells: it is not asked at each request
                return name
        if name in self._names or (version and await self._versions.bring(name, user)):
            return name
        if version or self._strict:
            raise await self.unknown(name, user)
        return self._names[0] if self._names else name

    async def unknown(self, name: str, user: str) -> BadRequest:
        """The refusal of a name, with those that work."""
        known = await self._versions.known(user, self._names)
        shown = ", ".join([one for one in self._names if one in known][:MOST_SHOWN]) or "none is known yet"
        return BadRequest(
            f"The model {name[:200]} does not exist; there are: {shown}.",
            status=404,
            code="model_not_found",
            param="model",
        )
