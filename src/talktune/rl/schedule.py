"""Values that change during training: the upper clip range, and the learning rate of a live update.

Open it to see how large a step an update takes.
"""

from collections.abc import Sequence
from math import cos, pi
from typing import Literal


def eps_high_at(
    step: int,
    total: int,
    start: float,
    end: float | None = None,
    kind: Literal["constant", "linear", "cosine"] = "constant",
) -> float:
    """ε_high of update `step` (0 … total − 1): `start` at the first update, `end` at the last and after it.

    With f = step / (total − 1) in [0, 1]: `linear` is start + (end − start) f, `cosine` is start + (end −
    start)(1 − cos πf) / 2, `constant` is start, and so is everything without an end. ValueError for another
    kind.
    """
    if kind not in ("constant", "linear", "cosine"):
        raise ValueError(f"kind is {kind!r}: it must be 'constant', 'linear' or 'cosine'")
    if kind == "constant" or end is None or total <= 1:
        return start
    fraction = min(max(step / (total - 1), 0.0), 1.0)
    if kind == "cosine":
        fraction = (1 - cos(pi * fraction)) / 2
    return (1 - fraction) * start + fraction * end


LEAST_PACE = 0.1
"""A person who is content may change their mind."""


def headroom(rewards: Sequence[float]) -> float:
    """The share of the learning rate that a live update takes: 1 − max(0, mean reward), at least 0.1.

    Rewards are in [−1, 1]. Who likes most answers has little to teach, and what is left of the gradient is noise, which
    an optimizer that scales by the gradient's own size (Adam) follows with steps as long as ever. 1 without rewards.
    """
    mean = sum(rewards) / len(rewards) if rewards else 0.0
    return max(LEAST_PACE, 1.0 - max(0.0, mean))
