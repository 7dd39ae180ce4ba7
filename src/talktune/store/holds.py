"""Tells which versions' files are still needed: those that serve or may soon, and those that a server holds.

Open it to see why a version's files are kept or gone.
"""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import delete, insert, select, update

from talktune.store import schema
from talktune.store.policies import Policies, Version, ancestry
from talktune.store.store import Store

HOLD_SECONDS = 120.0
"""How long a server's word is good: it renews it while it lives."""


def hold(store: Store, owner: str, versions: Collection[int], now: float) -> None:
    """Note that `owner` needs these versions, and no others, from now on."""
    h = schema.holds
    with store.engine.begin() as c:
        c.execute(delete(h).where((h.c.owner == owner) | (h.c.until <= now)))
        if versions:
            rows = [{"version": number, "owner": owner, "until": now + HOLD_SECONDS} for number in sorted(versions)]
            c.execute(insert(h), rows)


def needed(
    versions: Sequence[Version], lives: Mapping[str, int | None], held: Collection[int], keep: int
) -> frozenset[int]:
    """The versions whose files must stay.

    Of each lineage the newest `keep` (at least the live one and the one that a rollback goes to) and as many of the
    live one's ancestors, every candidate, and what is held.
    """
    parents = {one.number: one.parent for one in versions}
    stay = {one.number for one in versions if one.state == "candidate"} | set(held)
    for lineage in {one.lineage for one in versions}:
        stay.update(sorted(one.number for one in versions if one.lineage == lineage)[-keep:])
    for live in lives.values():
        stay.update(ancestry(live, parents)[: max(2, keep)])
    return frozenset(stay)


def prune(store: Store, keep: int, now: float) -> list[Version]:
    """Mark the versions that nobody needs as pruned; returns all that are, whose files may go."""
    policies, v, h, s = Policies(store), schema.versions, schema.holds.c, schema.lineages.c
    versions = policies.versions()
    with store.engine.begin() as c:
        # Whoever makes an old version live looks at the same rows, before or after.
        c.execute(select(v.c.number).with_for_update()).all()
        held = c.execute(select(h.version).where(h.until > now)).scalars().all()
        lives = {row.name: row.live for row in c.execute(select(s.name, s.live))}
        stay = needed(versions, lives, held, keep)
        gone = [one for one in versions if one.number not in stay]
        fresh = [one.number for one in gone if not one.pruned]
        if fresh:
            c.execute(update(v).where(v.c.number.in_(fresh), v.c.pruned.is_(None)).values(pruned=now))
    return [one for one in versions if one.pruned or one in gone]
