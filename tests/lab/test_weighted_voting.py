import pytest

from talktune.config import LabConfig
from talktune.lab.weighted_voting import exact_accuracy, measure, panel, rules
from talktune.rl.votes import majority_accuracy, majority_vote


def test_enumeration_gives_the_closed_form_for_equal_judges() -> None:
    found = rules(panel(0.0))
    for name in ("plain", "weighted"):
        assert exact_accuracy(panel(0.0), found[name]) == pytest.approx(majority_accuracy(0.7, 5), abs=1e-12)


def test_weights_help_when_judges_differ_and_a_boast_costs() -> None:
    judges = panel(0.25)
    exact = {name: exact_accuracy(judges, rule) for name, rule in rules(judges).items()}
    assert exact["weighted"] > exact["plain"] > exact["boaster"]
    assert exact["plain"] == exact_accuracy(judges, majority_vote)


def test_the_simulation_agrees_with_the_enumeration() -> None:
    points = measure(LabConfig(trials=4000))
    assert points
    assert all(point.inside for point in points.values())
