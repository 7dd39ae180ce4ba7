"""Threads spin where the machine is theirs, and wait where others compute; what the user chose stays."""

import os
from typing import Any

import pytest

from talktune.commands.waiting import wait_as_needed


@pytest.mark.parametrize(
    ("load", "threads", "brief"),
    [(0.0, None, False), (0.4, None, False), (1.0, None, True), (9.0, None, True), (1.0, "1", False), (4.0, "1", True)],
)
def test_it_depends_on_who_else_computes(
    load: float, threads: str | None, brief: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    wait_as_needed()
    assert os.environ.get("GOMP_SPINCOUNT") == ("1000" if brief else None)


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_the_users_own_choice_stays(name: str, value: str, talktune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    assert talktune("--version").code == 0  # every command passes there
    assert {one: os.environ.get(one) for one in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if one in os.environ} == {
        name: value
    }
