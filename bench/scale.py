"""What breaks first when more people talk? The live loop as a simulation of queues: turns a day, staleness, adapters.

Turns come at random (Poisson), their reactions a while later; judges take them in order, then the learner: an update
of n turns takes A + B·n seconds (`--update A B`), then its gate. How many turns an update takes is decided by the
learner's own `turns_of_update`. With adapters of their own each user is a lineage; engines hold so many adapters that
the one used longest ago makes room for another.

    python bench/scale.py                     one adapter for everybody, then one for each user
    python bench/scale.py --check STORE       a real store's verdicts, as they came, through the simulation

The second puts what was simulated beside what the store's learner did, for a store of one lineage with a learner that
worked (`bench/personalize.py --keep`).
"""

import argparse
import heapq
import json
import random
import sqlite3
import statistics
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from math import ceil
from pathlib import Path

from common import keep
from rich.console import Console
from rich.table import Table

from talktune.config import AlgorithmConfig, LiveTrainConfig
from talktune.live.batches import turns_of_update

DAY = 86_400.0
BATCH = LiveTrainConfig().batch_turns
OLDEST = AlgorithmConfig().max_staleness
REACTION = 60.0
"""Mean seconds from an answer to the next message."""


@dataclass(frozen=True)
class Site:
    """Machines and how long they take."""

    judges: int = 4
    """Turns that are judged at once."""
    judge_seconds: float = 2.0
    update_seconds: tuple[float, float] = (5.0, 1.0)
    """Of an update: always, and for each turn."""
    gate_seconds: float = 20.0
    learners: int = 1
    """Each with a store of its own: users are dealt out among them."""
    slots: int = 2
    """Adapters that the engines hold at once (`--max-loras`)."""
    load_seconds: float = 0.05
    """To bring another adapter to the GPU."""


@dataclass
class Told:
    """What happened."""

    turns: int = 0
    learned: int = 0
    dropped: int = 0
    updates: int = 0
    staleness: list[int] = field(default_factory=list[int])
    heard: list[float] = field(default_factory=list[float])
    """Seconds from each answer until a version that learned from it was live."""
    busy: float = 0.0
    """Seconds in which a learner worked, over all learners."""
    judging: float = 0.0
    waiting: int = 0
    """Turns that had no update at the end."""
    loads: int = 0
    sizes: list[int] = field(default_factory=list[int])
    """Turns of each update."""


@dataclass(frozen=True, order=True)
class Verdict:
    """A judged turn."""

    at: float
    answered: float
    user: int
    version: int


def arrivals(rate: float, users: int, days: float, seed: int) -> list[tuple[float, int]]:
    """When each turn is answered, and whose it is; `rate` in turns a day."""
    draw = random.Random(seed)
    at, found = 0.0, list[tuple[float, int]]()
    while (at := at + draw.expovariate(rate / DAY)) < days * DAY:
        found.append((at, draw.randrange(users)))
    return found


def simulate(turns: Sequence[tuple[float, int]], site: Site, *, per_user: bool, seed: int = 0) -> Told:
    """Turns with their times and users through judges, learners and engines."""
    draw = random.Random(seed)
    told = Told(turns=len(turns))
    free = [0.0] * site.judges
    lives: dict[int, list[float]] = {}
    """Of each lineage: when each version went live."""
    slots: OrderedDict[tuple[int, int], None] = OrderedDict()
    reactions: list[tuple[float, float, int]] = []
    for answered, user in turns:
        heapq.heappush(reactions, (answered + draw.expovariate(1 / REACTION), answered, user))
    judged: list[tuple[float, float, int]] = []
    while reactions:
        at, answered, user = heapq.heappop(reactions)
        begins = max(at, heapq.heappop(free))
        heapq.heappush(free, begins + site.judge_seconds)
        told.judging += site.judge_seconds
        judged.append((begins + site.judge_seconds, answered, user))
    for learner in range(site.learners):
        mine = [one for one in judged if one[2] % site.learners == learner]
        _learn(mine, site, told, lives, per_user=per_user)
    for answered, user in turns:  # which adapters the engines bring
        lineage = user if per_user else 0
        version = _version(lives.get(lineage, []), answered)
        if version:
            if (lineage, version) not in slots:
                told.loads += 1
            slots[lineage, version] = None
            slots.move_to_end((lineage, version))
            if len(slots) > site.slots:
                slots.popitem(last=False)
    return told


