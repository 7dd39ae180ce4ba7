"""Benchmarks that start themselves again begin each of their measurements."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"


def test_every_variant_of_the_memory_bench_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    memory: Any = importlib.import_module("memory")
    asked: list[tuple[str, str, int]] = []
    monkeypatch.setattr(memory, "work", lambda *what: asked.append(what) or {"seconds": 0.0})
    wanted = [("small", variant, 32) for variant in memory.VARIANTS]
    for one in wanted:
        told = memory.command(*one)
        monkeypatch.setattr(sys, "argv", told[told.index(memory.__file__) :])
        memory.main()
        assert json.loads(capsys.readouterr().out) == {"seconds": 0.0}
    assert asked == wanted


def test_the_simulation_of_queues_loses_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    scale: Any = importlib.import_module("scale")
    site = scale.Site()
    for rate, users, per_user in ((2_000.0, 20, False), (100_000.0, 20, False), (2_000.0, 40, True)):
        turns = scale.arrivals(rate, users, 1.0, 0)
        told = scale.simulate(turns, site, per_user=per_user)
        assert told.learned + told.dropped + told.waiting == told.turns == len(turns)
        assert sum(told.sizes) == told.learned
        assert max(told.staleness) <= scale.OLDEST
    busy = scale.simulate(scale.arrivals(2_000.0, 20, 1.0, 0), site, per_user=False)
    a, b = site.update_seconds
    assert busy.busy == pytest.approx(busy.updates * (a + site.gate_seconds) + b * busy.learned)
