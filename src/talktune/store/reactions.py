"""Verdicts in the order in which they were given: how much people liked the answers, over time.

Open it to see what the page's curve is made of.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, case, cast, func, select

from talktune.store import schema
from talktune.store.store import Store


@dataclass(frozen=True, slots=True)
class Point:
    """The share of the last `size` answers that were liked or disliked, up to the one of number `number`."""

    number: int
    at: float
    """When that verdict was given."""
    share: float
    size: int


@dataclass(frozen=True, slots=True)
class Reactions:
    """What was heard."""

    liked: int
    disliked: int
    neutral: int
    window: int
    """Of how many each point is the share."""
    points: tuple[Point, ...]

    @property
    def heard(self) -> int:
        """How many verdicts there are."""
        return self.liked + self.disliked + self.neutral


def reactions(store: Store, user: str | None, *, window: int = 40, points: int = 60) -> Reactions:
    """The verdicts on a user's turns (None: on everybody's), and the share of the last `window` that were liked.

    A neutral one is in no share. Where fewer than two windows were heard, the window is half of them, so that the
    first and the last point have no verdict in common. At most `points` + 1 points, evenly spaced, the last included.
    """
    with store.reading() as c:
        scored = _scored(user)
        signs = {row[0]: row[1] for row in c.execute(select(scored.c.sign, func.count()).group_by(scored.c.sign))}
        liked, disliked = signs.get(1, 0), signs.get(-1, 0)
        n = liked + disliked
        window = max(1, min(window, n // 2))
        found = _points(c, scored, n, window, max(1, -(-(n - window) // points))) if n else ()
    return Reactions(liked, disliked, signs.get(0, 0), window, tuple(found))


def _scored(user: str | None) -> Any:
    """The rows (at, turn, sign): a person's own word overrules."""
    t, f, v = schema.turns.c, schema.feedback.c, schema.verdicts.c
    reward, at = func.coalesce(f.score, v.reward), func.coalesce(f.created, v.created)
    sign = case((reward > 0, 1), (reward < 0, -1), else_=0).label("sign")
    query = (
        select(at.label("at"), t.id.label("turn"), sign)
        .select_from(schema.turns.outerjoin(schema.feedback).outerjoin(schema.verdicts))
        .where(t.kind == "main", reward.is_not(None))
    )
    return (query if user is None else query.where(t.user == user)).subquery()


def _points(c: Connection, scored: Any, n: int, window: int, step: int) -> list[Point]:
    order = (scored.c.at, scored.c.turn)
    one = case((scored.c.sign > 0, 1), else_=0)
    liked = cast(func.sum(one).over(order_by=order, rows=(1 - window, 0)), Integer)
    number = func.row_number().over(order_by=order)
    moving = select(number.label("number"), scored.c.at, liked.label("liked")).where(scored.c.sign != 0).subquery()
    m = moving.c
    query = select(m.number, m.at, m.liked).where(m.number >= window, (n - m.number) % step == 0).order_by(m.number)
    found = [Point(row.number, row.at, row.liked / window, window) for row in c.execute(query)]
    if found and found[0].number != window:  # the first window is what the last one is held against
        first = c.execute(select(m.number, m.at, m.liked).where(m.number == window)).one()
        found.insert(0, Point(first.number, first.at, first.liked / window, window))
    return found


def waiting_for_judge(store: Store, user: str | None) -> int:
    """How many turns of a user (None: of everybody) wait for their verdict."""
    query = select(func.count()).select_from(schema.judging)
    if user is not None:
        query = query.join(schema.turns, schema.turns.c.id == schema.judging.c.turn).where(schema.turns.c.user == user)
    with store.reading() as c:
        return c.execute(query).scalar() or 0


def roles(store: Store) -> dict[str, tuple[float, str]]:
    """When each role was last seen at work, and why it does nothing right now (empty where it does)."""
    r = schema.roles.c
    with store.reading() as c:
        return {row.name: (row.told, row.trouble) for row in c.execute(select(r.name, r.told, r.trouble))}
