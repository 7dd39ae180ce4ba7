"""Arrays of token ids and log-probs as bytes: little-endian, four bytes a token.

Open it to read such a column by hand.
"""

import sys
from array import array
from collections.abc import Sequence


def ids_to_bytes(ids: Sequence[int]) -> bytes:
    """Token ids (N,) to 4 N bytes; OverflowError for one outside of 0 … 2³² − 1."""
    return _to_bytes(array("I", ids))


def ids_from_bytes(data: bytes) -> tuple[int, ...]:
    """The inverse of `ids_to_bytes`."""
    return tuple(int(value) for value in _from_bytes("I", data))


def floats_to_bytes(values: Sequence[float]) -> bytes:
    """Numbers (N,) to 4 N bytes, rounded to float32, which is what engines compute them in."""
    return _to_bytes(array("f", values))


def floats_from_bytes(data: bytes) -> tuple[float, ...]:
    """The inverse of `floats_to_bytes`."""
    return tuple(_from_bytes("f", data))


def _to_bytes(values: "array[int] | array[float]") -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _from_bytes(kind: str, data: bytes) -> "array[int] | array[float]":
    values = array(kind, data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