def _version(lives: Sequence[float], at: float) -> int:
    """The version that answers at this time."""
    return bisect_right(lives, at)


def _learn(
    judged: Sequence[tuple[float, float, int]], site: Site, told: Told, lives: dict[int, list[float]], *, per_user: bool
) -> None:
    """One learner: a lineage with enough turns at a time, the first by name, as `Batches.due` takes it."""
    waiting: dict[int, deque[Verdict]] = {}
    ready: set[int] = set()
    coming = deque(sorted(judged))
    now = 0.0
    while True:
        while coming and coming[0][0] <= now:
            at, answered, user = coming.popleft()
            lineage = user if per_user else 0
            queue = waiting.setdefault(lineage, deque())
            queue.append(Verdict(at, answered, user, _version(lives.get(lineage, []), answered)))
            if len(queue) >= BATCH:
                ready.add(lineage)
        if not ready:
            if not coming:
                break
            now = coming[0][0]
            continue
        lineage = min(ready)
        queue, published = waiting[lineage], lives.setdefault(lineage, [])
        next_ones = [len(published) - one.version for one in islice(queue, BATCH)]
        age = max(1, ceil(statistics.mean(next_ones))) if len(queue) > BATCH else 1
        n = turns_of_update(len(queue), BATCH, OLDEST, age)
        taken = [queue.popleft() for _ in range(min(n, len(queue)))]
        fresh = [one for one in taken if len(published) - one.version <= OLDEST]
        told.dropped += len(taken) - len(fresh)
        if len(fresh) < len(taken):  # the rest goes back, as `Batches.take` leaves it
            queue.extendleft(reversed(fresh))
        else:
            a, b = site.update_seconds
            took = a + b * len(taken) + site.gate_seconds
            now += took
            told.busy += took
            told.updates += 1
            told.learned += len(taken)
            told.sizes.append(len(taken))
            told.staleness += [len(published) - one.version for one in taken]
            published.append(now)
            told.heard += [now - one.answered for one in taken]
        if len(queue) < BATCH:
            ready.discard(lineage)
    told.waiting += sum(map(len, waiting.values()))


def row(name: str, told: Told, site: Site, days: float) -> list[str]:
    """A line of the table."""
    quantile = sorted(told.heard)[int(0.95 * len(told.heard))] if told.heard else float("nan")
    return [
        name,
        f"{told.learned / max(told.turns, 1):.0%}",
        f"{told.dropped / max(told.turns, 1):.0%}",
        f"{told.waiting}",
        f"{told.updates / days:.0f}",
        f"{statistics.mean(told.staleness):.1f}" if told.staleness else "-",
        f"{statistics.median(told.heard) / 60:.0f} / {quantile / 60:.0f}" if told.heard else "-",
        f"{told.busy / (days * DAY * site.learners):.0%}",
        f"{told.judging / (days * DAY * site.judges):.0%}",
        f"{told.loads / max(told.turns, 1):.0%}",
    ]


