"""A plain Python function as the judge: `turn -> label`, `None`, or `(label, confidence)`.

Open it to see what such a function may return.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from talktune.errors import UserError
from talktune.types import Label, Turn, Vote

Answer = Label | tuple[Label, float] | None
"""−1, 0 or +1; or the label with its confidence in (0, 1]; or `None` for a vote that cannot be given."""


class CallJudge:
    """Calls a function once a vote; its exceptions and wrong answers become failed votes with a reason."""

    def __init__(self, function: Callable[[Turn], Answer], name: str | None = None) -> None:
        """Judge with a function object."""
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)

    def vote(self, asks: Sequence[tuple[Turn, int]]) -> list[Vote]:
        """One vote for each (turn, vote number), in the same order; the function does not see the number."""
        return [self._vote(turn) for turn, _ in asks]

    def _vote(self, turn: Turn) -> Vote:
        try:
            answer = self.function(turn)
            return Vote(*_label_and_confidence(answer), judge=self.name)
        except Exception as error:
            return Vote(None, judge=self.name, reason=f"{self.name}: {type(error).__name__}: {error}")


def load_function(name: str) -> Callable[[Turn], Answer]:
    """The function that `package.module:function` names, looked for in the working directory too.

    Raises UserError when the module cannot be imported, or has no such function.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UserError(f"Judge {name!r} is not of the form package.module:function.")
    directory = str(Path.cwd())
    if directory not in sys.path:  # an installed console script does not look there
        sys.path.insert(0, directory)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"Judge {name!r}: module {module_name!r} cannot be imported ({problem}).") from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UserError(f"Judge {name!r}: module {module_name!r} has no function {attribute!r}.")
    return cast(Callable[[Turn], Answer], found)


def _label_and_confidence(answer: Any) -> tuple[Label | None, float | None]:
    if answer is None:
        raise ValueError("returned None, which is no vote")
    pair = cast(tuple[Any, ...], answer) if isinstance(answer, tuple) else (answer, None)
    if len(pair) != 2:
        raise ValueError(f"returned {answer!r}, not a label or (label, confidence)")
    label, confidence = pair
    if isinstance(label, bool | str) or label not in (-1, 0, 1):
        raise ValueError(f"returned {answer!r}: a label is -1, 0 or 1")
    if confidence is not None and not 0.0 < confidence <= 1.0:
        raise ValueError(f"returned {answer!r}: a confidence is above 0 and at most 1")
    return cast(Label, int(label)), None if confidence is None else float(confidence)
