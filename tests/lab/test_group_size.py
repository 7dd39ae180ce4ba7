import pytest

from talktune.config import LabConfig
from talktune.lab.group_size import ANSWERS, SIZES, expected_variance, gradient_variance, jobs


def test_every_size_samples_the_same_number_of_answers() -> None:
    found = jobs(LabConfig(seeds=2))
    assert {job.asked * job.answers for job in found} == {ANSWERS}
    assert sorted({job.answers for job in found}) == list(SIZES)


def test_small_groups_have_the_noisier_gradient() -> None:
    variance = gradient_variance(LabConfig(seed=100), pool=24)
    ratio = variance[2] / variance[16]
    assert ratio == pytest.approx(expected_variance(2) / expected_variance(16), rel=0.35)
    assert variance[2] > variance[4] > variance[16] > 0
