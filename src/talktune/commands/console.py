"""What commands share on the terminal: one console, a progress bar, short tables, warnings to stderr."""

import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from talktune.terminal import printable, speaks

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

ENDLESS = 100_000
"""Columns of a pipe."""


class _Plain(Console):
    """A console whose own styles are all that steers the terminal: everything printed goes through `render`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


out = _Plain(quiet=not speaks())
err = _Plain(stderr=True, quiet=not speaks())


def progress() -> "Progress":
    """A progress bar on stderr: a spinner, what is being done, how much of it, how long it took and will take."""
    # Not with --help.
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
    )


@contextmanager
def progress_shown() -> "Generator[Callable[[str, int, int], None]]":
    """A progress bar that is told what is being done, how many are done, and of how many; none before it is told."""
    bar = progress()
    task: TaskID | None = None
    last = 0

    def show(what: str, done: int, total: int) -> None:
        nonlocal task, last
        if task is None:
            bar.start()
            task = bar.add_task(what, total=total)
        elif done < last:  # something else began
            bar.reset(task)
        last = done
        bar.update(task, description=what, completed=done, total=total)

    try:
        yield show
    finally:
        if task is not None:  # one that never started would end with an empty line
            bar.stop()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a small table; cells are plain text, never markup.

    The first column's names are never broken; in a pipe or a file, which has no width, no cell is.
    """
    made = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 else "right", overflow="fold", no_wrap=i == 0)
    for row in rows:
        made.add_row(*(_escape(cell) for cell in row))
    if not out.is_terminal:
        made.width = out.measure(made, options=out.options.update(max_width=ENDLESS)).maximum
    out.print(made, crop=False)


def side_by_side(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print texts beside each other, wrapped."""
    made = Table(title=title, title_justify="left", show_lines=True)
    for column in columns:
        made.add_column(column, overflow="fold", ratio=1)
    for row in rows:
        made.add_row(*(_escape(cell) for cell in row))
    out.print(made)


def plain(text: str) -> str:
    """Text that somebody else wrote, without the characters by which it could command the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def warn(text: object) -> None:
    """One line on stderr."""
    err.print(str(text), markup=False, highlight=False, soft_wrap=True)


def peak_memory_gib() -> float:
    """The most memory that this process has held so far, in GiB (resident set)."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _escape(cell: object) -> str:
    text = f"{cell:.3g}" if isinstance(cell, float) else str(cell)
    return text.replace("[", r"\[")
