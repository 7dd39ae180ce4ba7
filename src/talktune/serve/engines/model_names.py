"""Model names: the live policy answers under any name; `--strict-models` allows known names only.

Open it to see what GET /v1/models lists, and which version a name means.

Clients know versions by their names in the store (`policy-000017`), engines by names with the store's own in it
(`tt-3f9a-000017`): nobody sees those, nor those of another store.
"""

import time
from collections.abc import Mapping
from typing import Any

from talktune.serve.dialects.wire import BadRequest
from talktune.serve.engines.engine_error import EngineError
from talktune.serve.engines.pool import Engines, is_adapter, own_first
from talktune.serve.engines.versions import BASE, VERSION, Versions, Wish
from talktune.store.policies import version_name

FRESH_SECONDS = 30.0
"""How long one look at the engine's models is good, but for versions: one that is asked for by name may be new."""
MOST_SHOWN = 20


class Models:
    """The engines' model names, as they were listed last."""

    def __init__(self, engines: Engines, versions: Versions, *, strict: bool) -> None:
        self._engines = engines
        self._versions = versions
        self._strict = strict
        self._names: list[str] = []
        self._seen = float("-inf")

    async def listed(self, user: str) -> list[dict[str, Any]]:
        """The engines' models that exist for a user, first the one that a client should name; raises EngineError."""
        found: dict[str, dict[str, Any]] = {}
        failed: EngineError | None = None
        for engine in self._engines.up:
            try:
                cards = (await engine.upstream.models())["data"]
            except EngineError as error:
                failed = error
                continue
            cards = [self._shown(one) for one in cards if isinstance(one, Mapping) and isinstance(one.get("id"), str)]
            engine.models = own_first(one["id"] for one in cards if one is not None and one.pop("own"))
            for card in cards:
                if card is not None:
                    found.setdefault(card["id"], card)
        if not found and failed is not None:
            raise failed
        models = sorted(found.values(), key=lambda one: VERSION.search(one["id"]) is not None)  # stable: versions last
        self._names, self._seen = [one["id"] for one in models], time.monotonic()
        known = await self._versions.known(user, self._names)
        return [one for one in models if one["id"] in known]

    def _shown(self, card: Mapping[str, Any]) -> dict[str, Any] | None:
        """An engine's model as clients see it, and whether it is the engine's own; None for another store's version."""
        # `root` is where the engine has it from: a path of this machine.
        shown = {name: value for name, value in card.items() if name != "root"}
        prefix, name = self._versions.policies.engine_prefix, str(card["id"])
        if name.startswith(prefix) and is_adapter(name):
            return shown | {"id": version_name(int(name.removeprefix(prefix))), "own": False}
        return None if is_adapter(name) else shown | {"own": True}

    async def wish(self, name: str | None, user: str) -> Wish:
        """The version or model that a client's name stands for: a version, the base model, or whatever is live.

        Raises BadRequest (404) for a version that is not there, and for any unknown name where names are strict.
        """
        lineage = self._versions.lineage(user)
        if name is None:
            return Wish(lineage)
        if name == BASE:
            await self._look(user)
            return Wish(lineage, name, follows=False)
        if VERSION.search(name):
            return await self._version(name, user)
        if name not in self._names:
            await self._look(user)
        if self._strict and (name not in self._names or is_adapter(name)):
            raise await self.unknown(name, user)
        return Wish(lineage, name)

    async def _look(self, user: str) -> None:
        """Ask the engines for their models, where that is due."""
        if self._strict or time.monotonic() - self._seen > FRESH_SECONDS:
            try:
                await self.listed(user)
            except EngineError:
                if self._strict:
                    raise
                self._seen = time.monotonic()  # not every engine tells: it is not asked at each request

    async def _version(self, name: str, user: str) -> Wish:
        version = await self._versions.named(name, user)
        if version is not None:
            return Wish(self._versions.lineage(user), None, version, follows=False)
        known = await self._versions.known(user, [name])
        if known:
            await self.listed(user)
        if not known or name not in self._names:
            raise await self.unknown(name, user)
        return Wish(self._versions.lineage(user), name, follows=False)  # the engine's own, by chance of that name

    async def unknown(self, name: str, user: str) -> BadRequest:
        """The error for an unknown name, with the names that work."""
        known = await self._versions.known(user, self._names)
        shown = ", ".join([one for one in self._names if one in known][:MOST_SHOWN]) or "none is known yet"
        return BadRequest(
            f"The model {name[:200]} does not exist; there are: {shown}.",
            status=404,
            code="model_not_found",
            param="model",
        )
