"""The version of the policy that a request is for, as the store has it.

Open it to see how fast a new version answers.
"""

import asyncio
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from talktune.store.policies import EVERYBODY, Policies, Version

VERSION = re.compile(r"policy-(\d{6,})\Z")
"""Names of published versions, as clients know them."""
FRESH_SECONDS = 0.05
"""How long one look at the live version is good."""
BASE = "policy-base"
"""The name under which the model answers as it was, whatever version is live."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The version or model that a request asks for, whichever engine answers it."""

    lineage: str
    model: str | None = None
    """The name of an engine's own model, as the client gave it."""
    version: Version | None = None
    """The one that a client named."""
    follows: bool = True
    """Whether the live version answers, whichever it is by then; else `version`, or the model as it was."""


class Versions:
    """The versions of each lineage, and the live one."""

    def __init__(self, policies: Policies, *, per_user: bool) -> None:
        """`per_user`: every user has a lineage of their own."""
        self.policies = policies
        self.per_user = per_user
        self._looked: dict[str, tuple[float, Version | None]] = {}

    def lineage(self, user: str) -> str:
        """The lineage whose versions answer a user."""
        return user if self.per_user else EVERYBODY

    async def live(self, lineage: str) -> Version | None:
        """The live version of a lineage; None for the model as it was."""
        at, version = self._looked.get(lineage, (float("-inf"), None))
        if time.monotonic() - at > FRESH_SECONDS:
            version = await asyncio.to_thread(self.policies.live, lineage)
            self._looked[lineage] = (time.monotonic(), version)
        return version

    async def lives(self) -> dict[str, Version]:
        """The live versions of all lineages that have one."""
        now = time.monotonic()
        found = await asyncio.to_thread(self.policies.lives)
        self._looked = {name: seen if seen[0] > now else (now, found.get(name)) for name, seen in self._looked.items()}
        return found

    async def named(self, name: str, user: str) -> Version | None:
        """The version of that name that a user may ask for."""
        found = await asyncio.to_thread(self.policies.visible, self.lineage(user))
        return next((one for one in found if one.name == name and not one.pruned), None)

    async def known(self, user: str, models: Collection[str]) -> set[str]:
        """Those of these model names that exist for a user; versions of other lineages do not."""
        names = {name for name in models if VERSION.search(name)}
        if not names:
            return set(models)
        versions = await asyncio.to_thread(self.policies.versions)
        mine = {one.name for one in versions if one.lineage in (self.lineage(user), EVERYBODY)}
        # What is everybody's may be a model of the engine's own that is named like a version.
        others = names if self.per_user else {one.name for one in versions}
        return set(models) - (others - mine)


def number_of(version: Version | None) -> int | None:
    """The number of a version; None for the model as it was."""
    return None if version is None else version.number


def with_version(body: Mapping[str, Any], name: str | None, slot: int | None, slots: Collection[int]) -> dict[str, Any]:
    """The request for a version: by its name as the model, or by llama.cpp's slots of adapters.

    llama.cpp answers by all of its adapters at once unless it is told otherwise, an empty list included: each has its
    scale said, 0 for all but the one that is wanted. It would also go on behind a prompt that another adapter had read
    (https://github.com/ggml-org/llama.cpp/issues/26207).
    """
    if slots:
        scales = [{"id": one, "scale": float(one == slot)} for one in sorted(slots)]
        return dict(body) | {"lora": scales, "cache_prompt": False}
    return dict(body) if name is None else dict(body) | {"model": name}
