"""Whose turn it is: one computes at a time, the urgent first, nobody for ever."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from talktune.policy.turnstile import ClosedError, Role, Turnstile


class Clock:
    """Seconds that pass only where somebody computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def until(holds: Callable[[], Any]) -> None:
    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def waiting(turnstile: Turnstile, role: Role) -> int:
    return turnstile._waiting[role]


def race(turnstile: Turnstile, roles: dict[Role, tuple[int, float]], clock: Clock) -> list[Role]:
    """Each role computes so often, for so many seconds; who computed, in order. All wait before the first begins."""
    order: list[Role] = []
    turnstile.enter(Role.FRESH_ANSWERS)
    threads: list[threading.Thread] = []
    done: list[Role] = []

    def compute(role: Role, times: int, seconds: float) -> None:
        """A step of answers is a turn; learning passes by between its layers."""
        lane = turnstile.lane(role)
        lane.__enter__()
        for left in reversed(range(times)):
            order.append(role)
            clock.now += seconds
            until(lambda: all(waiting(turnstile, other) or other in done for other in roles if other is not role))
            if left and role is Role.ANSWERS:
                lane.__exit__()
                lane.__enter__()
            elif left:
                lane.pass_by()
        done.append(role)
        lane.__exit__()

    for role, (times, seconds) in roles.items():
        threads.append(threading.Thread(target=compute, args=(role, times, seconds)))
        threads[-1].start()
        until(lambda role=role: waiting(turnstile, role))
    turnstile.leave(Role.FRESH_ANSWERS)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return order


def test_among_the_others_the_most_urgent_goes_first() -> None:
    clock = Clock()
    order = race(Turnstile(clock), {Role.LEARNER: (1, 1.0), Role.JUDGE: (1, 1.0)}, clock)
    assert order == [Role.JUDGE, Role.LEARNER]


@settings(max_examples=20)
@given(st.sampled_from([0.25, 1.0, 3.0]), st.sampled_from([0.25, 1.0, 3.0]))
def test_answers_and_learning_get_the_same_time(answer: float, layer: float) -> None:
    clock = Clock()
    counts = {Role.ANSWERS: (int(12 / answer), answer), Role.LEARNER: (int(12 / layer), layer)}
    order = race(Turnstile(clock), counts, clock)
    spent = dict.fromkeys(counts, 0.0)
    while min(counts[role][0] - spent[role] / counts[role][1] for role in counts) > 0:  # both still have some to do
        role = order.pop(0)
        spent[role] += counts[role][1]
        assert abs(spent[Role.ANSWERS] - spent[Role.LEARNER]) <= 2 * max(answer, layer)


def test_one_computes_at_a_time_and_all_come_through() -> None:
    turnstile = Turnstile()
    inside: list[Role] = []
    worst: list[int] = []
    done: list[Role] = []

    def compute(role: Role) -> None:
        lane = turnstile.lane(role)
        for _ in range(50):
            with lane:
                for _ in range(3):
                    inside.append(role)
                    worst.append(len(inside))
                    inside.remove(role)
                    lane.pass_by()
        done.append(role)

    threads = [threading.Thread(target=compute, args=(role,)) for role in Role]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == list(Role)
    assert max(worst) == 1


def test_learning_stops_between_two_layers_for_an_answer() -> None:
    """A layer takes as long as a step of answers, so that they take turns at each of the three layers."""
    clock = Clock()
    turnstile = Turnstile(clock)
    learning = turnstile.lane(Role.LEARNER)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.tensor([[1, 2, 3]])
    expected = torch.autograd.grad(model(ids, labels=ids).loss, list(model.parameters()))
    stops: list[int] = []
    ending = threading.Event()

    def answer() -> None:
        while not ending.is_set():
            with turnstile.lane(Role.ANSWERS):
                stops.append(1)
                clock.now += 1.0

    def a_layer_has_passed(*_: Any) -> None:
        until(lambda: waiting(turnstile, Role.ANSWERS))
        clock.now += 1.0

    for layer in model.model.layers:
        layer.register_forward_pre_hook(a_layer_has_passed)
        layer.register_forward_hook(lambda _module, _inputs, hidden: hidden.register_hook(a_layer_has_passed) and None)
    learning.stop_between_layers(model)
    thread = threading.Thread(target=answer)
    with learning:
        thread.start()
        loss = model(ids, labels=ids).loss
        assert len(stops) == 3
        found = torch.autograd.grad(loss, list(model.parameters()))
        assert len(stops) == 6
    ending.set()
    thread.join(20)
    assert not thread.is_alive()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_outside_of_its_turn_nobody_passes_by() -> None:
    turnstile = Turnstile()
    with turnstile.lane(Role.ANSWERS):
        turnstile.lane(Role.LEARNER).pass_by()
        turnstile.leave(Role.LEARNER)
        assert turnstile._holder is Role.ANSWERS


def test_a_closed_turnstile_lets_nobody_through() -> None:
    turnstile = Turnstile()
    heard: list[str] = []

    def wait() -> None:
        try:
            with turnstile.lane(Role.JUDGE):
                heard.append("through")
        except ClosedError:
            heard.append("closed")

    learning = turnstile.lane(Role.LEARNER)
    thread = threading.Thread(target=wait)
    with learning:
        thread.start()
        until(lambda: waiting(turnstile, Role.JUDGE))
        turnstile.close()
        with pytest.raises(ClosedError):
            learning.pass_by()
    thread.join(20)
    assert heard == ["closed"]
