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
