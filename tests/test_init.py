"""The public names: all there, and none of them costs an import of torch before it is used."""

import subprocess
import sys

import pytest

import talktune

HEAVY = ("torch", "transformers", "peft", "matplotlib", "sqlalchemy", "numpy")


def test_every_public_name_is_there() -> None:
    assert set(talktune.__all__) <= set(dir(talktune))
    for name in set(talktune.__all__) - {"__version__"}:
        assert getattr(talktune, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = talktune.nothing


def test_what_needs_no_torch_loads_none() -> None:
    code = (
        "import sys, talktune; talktune.majority_vote([1]); talktune.overlong_reward(900); "
        "talktune.vote_distribution((0.2, 0.3, 0.5), 3); talktune.TrainConfig(); talktune.load_conversations; "
        f"talktune.ScoredTurns; talktune.EndpointJudge; print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
