"""GET /v1/learning: what was heard, what was learned from it, and what is missing until the next update.

Open it to see how the numbers on the page are computed.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from talktune.config import Config, LiveConfig, TrainConfig
from talktune.serve.keys import Caller
from talktune.store.changes import last_verdict
from talktune.store.enqueue import BUCKETS
from talktune.store.learning import Learning, quotas
from talktune.store.policies import EVERYBODY, Policies, Version, version_name
from talktune.store.reactions import Reactions, reactions, roles, waiting_for_judge
from talktune.store.store import Store

SECONDS_A_VERDICT = 1e-4
"""All verdicts are read anew no sooner than so long after the last time, for each of them: reading 100,000, which
takes a third of a second of a processor, is done every ten seconds at most. Not by how long it took: beside an update
that has every core, a few verdicts take as long."""
UNCHANGED_SECONDS = 600.0
"""What is known is read anew after so long though no verdict came: somebody may have been forgotten."""
CONFIDENCE = 1.96
"""Standard errors of the band around a share: 95 %."""


class Learned:
    """Makes the answer of GET /v1/learning; the curve of liked answers, which reads all verdicts, is cached for a
    while.
    """

    def __init__(self, store: Store, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        """`config` is the whole tree: that of a learner somewhere else is taken to be the same."""
        self._store = store
        self._train: TrainConfig = config.train
        self._live = config.live or LiveConfig()
        self._clock = clock
        self._kept: dict[str | None, _Kept] = {}

    def of(self, caller: Caller) -> dict[str, Any]:
        """What a caller may know: an admin about everybody's reactions, others about their own."""
        per_user = self._live.per_user
        lineage = caller.user if per_user else EVERYBODY
        whose = caller.user if per_user or not caller.admin else None
        policies = Policies(self._store)
        versions = policies.visible(lineage)
        live, stopped = policies.lineages().get(lineage, (None, ""))
        kept = self._heard(whose)
        heard = kept.found
        metrics: Mapping[str, float] = versions[-1].metrics if versions else {}
        return {
            "object": "learning",
            "user": caller.user,
            "admin": caller.admin,
            "reactions": heard.heard,
            "liked": heard.liked,
            "disliked": heard.disliked,
            "neutral": heard.neutral,
            "window": heard.window,
            "before": heard.points[0].share if heard.points else None,
            "now": heard.points[-1].share if heard.points else None,
            "points": kept.points,
            "trust": metrics.get("trust"),
            "live": None if live is None else version_name(live),
            "versions": {
                state: sum(one.state == state for one in versions) for state in ("published", "rejected", "candidate")
            },
            "marks": [_mark(one, heard) for one in versions],
            "next_update": self._next(lineage) | {"stopped": stopped or None},
            "waiting_for_judge": waiting_for_judge(self._store, whose),
            "brakes": [
                {"what": what, "value": metrics.get(name), "least": _finite(least), "most": _finite(most)}
                for what, name, least, most in self._live.brakes
            ],
            "roles": {
                name: {"seen": told} | ({"trouble": trouble or None} if caller.admin else {})  # it may name users
                for name, (told, trouble) in roles(self._store).items()
            },
        }

    def _heard(self, user: str | None) -> "_Kept":
        judged, began = last_verdict(self._store), self._clock()
        kept = self._kept.get(user)
        if kept is None or began >= (kept.at + UNCHANGED_SECONDS if judged == kept.judged else kept.until):
            found = reactions(self._store, user)
            points = [asdict(point) | band(point.share, point.size) for point in found.points]
            kept = _Kept(found, points, judged, began, began + SECONDS_A_VERDICT * found.heard)
            self._kept[user] = kept
        return kept

    def _next(self, lineage: str) -> dict[str, Any]:
        """How many verdicts are missing until the next update."""
        waiting = Learning(self._store, round(self._live.holdout * BUCKETS)).waiting()
        if self._live.per_user:
            waiting = {user: mine for user, mine in waiting.items() if user == lineage}
        n = self._train.batch_turns
        counts = {user: mine.count for user, mine in waiting.items() if mine.count}
        usable = min(n, sum(quotas(counts, n, self._live.user_share).values()))
        held = sum(mine.held_out for mine in waiting.values())
        return {"of": n, "missing": n - usable, "waiting": sum(counts.values()), "held_out": held}


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was read, drawn, up to which verdict, when, and until when it does though there are later ones."""

    found: Reactions
    points: list[dict[str, Any]]
    judged: float
    at: float
    until: float


def band(share: float, size: int) -> dict[str, float]:
    """Wilson's interval for a share of `size` answers (JASA 22, 1927)."""
    z = CONFIDENCE**2 / size
    middle = (share + z / 2) / (1 + z)
    half = CONFIDENCE / (1 + z) * math.sqrt(share * (1 - share) / size + z / (4 * size))
    return {"low": max(0.0, middle - half), "high": min(1.0, middle + half)}


def _mark(version: Version, heard: Reactions) -> dict[str, Any]:
    """A version on the line of verdicts: behind the last of the points that are older."""
    older = bisect_right([point.at for point in heard.points], version.created)
    return {
        "name": version.name,
        "state": version.state,
        "created": version.created,
        "number": heard.points[older - 1].number if older else 0,
        "reason": version.reason or None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
