from talktune.config import LabConfig
from talktune.lab.voting import ACCURACIES, MOST_VOTES, measure
from talktune.rl.votes import majority_accuracy


def test_every_simulated_point_lies_in_its_own_band() -> None:
    points = measure(LabConfig())
    assert len(points) == len(ACCURACIES) * MOST_VOTES
    for (p, m), point in points.items():
        assert point.exact == majority_accuracy(p, m)
        assert point.high < point.low + 0.02
        assert point.inside, point
