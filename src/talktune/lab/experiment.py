"""What every experiment of the lab is: an idea, and a function that measures it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from talktune.config import LabConfig


@dataclass(frozen=True, slots=True)
class Finding:
    """What one experiment found."""

    columns: Sequence[str]
    """Headings of the table, units included."""
    rows: Sequence[Sequence[object]]
    """The table that is printed and stands on the page."""
    numbers: Mapping[str, Any]
    """The numbers behind table and picture, as JSON."""
    figure: Figure
    """The picture: labelled axes with units, legible at README width, safe for the colour-blind."""
    conclusion: str
    """One or two sentences with the measured numbers in them, also when the idea did not help."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One idea of the course and how it is measured; its name is that of its module."""

    title: str
    idea: str
    """What it is about and why, in a few plain sentences."""
    formula: str
    """The formula in plain text; empty where there is none."""
    look_at: str
    """What to look at in the picture."""
    source: str
    """Paper or source, with its address."""
    run: Callable[[LabConfig, Callable[[str], None]], Finding]
    """Measures it; the second argument hears what is being done (for the progress line)."""
