"""Several processes and one database: the first of them to come makes its tables, and a restart is not noticed."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from talktune.errors import StoreDownError
from talktune.store import schema
from talktune.store.store import Store

AT_ONCE = 6


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_many_open_a_new_database_at_once(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    url = str(tmp_path / "new.db")
    if kind == "postgresql":
        url = request.getfixturevalue("postgresql")
        made = Store(url)
        with made.engine.begin() as c:
            schema.metadata.drop_all(c)
        made.close()
    started = threading.Barrier(AT_ONCE)
    opened: list[Store] = []
    failed: list[Exception] = []

    def start() -> None:
        started.wait()
        try:
            opened.append(Store(url))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with opened[0].reading() as c:
        assert list(c.execute(select(schema.steps.c.number)).scalars()) == list(range(len(schema.STEPS)))
    for store in opened:
        store.close()


def test_a_database_that_goes_and_comes_back(cluster: Any) -> None:
    store = Store(cluster.url)
    assert store.users() == set()
    cluster.stop()
    try:
        for _ in range(2):
            with pytest.raises(StoreDownError, match="cannot be reached"):
                store.users()
        with pytest.raises(StoreDownError):
            store.tell("judge", "", 0.0)
    finally:
        cluster.start()
    assert store.users() == set()
    cluster.stop()
    cluster.start()
    store.tell("judge", "", 0.0)  # the old connections are dead, and nobody has to know
    store.close()
