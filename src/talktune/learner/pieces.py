"""Long work as a generator: each `next()` is one piece, and between two of them others may use the model."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

T = TypeVar("T")


def run_through(pieces: Generator[None, None, T]) -> T:
    """All pieces at once; what they return."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def within(
    context: Callable[[], AbstractContextManager[Any]], pieces: Generator[None, None, T]
) -> Generator[None, None, T]:
    """The same pieces, each inside of a fresh `context()`, which is left between them."""
    while True:
        with context():
            try:
                next(pieces)
            except StopIteration as end:
                return end.value
        yield
