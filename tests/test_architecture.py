"""The walk through the code names what is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WALK = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## The words")[0]
NAMED = re.findall(r"`([\w/]+/\w+\.py)`\s+`([\w.]+)`", WALK)


def names(path: Path) -> set[str]:
    """Functions, classes and methods of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{m.name}" for m in node.body if isinstance(m, (ast.FunctionDef, ast.AsyncFunctionDef))
            }
    return found


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_the_walk_names_is_there(file: str, name: str) -> None:
    assert name in names(ROOT / "src" / "talktune" / file)


def test_it_is_a_walk_of_at_most_twenty_steps() -> None:
    steps = [int(number) for number in re.findall(r"^(\d+)\. ", WALK, re.MULTILINE)]
    assert steps == list(range(1, len(steps) + 1))
    assert 10 <= len(steps) <= 20
    assert len(NAMED) >= len(steps)
