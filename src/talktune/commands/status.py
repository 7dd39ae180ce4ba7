"""`talktune status`: the live system on one screen, read from its store."""

import json
import time
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from talktune.commands.console import out
from talktune.commands.options import AsJson, Store
from talktune.store.opening import open_store
from talktune.terminal import say

if TYPE_CHECKING:
    from talktune.store.store import Store as Opened

BARS = "▁▂▃▄▅▆▇█"
SECONDS = 1.0
SILENT_SECONDS = 600.0
"""A role that said nothing for so long is not at work; one that is says so between two steps, which take minutes."""


def status(*, store: Store = "talktune.db", watch: bool = False, as_json: AsJson = False) -> int:
    """What waits, what is judged, the reward over time, the versions: one screen.

    Parameters
    ----------
    watch
        Show it again and again, until Ctrl-C.
    """
    from rich.live import Live

    opened = open_store(store)
    if as_json:
        say(json.dumps(_found(opened)))
    elif watch:
        with Live(_screen(_found(opened)), console=out, auto_refresh=False) as shown:
            try:
                while True:
                    time.sleep(SECONDS)
                    shown.update(_screen(_found(opened)), refresh=True)
            except KeyboardInterrupt:
                pass
    else:
        out.print(_screen(_found(opened)))
    opened.close()
    return 0


def _found(store: "Opened") -> dict[str, Any]:
    from talktune.store.overview import overview
    from talktune.store.policies import Policies

    policies = Policies(store)
    versions = policies.versions()
    return overview(store) | {
        "versions": {
            state: sum(v.state == state for v in versions) for state in ("candidate", "published", "rejected")
        },
        "rejected": [{"version": v.name, "reason": v.reason} for v in versions if v.state == "rejected"][-3:],
        "live": {name: number for name, (number, _) in policies.lineages().items()},
        "stopped": {name: why for name, (_, why) in policies.lineages().items() if why},
    }


def _screen(found: dict[str, Any]) -> Group:
    counts = Table("", "number", title="talktune", title_justify="left")
    counts.columns[1].justify = "right"
    judged = sum(found["judged"].values())
    for what, number in (
        ("conversations", found["conversations"]),
        ("turns", found["turns"]),
        (
            "  of no known history, of several",
            f"{found['lost'].get('unknown', 0)}, {found['lost'].get('ambiguous', 0)}",
        ),
        ("  without a reaction", found["without_reaction"]),
        ("wait for the judge", found["waiting_for_judge"]),
        ("judged", judged),
        ("  bad, neutral, good", ", ".join(str(found["judged"].get(key, 0)) for key in ("-1", "+0", "+1"))),
        ("  votes each", f"{found['votes'] / judged:.1f}" if judged else ""),
        ("by a person", found["feedback"]),
        ("wait for the learner, or are held out", found["waiting_for_learner"]),
        ("learned from", found["learned"]),
        *((f"  left out: {why}", number) for why, number in found["dropped"].items()),
        ("updates", found["updates"]),
        ("versions published, rejected", f"{found['versions']['published']}, {found['versions']['rejected']}"),
    ):
        counts.add_row(what, str(number))
    lines = [Text(f"live for {name or 'everybody'}: {_name(number)}") for name, number in found["live"].items()]
    lines += [Text(line) for line in (*_stopped(found), *_roles(found))]
    lines += [Text(f"{one['version']} was rejected: {one['reason']}") for one in found["rejected"]]
    if found["last_updates"] and found["last_updates"][-1]["version"] is None:
        lines.append(Text("the last update made no version: from its verdicts, all alike, nothing can be learned"))
    for name, what in (("reward_mean", "reward"), ("response_length", "length"), ("kl_ref", "KL to the base")):
        values = [update[name] for update in found["last_updates"] if name in update]
        if values:
            lines.append(Text(f"{what:>15} {_sparks(values[-60:])}  {values[-1]:+.2f}"))
    return Group(counts, *lines)


def _stopped(found: dict[str, Any]) -> list[str]:
    return [
        f"learning of {name or 'everybody'} is stopped: {why}; `talktune policies promote` or `rollback` lets it go on"
        for name, why in found["stopped"].items()
    ]


def _roles(found: dict[str, Any]) -> list[str]:
    """Why nothing is judged or learned, where that is so, and what the next update waits for."""
    lines: list[str] = []
    for role, waits, command in (("judge", "waiting_for_judge", "judge"), ("learner", "waiting_for_learner", "learn")):
        seen = found["roles"].get(role)
        if seen is None or time.time() - seen["told"] > SILENT_SECONDS:
            if found[waits]:
                lines.append(f"no {role} is at work on this store: start `talktune serve` or `talktune {command}`")
        elif seen["trouble"]:
            told = [part for part in seen["trouble"].split("; ") if not part.startswith("learning of ")]
            lines += [f"{role}: {'; '.join(told)}"] if told else []  # what is stopped is said already
        elif role == "learner":
            lines.append("learner: it makes an update, or examines what came of one")
    return lines


def _name(number: int | None) -> str:
    return "the model as it was" if number is None else f"version {number}"


def _sparks(values: list[float]) -> str:
    low, high = min(values), max(values)
    spread = high - low or 1.0
    return "".join(BARS[int((value - low) / spread * (len(BARS) - 1))] for value in values)
