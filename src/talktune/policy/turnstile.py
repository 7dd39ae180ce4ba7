"""A scheduler for threads that share one device: it decides between two layers whose computation goes on.

Open it when an answer waits for learning.

Threads that compute at the same time slow each other down on one device. So each of them computes in its turn only,
and who is less urgent lets others go first between two layers: an answer never waits for a whole pass of learning.
"""

import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from talktune.policy.view import decoder_layers

SHARE = 0.5
"""Share of the time that judging and learning may take while answers are sampled."""
HOLD = 0.1
"""Seconds that answers wait at most, and the rest of a layer, before they go on for a step; as long as a step, where
that is longer."""


class Role(IntEnum):
    """Those who compute on the device, the most urgent first."""

    ANSWERS = 0
    """Answers that somebody waits for."""
    JUDGE = 1
    LEARNER = 2
    FRESH_ANSWERS = 3
    """Answers that nobody waits for: those to the gate's probes, and those that are learned from."""


class ClosedError(Exception):
    """There are no more turns: the process is ending."""


class Turnstile:
    """Lets one role compute at a time.

    Answers and the other roles take turns by time: whoever had less than their share goes first. Among the other
    roles the most urgent one goes first.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Nobody computes yet; `clock` gives seconds."""
        self._clock = clock
        self._free = threading.Condition()
        self._waiting = dict.fromkeys(Role, 0)
        self._holder: Role | None = None
        self._closed = False
        self._began = 0.0
        self._asked = 0.0
        """Since when answers wait."""
        self._debt = 0.0
        """Seconds that the other roles owe to answers; less than 0 is what answers owe to them."""
        self._step = 0.0
        """Seconds that a step of answers takes, about."""
        self._answers_next = False
        """True when others have just had their turn while answers waited."""

    def lane(self, role: Role) -> "Lane":
        """The lane of this role: what it uses to compute in its turn."""
        return Lane(self, role)

    def enter(self, role: Role) -> None:
        """Wait until it is this role's turn; not to be nested in one thread. Raises ClosedError."""
        with self._free:
            self._enter(role)

    def leave(self, role: Role) -> None:
        """Give up this role's turn, if it still has it."""
        with self._free:
            if self._holder is role:
                self._leave()

    def close(self) -> None:
        """End all turns: whoever waits, or asks again, gets ClosedError."""
        with self._free:
            self._closed = True
            self._free.notify_all()

    def pass_by(self, role: Role) -> None:
        """Let every more urgent role compute first; does nothing where it is not this role's turn."""
        with self._free:
            if self._holder is role and (self._closed or self._must_yield(role)):
                self._leave()
                self._enter(role)

    def _enter(self, role: Role) -> None:
        if role is Role.ANSWERS:
            self._asked = self._clock()
        self._waiting[role] += 1
        try:
            self._free.wait_for(lambda: self._closed or (self._holder is None and self._goes_first(role)))
        finally:
            self._waiting[role] -= 1
        if self._closed:
            raise ClosedError
        self._holder, self._began = role, self._clock()

    def _leave(self) -> None:
        now = self._clock()
        self._answers_next = self._holder is not Role.ANSWERS
        if self._holder is Role.ANSWERS:
            took = now - self._began
            self._step = 0.9 * self._step + 0.1 * took if self._step else took
            earned = took * SHARE / (1 - SHARE)
            self._debt = self._debt - earned if self._others_wait() else max(self._debt - earned, 0.0)
        elif self._waiting[Role.ANSWERS]:
            self._debt += now - max(self._began, self._asked)
        else:
            self._debt = 0.0
        self._holder = None
        self._free.notify_all()

    def _goes_first(self, role: Role) -> bool:
        """Whether nobody else who waits goes before `role`."""
        if role is Role.ANSWERS:
            return self._answers_next or self._debt > 0 or not self._others_wait()
        urgent = any(self._waiting[other] for other in Role if Role.ANSWERS < other < role)
        answers = self._waiting[Role.ANSWERS] and (self._answers_next or self._debt > 0)
        return not (urgent or answers)

    def _must_yield(self, role: Role) -> bool:
        """Whether somebody who waits goes before the role whose turn it is."""
        if role is Role.ANSWERS:
            return False
        if any(self._waiting[other] for other in Role if Role.ANSWERS < other < role):
            return True
        had = self._clock() - max(self._began, self._asked)
        return bool(self._waiting[Role.ANSWERS]) and (self._debt + had > 0 or had > max(HOLD, self._step))

    def _others_wait(self) -> bool:
        return any(self._waiting[role] for role in Role if role is not Role.ANSWERS)


class Lane:
    """One role's access to the device: `with lane:` around what computes, `lane.pass_by()` where it may pause."""

    def __init__(self, turnstile: Turnstile, role: Role) -> None:
        """Of `role` at this turnstile."""
        self._turnstile, self._role = turnstile, role

    def __enter__(self) -> None:
        self._turnstile.enter(self._role)

    def __exit__(self, *_raised: object) -> None:
        self._turnstile.leave(self._role)

    def pass_by(self, *_: object) -> None:
        """Let every more urgent role compute first."""
        self._turnstile.pass_by(self._role)

    def stop_between_layers(self, model: Any) -> None:
        """Call `pass_by` between the decoder layers of `model`, both ways; where there are none it runs whole."""

        def on_the_way_back(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.requires_grad:
                hidden.register_hook(self.pass_by)

        for layer in decoder_layers(model) or ():
            layer.register_forward_pre_hook(self.pass_by)
            layer.register_forward_hook(on_the_way_back)
