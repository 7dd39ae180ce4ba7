"""The judge beside a server: it takes turns whose next state has arrived, the oldest first, and stores verdicts.

Open it to see what happens to turns while the judge is down.

An outage leaves turns waiting: no verdict is written, and the worker asks again later, twice as late each time.
"""

import time
from collections.abc import Callable

from talktune.judge.panel import Judge, judge_turns
from talktune.store.queues import Judging
from talktune.store.renewal import renewed
from talktune.store.store import Store

AT_ONCE = 16
"""Turns that are judged together."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a judge that is down is asked again."""


class JudgeWorker:
    """Judges what waits in a store, a few turns at a time."""

    def __init__(
        self,
        store: Store,
        judge: Judge,
        votes: int,
        *,
        exact: bool = False,
        clock: Callable[[], float] = time.time,
        owner: str | None = None,
    ) -> None:
        """`votes` is m; `exact` asks for the judge's distribution instead."""
        self.queue = Judging(store, owner)
        self.judge = judge
        self.votes = votes
        self.exact = exact
        self.judged = 0
        self.trouble = ""
        """Why the judge gives no votes right now."""
        self._clock = clock
        self._pause = FIRST_PAUSE
        self._not_before = 0.0

    def step(self, limit: int = AT_ONCE) -> bool:
        """Judge up to `limit` turns; False when there was nothing to do, or the judge gave nothing."""
        if self._clock() < self._not_before:
            return False
        if not self.queue.waiting():
            return False
        claimed = self.queue.claim(limit)
        if self.trouble:  # is the judge down, or are just these turns beyond it? the newest one tells
            claimed += self.queue.claim(1, newest=True)
        if not claimed:
            return False
        began = time.perf_counter()
        with renewed("judge", lambda: self.queue.renew([c.id for c in claimed])):
            verdicts = judge_turns(self.judge, [c.turn for c in claimed], self.votes, exact=self.exact)
        cost = (time.perf_counter() - began) / len(claimed)
        good = [(c, v) for c, v in zip(claimed, verdicts, strict=True) if v.reward is not None]
        failed = [(c, v) for c, v in zip(claimed, verdicts, strict=True) if v.reward is None]
        for one, verdict in good:
            self.judged += self.queue.settle(one.id, verdict, cost, self._clock())
        if failed and not good:  # nothing came of it: the judge is down
            self.trouble = next((vote.reason for vote in failed[0][1].votes if vote.reason), "it gave no valid vote")
            self.queue.give_back([one.id for one, _ in failed])
            self._not_before = self._clock() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return False
        for one, _ in failed:
            self.queue.postpone(one.id)
        self.trouble, self._pause = "", FIRST_PAUSE
        return True
