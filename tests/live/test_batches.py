"""How many turns an update takes, and what becomes of those that come faster than it can."""

from hypothesis import given
from hypothesis import strategies as st

from talktune.live.batches import MOST_TIMES, turns_of_update


@given(st.integers(0, 2000), st.integers(1, 64), st.integers(2, 8))
def test_an_update_takes_more_rather_than_letting_turns_grow_old(waiting: int, usual: int, stale: int) -> None:
    n = turns_of_update(waiting, usual, stale)
    assert usual <= n <= MOST_TIMES * usual
    if n < MOST_TIMES * usual and waiting:
        assert (waiting - 1) // n + 1 <= max(stale, 1)
    if waiting <= usual * (stale - 1):
        assert n == usual, "updates are no larger than need be"


@given(st.integers(0, 2000), st.integers(1, 64), st.integers(2, 8), st.integers(1, 8))
def test_the_older_turns_come_the_more_an_update_takes(waiting: int, usual: int, stale: int, age: int) -> None:
    n = turns_of_update(waiting, usual, stale, age)
    assert turns_of_update(waiting, usual, stale, max(1, age - 1)) <= n <= MOST_TIMES * usual
    if n < MOST_TIMES * usual and waiting and age < stale:
        assert age + (waiting - 1) // n <= stale, "the last that waits is not too old when its update comes"


@given(st.integers(1, 16), st.floats(0.5, 3.5))
def test_with_turns_that_come_faster_than_updates_none_is_dropped(usual: int, pace: float) -> None:
    """`pace` times as many turns come in an update's time as it usually takes; each update makes a version."""
    queue: list[int] = []
    came = 0.0
    dropped = 0
    for version in range(60):
        came += pace * usual
        queue += [version] * int(came)
        came -= int(came)
        n = turns_of_update(len(queue), usual, 4)
        taken, queue = queue[:n], queue[n:]
        dropped += sum(version - of > 4 for of in taken)
    assert dropped == 0
