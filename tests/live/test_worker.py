"""How long a role waits before it tries again."""

from collections.abc import Callable

from talktune.live.worker import FIRST_PAUSE, LEASE_PAUSE, Worker
from talktune.store.learning import LostLeaseError
from talktune.store.queues import CLAIM_SECONDS


def waits(step: Callable[[], bool], count: int = 6) -> list[float]:
    """The pauses of a worker between its first steps."""
    made = Worker("learner", step, lambda: "", lambda _name, _trouble: None)
    found: list[float] = []

    def wait(seconds: float) -> bool:
        found.append(seconds)
        if len(found) == count:
            made.stop()
        return False

    made._stopped.wait = wait  # type: ignore[method-assign]
    made.run()
    return found


def test_who_waits_for_a_lease_asks_often_enough_to_follow_a_dead_holder_within_half_a_minute() -> None:
    def step() -> bool:
        raise LostLeaseError

    assert waits(step) == [LEASE_PAUSE] * 6
    assert CLAIM_SECONDS + LEASE_PAUSE < 30


def test_what_fails_is_tried_again_twice_as_late_each_time() -> None:
    def step() -> bool:
        raise RuntimeError("broken")

    assert waits(step) == [FIRST_PAUSE * 2**i for i in range(6)]
