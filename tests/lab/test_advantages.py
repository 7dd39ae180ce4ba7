import numpy as np

from talktune.config import LabConfig
from talktune.lab.advantages import GROUPS, SIZE, measure


def test_groups_are_centred_scaled_or_flat() -> None:
    found = measure(LabConfig(seed=3))
    assert found.rewards.shape == found.advantages.shape == (GROUPS, SIZE)
    flat = (found.rewards == found.rewards[:, :1]).all(axis=1)
    assert flat.sum() == found.flat > 0
    assert not found.advantages[flat].any()
    np.testing.assert_allclose(found.advantages.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(found.advantages[~flat].std(axis=1, ddof=1), 1, atol=1e-12)
    assert np.abs(found.advantages).max() <= (SIZE - 1) / SIZE**0.5 + 1e-12
    assert set(found.rewards[found.shown].tolist()) == {-1, 0, 1}
