from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.lab.alignment import (
    Setting,
    alignment,
    best_weight,
    fresh_energy,
    full_weight,
    simulate,
    turns_of,
    verdict_energy,
)
from talktune.lab.fresh_answers import foretold_with, setting_of, world_of

SETTINGS = st.builds(
    Setting, st.integers(1, 20), st.integers(2, 20), st.integers(3, 64), st.integers(2, 32), st.floats(1.0, 9.0)
)
SKILL = st.floats(0.0, 0.95)


@pytest.mark.parametrize("fresh", [2, 6])
@pytest.mark.parametrize("skill", [0.0, 0.6])
def test_the_simulation_agrees_with_the_closed_form(fresh: int, skill: float) -> None:
    world, setting = world_of(3), setting_of(fresh)
    gradients = simulate(world, foretold_with(skill, world, 7), setting, 2000, 11)
    for simulated, exact in (
        (gradients.judged, verdict_energy(setting.turns, setting)),
        (gradients.fresh, fresh_energy(setting)),
    ):
        energy = simulated.square().sum(1)
        assert abs(energy.mean().item() - exact) < 3 * energy.std().item() / len(energy) ** 0.5
    for weight in (0.0, 1.0, best_weight(setting, skill), full_weight(setting)):
        q, error = gradients.alignment(weight)
        assert abs(q - alignment(setting, skill, weight)) < 3 * error < 0.05 * q + 0.003


@given(SETTINGS, SKILL, st.floats(0.0, 50.0))
def test_no_weight_is_better_than_the_best(setting: Setting, skill: float, weight: float) -> None:
    best = best_weight(setting, skill)
    assert alignment(setting, skill, weight) <= alignment(setting, skill, best) + 1e-12
    assert 0 <= alignment(setting, skill, weight) <= 1
    assert best_weight(setting, 0.0) == 0


@given(SETTINGS, SKILL)
def test_many_fresh_answers_alone_are_as_right_as_the_model_is(setting: Setting, skill: float) -> None:
    many = replace(setting, turns=10**6, fresh=10**4)
    assert alignment(many, skill, 1e9) == pytest.approx(skill**2, abs=1e-3)


@given(SETTINGS)
def test_verdicts_that_are_worth_themselves(setting: Setting) -> None:
    q = alignment(setting, 0.5, 0.0)
    assert turns_of(q, setting) == pytest.approx(setting.turns)
