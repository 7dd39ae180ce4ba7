"""A lease lives as long as its work, by the database's clock."""

import threading
import time
from pathlib import Path

from sqlalchemy import select

from talktune.store import schema
from talktune.store.queues import CLAIM_SECONDS, lease
from talktune.store.renewal import renewed
from talktune.store.store import Store


def until(store: Store) -> float:
    with store.reading() as c:
        return c.execute(select(schema.leases.c.until)).scalar_one()


def test_nobody_else_gets_a_lease_while_its_work_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    now = [0.0]
    store.now = lambda _: now[0]  # type: ignore[method-assign]
    assert lease(store, "learner", "elsewhere:1")
    with renewed("learner", lambda: lease(store, "learner", "elsewhere:1"), every=0.01):
        now[0] = CLAIM_SECONDS - 1
        deadline = time.monotonic() + 30
        while until(store) <= CLAIM_SECONDS and time.monotonic() < deadline:
            time.sleep(0.01)
        now[0] = CLAIM_SECONDS + 1
        assert not lease(store, "learner", "another:2")
    now[0] = until(store) + 1
    assert lease(store, "learner", "another:2")
    store.close()


def test_who_lost_a_lease_does_not_take_it_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    assert lease(store, "learner", "another:2")
    with renewed("learner", lambda: lease(store, "learner", "elsewhere:1"), every=0.01):
        time.sleep(0.1)
    assert lease(store, "learner", "another:2")
    store.close()


def test_a_dead_holder_on_another_machine_is_replaced_within_half_a_minute() -> None:
    assert CLAIM_SECONDS < 30


def test_the_first_lease_is_one_holders(store: Store) -> None:
    """Several machines that ask for a lease that nobody ever had, at one moment."""
    started = threading.Barrier(8)
    got: list[bool] = []

    def ask(number: int) -> None:
        started.wait()
        got.append(lease(store, "learner", f"machine{number}:1"))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]


def test_the_databases_own_time_counts(store: Store) -> None:
    with store.engine.begin() as c:
        assert abs(store.now(c) - time.time()) < 5  # it is on this machine
