"""Measures of an answer's text: does it say one of some words, how much does it repeat.

Open it to see what the gate measures in a text.
"""

import re
from collections.abc import Sequence

RUN = 3
"""Words of a run that must not come again."""


def says(answer: str, accepted: Sequence[str]) -> bool:
    """Whether `answer` has one of the accepted words as a whole word, in any case."""
    said = answer.lower()
    return any(re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", said) for word in accepted)


def repetition(answer: str) -> float:
    """The share of runs of three words that were there before, 0 … 1."""
    words = re.findall(r"\w+", answer.lower())
    runs = [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
