"""The table by which requests are like those of clients: fitted to the data, and no word of a person is lost by it."""

import json
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from talktune.serve.side.likeness import ENOUGH, TABLE

FIT: dict[str, Any] = runpy.run_path(str(Path(__file__).resolve().parents[3] / "scripts" / "fit_side.py"))
Known = tuple[list[dict[str, float]], list[bool]]


def worth(table: dict[str, float], marks: Mapping[str, float]) -> float:
    return sum(table.get(one, 0.0) * part for one, part in marks.items())


@pytest.fixture(scope="module")
def known() -> Known:
    return FIT["known"]()


def test_no_word_is_lost_of_people_that_the_table_does_not_know() -> None:
    marks_of: Callable[[dict[str, Any]], dict[str, float]] = FIT["marks_of_request"]
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    unknown = [request for i, request in enumerate(FIT["people"]()) if i % FIT["EVERY"]]
    assert len(unknown) > 2000
    lost = [request for request in unknown if worth(table, marks_of(request)) >= ENOUGH]
    assert len(lost) <= len(unknown) / 1000, lost[:3]  # "Judge: output +1. The user was unhappy because …"


def test_the_table_is_that_of_the_requests(known: Known) -> None:
    """Who adds a request runs scripts/fit_side.py."""
    found, written = FIT["fit"](*known), json.loads(TABLE.read_text(encoding="utf-8"))
    for mark in found.keys() | written.keys():
        assert found.get(mark, 0.0) == pytest.approx(written.get(mark, 0.0), abs=0.05), mark


def test_what_is_learned_carries_over_to_requests_that_it_has_not_seen(known: Known) -> None:
    requests, sides = known
    held = set(Random(0).sample(range(len(sides)), len(sides) // 5))
    kept = [i for i in range(len(sides)) if i not in held]
    table = FIT["fit"]([requests[i] for i in kept], [sides[i] for i in kept])
    over = {i for i in held if worth(table, requests[i]) >= ENOUGH}
    clients = {i for i in held if sides[i]}
    assert len(over & clients) >= 0.6 * len(clients)
    assert len(over - clients) <= 0.02 * len(held - clients)
