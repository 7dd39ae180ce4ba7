"""Threads spin only briefly, whatever the command; what the user chose stays."""

import os
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        (None, None, {"GOMP_SPINCOUNT": "1000"}),
        ("GOMP_SPINCOUNT", "7", {"GOMP_SPINCOUNT": "7"}),
        ("OMP_WAIT_POLICY", "active", {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_every_command_lets_threads_spin_briefly(
    name: str | None, value: str, found: dict[str, str], talktune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(one, raising=False)
    if name is not None:
        monkeypatch.setenv(name, value)
    assert talktune("--version").code == 0  # every command passes there
    assert {one: os.environ[one] for one in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if one in os.environ} == found
