"""A lease lives as long as its work."""

import time
from pathlib import Path

from sqlalchemy import select

from talktune.live.renewal import renewed
from talktune.store import schema
from talktune.store.queues import lease
from talktune.store.reactions import roles
from talktune.store.store import Store


def until(store: Store) -> float:
    with store.reading() as c:
        return c.execute(select(schema.leases.c.until)).scalar_one()


def test_nobody_else_gets_a_lease_while_its_work_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    now = [0.0]
    assert lease(store, "learner", "elsewhere:1", now[0], seconds=120)
    with renewed(store, "learner", "elsewhere:1", lambda: now[0], every=0.01):
        now[0] = 119.0
        deadline = time.monotonic() + 30
        while until(store) < 200 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not lease(store, "learner", "another:2", 121.0)
        assert "learner" in roles(store)
    assert lease(store, "learner", "another:2", until(store) + 1)
    store.close()


def test_who_lost_a_lease_does_not_take_it_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    assert lease(store, "learner", "another:2", 0.0)
    with renewed(store, "learner", "elsewhere:1", lambda: 1.0, every=0.01):
        time.sleep(0.1)
        assert not lease(store, "learner", "elsewhere:1", 1.0)
    assert lease(store, "learner", "another:2", 1.0)
    store.close()
