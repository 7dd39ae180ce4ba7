"""The table of metrics and their merge."""

import pytest

from talktune.rl.metrics import METRICS, merge


def test_means_are_weighted_by_tokens_sums_added_maxima_taken() -> None:
    parts = [
        {"loss": 0.25, "ratio_mean": 1.0, "ratio_max": 1.5, "kl_ref": 0.1, "tokens": 30.0},
        {"loss": -0.5, "ratio_mean": 2.0, "ratio_max": 1.25, "tokens": 10.0},
        {"loss": 0.0, "tokens": 0.0},
    ]
    assert merge(parts) == {
        "loss": -0.25,
        "ratio_mean": 1.25,
        "ratio_max": 1.5,
        "kl_ref": 0.1,
        "tokens": 40.0,
    }


def test_what_belongs_to_the_whole_update_is_not_merged() -> None:
    with pytest.raises(ValueError, match="'grad_norm' cannot be merged"):
        merge([{"grad_norm": 1.0, "tokens": 1.0}])
    with pytest.raises(ValueError, match="'typo' cannot be merged"):
        merge([{"typo": 1.0, "tokens": 1.0}])


def test_every_metric_has_a_unit_and_a_meaning() -> None:
    assert all(name == metric.name and metric.unit and metric.meaning for name, metric in METRICS.items())
    assert {
        *("loss", "objective", "reward_mean", "reward_std", "votes_agreement", "advantage_mean"),
        *(
            "length_penalty_mean",
            "ratio_mean",
            "ratio_max",
            "clipped_low",
            "clipped_high",
            "kl_ref",
            "entropy",
        ),
        *("response_length", "tokens", "tokens_per_second", "grad_norm", "learning_rate", "eps_high"),
        *("skipped_groups", "staleness", "seconds"),
    } <= set(METRICS)
