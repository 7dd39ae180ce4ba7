"""The examples in the docstrings of all public names, run in one folder, in the order in which one would try them."""

import doctest
import shutil
from pathlib import Path

import pytest

import talktune

EXAMPLES = Path(__file__).parents[2] / "examples"
FIRST = ("load_conversations", "score", "ScoredTurns", "train", "read_run", "evaluate", "compare")
"""Later ones look at the run that `train` leaves."""
PLAIN = {"Conversation", "Message", "Turn", "UserError", "__version__"}
"""Nouns, which the examples of others use; so are the config classes."""


def test_the_examples_of_all_public_names_are_true(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    public = {name: getattr(talktune, name) for name in talktune.__all__}
    plain = PLAIN | {name for name in public if name.endswith("Config")}
    runner = doctest.DocTestRunner()
    finder = doctest.DocTestFinder(recurse=False)
    for name in (*FIRST, *sorted(public.keys() - {*FIRST, *plain})):
        extra = {**public, "tiny_model": str(tiny_model)}
        [test] = finder.find(public[name], name, extraglobs=extra)
        assert test.examples, f"{name} has no example"
        failed, _ = runner.run(test)
        assert not failed, f"the example of {name} is not true (above)"
