"""Which numbers an option takes, said in its type: `Count` is an int of 1 or more. Open it for a new kind of number."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, get_args


@dataclass(frozen=True)
class Range:
    """Which numbers an option takes: an interval, whose ends are in it or not."""

    low: float = -math.inf
    high: float = math.inf
    ends: str = "[]"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        return above and (value <= self.high if self.ends[1] == "]" else value < self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{self.low} or more" if self.ends[0] == "[" else f"greater than {self.low}"
        if self.ends == "[]":
            return f"between {self.low} and {self.high}"
        return f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Real = Annotated[float, Range()]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, ends="(]")]
Share = Annotated[float, Range(0, 1)]
SomeShare = Annotated[float, Range(0, 1, "(]")]
NotAll = Annotated[float, Range(0, 1, "[)")]


def range_of(kind: Any) -> Range | None:
    """The range that a type holds somewhere: `Count`, `Count | None`, `tuple[Real, Real]`."""
    return kind if isinstance(kind, Range) else next(filter(None, map(range_of, get_args(kind))), None)
