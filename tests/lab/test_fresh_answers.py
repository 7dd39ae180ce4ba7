import pytest
import torch

from talktune.config import LabConfig
from talktune.lab.bandit import Arm, Judged, run
from talktune.lab.fresh_answers import (
    AGAIN,
    ALONE,
    FIRST,
    HELD,
    ONCE,
    PROMPTS_ONLY,
    TRAP_ALONE,
    WITHIN,
    Runs,
    foretold_with,
    learn,
    likes_length,
    setting_of,
    trap_world,
    world_of,
)
from talktune.lab.picture import mean


@pytest.fixture(scope="module")
def runs() -> Runs:
    return learn(LabConfig(seed=100, seeds=3))


def _after(runs: Runs, name: str, *, trusted: bool) -> float:
    return mean([curve.opinion[-1] for curve in runs[name, trusted]])


def test_a_world_is_what_the_closed_form_takes_it_for() -> None:
    world, setting = world_of(5), setting_of(6)
    within = world.opinions.var(1, correction=0)
    assert world.opinions.mean().item() == pytest.approx(0)
    assert (1 / within).tolist() == pytest.approx([setting.noise] * setting.prompts)
    for skill in (0.0, 0.6):
        table = foretold_with(skill, world, 1)
        for row, opinions in zip(table, world.opinions, strict=True):
            assert torch.corrcoef(torch.stack([row, opinions]))[0, 1].item() == pytest.approx(skill, abs=1e-12)


def test_without_skill_belief_ruins_and_earned_trust_costs_nothing(runs: Runs) -> None:
    alone = _after(runs, ALONE, trusted=True)
    assert _after(runs, "skill 0", trusted=False) < alone - 0.25
    assert abs(_after(runs, "skill 0", trusted=True) - alone) < 0.1
    assert mean([mean(curve.trust) for curve in runs["skill 0", True]]) < 0.1


def test_skill_pays_and_earns_its_trust(runs: Runs) -> None:
    alone = _after(runs, ALONE, trusted=True)
    assert _after(runs, "skill 0.3", trusted=False) < alone
    assert _after(runs, "skill 0.6", trusted=True) > alone + 0.08
    assert _after(runs, "skill 0.9", trusted=True) > alone + 0.12
    trust = [mean([mean(c.trust) for c in runs[f"skill {skill}", True]]) for skill in (0, 0.3, 0.6, 0.9)]
    assert trust == sorted(trust)


def test_who_knows_prompts_only_is_trusted_unless_measured_within_a_prompt(runs: Runs) -> None:
    alone = _after(runs, ALONE, trusted=True)
    assert _after(runs, PROMPTS_ONLY, trusted=True) < alone - 0.05
    assert mean([mean(curve.trust) for curve in runs[PROMPTS_ONLY, True]]) > 0.2
    assert mean([mean(curve.trust) for curve in runs[WITHIN, True]]) < 0.1
    assert abs(_after(runs, WITHIN, trusted=True) - alone) < 0.1


def test_belief_in_length_runs_off_and_trust_catches_it(runs: Runs) -> None:
    believed = runs[ONCE, False]
    best = mean([max(curve.opinion) for curve in believed])
    assert _after(runs, ONCE, trusted=False) < best - 0.2
    top = max(range(25), key=lambda i: mean([curve.opinion[i] for curve in believed]))
    assert mean([curve.predicted[-1] for curve in believed]) > mean([curve.predicted[top] for curve in believed])
    alone = _after(runs, TRAP_ALONE, trusted=True)
    for name in (ONCE, AGAIN):
        assert abs(_after(runs, name, trusted=True) - alone) < 0.1
    for name in (ONCE, HELD, AGAIN):
        assert _after(runs, name, trusted=False) < alone - 0.3


def test_a_run_depends_on_its_seed_only() -> None:
    world = trap_world()
    arm = Arm(lambda judged: likes_length(judged, world))
    assert run(world, arm, 4, 1).opinion == run(world, arm, 4, 1).opinion != run(world, arm, 4, 2).opinion


def test_length_is_fitted_to_the_first_verdicts_or_to_all() -> None:
    world = trap_world()
    answers = torch.arange(FIRST + 8) % 8
    rising = torch.where(answers > 3, 1.0, -1.0)
    judged = Judged(torch.zeros_like(answers), answers, rising, torch.zeros(len(answers)))
    table, first = likes_length(judged, world), likes_length(judged, world, FIRST)
    assert table is not None
    assert first is not None
    assert (table.diff(dim=1) > 0).all()
    turned = torch.cat([rising[:FIRST], -rising[FIRST:]])  # what came later is seen by the new fit only
    later = Judged(judged.prompts, answers, turned, judged.foretold)
    kept, new = likes_length(later, world, FIRST), likes_length(later, world)
    assert kept is not None
    assert new is not None
    assert torch.equal(kept, first)
    assert new[0, -1] < table[0, -1]
    assert likes_length(judged, world, len(answers) + 1) is None
