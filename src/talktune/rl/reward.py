"""The R of TCR: a soft penalty on answers that come close to the length limit (DAPO, arXiv 2503.14476).

Open it to see how an answer's length changes its reward.
"""

from typing import TYPE_CHECKING, Literal, cast, overload

if TYPE_CHECKING:
    from torch import Tensor


@overload
def overlong_reward(
    length: float, L_max: int = 1000, L_cache: int = 200, shape: Literal["linear", "quadratic"] = "linear"
) -> float: ...
@overload
def overlong_reward(
    length: "Tensor", L_max: int = 1000, L_cache: int = 200, shape: Literal["linear", "quadratic"] = "linear"
) -> "Tensor": ...
def overlong_reward(
    length: "float | Tensor",
    L_max: int = 1000,
    L_cache: int = 200,
    shape: Literal["linear", "quadratic"] = "linear",
) -> "float | Tensor":
    """The length penalty in [−1, 0] of an answer of `length` tokens, to be added to its reward.

    With n the length and start = L_max − L_cache: 0 for n <= start, −(n − start) / L_cache up to L_max, −1
    beyond; `quadratic` is minus the square of the same fraction. L_cache = 0 is a hard limit. A tensor of
    lengths gives a tensor of the same shape (of its own dtype where that is a float, torch's default one
    otherwise). ValueError for another shape, or an L_cache that is not in 0 … L_max.

    >>> [overlong_reward(n) for n in (800, 900, 1000)]
    [0.0, -0.5, -1.0]
    """
    if shape not in ("linear", "quadratic"):
        raise ValueError(f"shape is {shape!r}: it must be 'linear' or 'quadratic'")
    if not 0 <= L_cache <= L_max:
        raise ValueError(f"L_cache is {L_cache} and L_max {L_max}: L_cache must lie between 0 and L_max")
    if hasattr(length, "new_tensor"):  # a tensor, told without an import of torch
        return _each(cast("Tensor", length), L_max, L_cache, shape)
    return _penalty(float(length), L_max, L_cache, shape)


def _each(lengths: "Tensor", L_max: int, L_cache: int, shape: str) -> "Tensor":
    penalties = [_penalty(n, L_max, L_cache, shape) for n in lengths.flatten().tolist()]
    like = lengths if lengths.is_floating_point() else lengths.float()
    return like.new_tensor(penalties).reshape(lengths.shape)


def _penalty(n: float, L_max: int, L_cache: int, shape: str) -> float:
    start = L_max - L_cache
    if n <= start:
        return 0.0
    if n >= L_max:
        return -1.0
    fraction = (n - start) / L_cache
    return -fraction if shape == "linear" else -(fraction**2)