def check(store: Path, site: Site, console: Console) -> None:
    """The same verdicts through the simulation and as the store's learner took them."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as c:
        judged = c.execute(
            "select v.created, t.created from verdicts v join turns t on t.id = v.turn order by v.created"
        ).fetchall()
        metrics = [json.loads(one) for (one,) in c.execute("select metrics from updates order by number")]
        sizes = [n for (n,) in c.execute('select count(*) from update_turns group by "update" order by "update"')]
        live = c.execute(
            "select min(t.created) from turns t where t.policy_version is not null group by t.policy_version"
        ).fetchall()
        made = c.execute("select created from versions where state = 'published' order by number").fetchall()
    seconds = statistics.mean(one["seconds"] for one in metrics)
    # Until somebody asks, nobody sees that a version is live: the shortest wait has the least of that in it.
    gates = [first - begun for (first,), (begun,) in zip(live, made, strict=False)]
    start = min(answered for _, answered in judged)
    told = Told(turns=len(judged))
    mean = statistics.mean(sizes)
    given = Site(update_seconds=(0.0, seconds / mean), gate_seconds=min(gates, default=0.0))
    _learn([(at - start, answered - start, 0) for at, answered in judged], given, told, {}, per_user=False)
    table = Table("", "updates", "turns an update", "staleness, mean", title=f"{store}: {len(judged)} verdicts")
    stale = sum(one["staleness"] * n for one, n in zip(metrics, sizes, strict=True)) / sum(sizes)
    table.add_row("the store", str(len(sizes)), f"{mean:.1f}", f"{stale:.2f}")
    size, old = statistics.mean(told.sizes), statistics.mean(told.staleness)
    table.add_row("simulated", str(told.updates), f"{size:.1f}", f"{old:.2f}")
    console.print(table)
    console.print(f"update {seconds:.0f} s, gate and the first answer {given.gate_seconds:.0f} s at most, as measured")


def main() -> None:
    """Both tables, or the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, help="a store in which a learner has worked")
    parser.add_argument("--update", type=float, nargs=2, default=(5.0, 1.0), metavar=("A", "B"))
    parser.add_argument("--gate", type=float, default=20.0, help="seconds")
    parser.add_argument("--judges", type=int, default=4)
    parser.add_argument("--judge-seconds", type=float, default=2.0)
    parser.add_argument("--turns-a-day", type=float, nargs="+", default=[1e3, 1e4, 5e4, 1e5, 3e5])
    parser.add_argument("--users", type=int, nargs="+", default=[10, 100, 1000, 5000])
    parser.add_argument("--turns-of-user", type=float, default=20.0, help="a day")
    parser.add_argument("--learners", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--slots", type=int, default=32, help="adapters at once, where users have their own")
    parser.add_argument("--days", type=float, default=2.0)
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    console = Console()
    site = Site(
        judges=args.judges,
        judge_seconds=args.judge_seconds,
        update_seconds=tuple(args.update),
        gate_seconds=args.gate,
    )
    if args.check:
        check(args.check, site, console)
        return
    columns = ("", "learned", "too old", "wait", "updates a day", "staleness", "heard after, min (p50 / p95)",
               "learner busy", "judges busy", "adapter loads a turn")  # fmt: skip
    rows: list[dict[str, object]] = []
    table = Table(*columns, title="One adapter for everybody")
    for rate in args.turns_a_day:
        told = simulate(arrivals(rate, 50, args.days, 0), site, per_user=False)
        table.add_row(*row(f"{rate:,.0f} turns a day", told, site, args.days))
        rows.append({"rate": rate, "per_user": False} | _plain(told))
    console.print(table)
    table = Table(*columns, title=f"An adapter for each user, {args.turns_of_user:g} turns a day each")
    for users in args.users:
        for learners in args.learners:
            there = Site(**asdict(site) | {"learners": learners, "slots": args.slots})
            turns = arrivals(users * args.turns_of_user, users, args.days, 0)
            told = simulate(turns, there, per_user=True)
            table.add_row(*row(f"{users:,} users, {learners} learners", told, there, args.days))
            rows.append({"users": users, "learners": learners, "per_user": True} | _plain(told))
    console.print(table)
    keep(args.output, {"site": asdict(site), "rows": rows})


def _plain(told: Told) -> dict[str, object]:
    return {name: value for name, value in asdict(told).items() if not isinstance(value, list)}


if __name__ == "__main__":
    main()
