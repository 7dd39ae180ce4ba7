"""`talktune policies`: versions in a store, from the command line."""

import json
from datetime import datetime
from typing import Any

from talktune.commands.console import out, table, warn
from talktune.commands.stores import open_database
from talktune.store.policies import EVERYBODY, Policies, Version


def list_versions(store: str, as_json: bool) -> int:
    """`policies list`."""
    opened = open_database(store)
    policies = Policies(opened)
    live = {number for number, _ in policies.lineages().values()}
    versions = policies.versions()
    if as_json:
        print(json.dumps([_row(version, version.number in live) for version in versions]))
        return 0
    rows = [
        (
            version.name,
            "live" if version.number in live else version.state,
            "" if version.parent is None else version.parent,
            version.lineage or "everybody",
            _reward(version),
            _when(version.created),
            version.reason,
        )
        for version in versions
    ]
    table("Versions", ("version", "state", "parent", "of", "reward", "made", "reason"), rows)
    for name, (number, stopped) in policies.lineages().items():
        if number is None:
            warn(f"{name or 'Everybody'}: the model serves as it was.")
        if stopped:
            warn(f"{name or 'Everybody'}: learning is stopped ({stopped}); promote a version or roll back to go on.")
    opened.close()
    return 0


def show(store: str, number: int) -> int:
    """`policies show`."""
    opened = open_database(store)
    policies = Policies(opened)
    version = policies.version(number)
    live = {found for found, _ in policies.lineages().values()}
    out.print_json(json.dumps(_row(version, number in live)))
    opened.close()
    return 0


def promote(store: str, number: int) -> int:
    """`policies promote`."""
    opened = open_database(store)
    version = Policies(opened).promote(number)
    out.print(f"{version.name} serves {version.lineage or 'everybody'} from the next request on.", highlight=False)
    opened.close()
    return 0


def rollback(store: str, user: str | None) -> int:
    """`policies rollback`."""
    opened = open_database(store)
    version = Policies(opened).rollback(user or EVERYBODY)
    name = "the model as it was" if version is None else version.name
    out.print(f"{name} serves {user or 'everybody'} from the next request on.", highlight=False)
    opened.close()
    return 0


def _row(version: Version, live: bool) -> dict[str, Any]:
    return {
        "number": version.number,
        "name": version.name,
        "state": version.state,
        "live": live,
        "parent": version.parent,
        "user": version.lineage or None,
        "reason": version.reason,
        "path": str(version.path),
        "created": version.created,
        "gate": dict(version.measures),
        "metrics": dict(version.metrics),
    }


def _reward(version: Version) -> str:
    reward = version.metrics.get("reward_mean")
    return "" if reward is None else f"{reward:+.2f}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%m-%d %H:%M:%S")
