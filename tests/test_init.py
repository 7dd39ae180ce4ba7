"""The public names: all there, and none of them costs an import of torch before it is used."""

import subprocess
import sys

import pytest

import talktune

NAMES = [
    "clip_higher",
    "compute_grpo_advantages",
    "grpo_tcr_loss",
    "majority_vote",
    "overlong_reward",
    "vote_distribution",
    "weighted_vote",
]


def test_every_public_name_is_there() -> None:
    assert {*NAMES, "__version__"} == set(talktune.__all__)
    assert set(talktune.__all__) <= set(dir(talktune))
    for name in NAMES:
        assert getattr(talktune, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = talktune.nothing


def test_import_needs_no_torch() -> None:
    code = (
        "import sys, talktune; talktune.majority_vote([1]); talktune.overlong_reward(900); "
        "talktune.vote_distribution((0.2, 0.3, 0.5), 3); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
