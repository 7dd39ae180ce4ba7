"""Stores for the store's tests: on SQLite, and on PostgreSQL where it is installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from talktune.store import schema
from talktune.store.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store, on SQLite and on PostgreSQL."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql")
        made = Store(url)
        with made.engine.begin() as c:
            schema.metadata.drop_all(c)
        made.close()
        made = Store(url)
    else:
        made = Store(tmp_path / "store.db")
    yield made
    made.close()
