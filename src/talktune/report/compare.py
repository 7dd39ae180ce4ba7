"""Runs beside each other: what they were set to, what came out, what it cost, and one plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from talktune.errors import UserError
from talktune.report.plots import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    comparable,
    figure_label,
    moving_average,
    new_figure,
    smoothing,
    styled,
)
from talktune.report.read_run import Run, read_run
from talktune.report.stored import read_store
from talktune.store.opening import is_store

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
"""A seventh run has the first colour in the second style."""
LAST = 3
"""Over how many updates a final metric is the mean."""
FINAL = (
    ("reward_mean", "reward"),
    ("response_length", "answer length (tokens)"),
    ("kl_ref", "KL (nats per token)"),
    ("entropy", "entropy (nats per token)"),
    ("votes_agreement", "agreement of votes"),
    ("trust", "trust in the preference model"),
)
DRAWN = (
    ("reward_mean", "Reward", "mean reward"),
    ("response_length", "Answer length", "tokens"),
    ("kl_ref", "KL to the reference", "nats per token"),
    ("entropy", "Entropy", "nats per token"),
)


@dataclass(frozen=True)
class Comparison:
    """A table of some runs, one a column, and the plot of them."""

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """What is compared, then a cell for each run; settings that are alike in all are left out."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not known of the runs."""
        return tuple(note for run in self.runs for note in run.notes)

    def __str__(self) -> str:
        table = [("", *self.names), *self.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)

    def plot(self) -> Figure:
        """Draw reward, answer length, KL and entropy over the updates, a line a run.

        A notebook shows it; `savefig` writes it to a file.
        """
        figure = new_figure(width=9.0, height=5.8)
        n = len(COLOURS)
        looks: list[tuple[str, Any]] = [(COLOURS[i % n], STYLES[i // n % len(STYLES)]) for i in range(len(self.runs))]
        for place, (metric, title, unit) in enumerate(DRAWN, start=1):
            axes = figure.add_subplot(2, 2, place)
            axes.set_title(title)
            axes.set_ylabel(unit)
            axes.set_xlabel("update")
            for run, (colour, style) in zip(self.runs, looks, strict=True):
                xs, ys = run.series(metric)
                width = smoothing(len(xs))
                axes.plot(xs, moving_average(ys, width), color=colour, linestyle=style, linewidth=1.8)
                # A run of one update has nothing but its point.
                axes.plot(xs, ys, "o", color=colour, markersize=3.5, alpha=0.35 if width > 1 else 1, markeredgewidth=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        lines = [Line2D([], [], color=colour, linestyle=style) for colour, style in looks]
        legend = figure.legend(lines, self.names, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)
        return styled(figure)


def compare(*runs: Run | Path | str) -> Comparison:
    """Compare runs of `train` or of the demo, and what servers learned, by their directories and stores.

    Final metrics are the mean over the last three updates. Raises UserError for fewer than two, and for what is neither
    a run nor a store with an update in it.

    >>> print(compare("run", "run"))  # doctest: +ELLIPSIS +NORMALIZE_WHITESPACE
                        run  run
    updates             1    1
    turns to learn from ...
    """
    if len(runs) < 2:
        raise UserError("One run has nothing to be compared with: name two or more.")
    found = tuple(one if isinstance(one, Run) else _read(Path(one)) for one in runs)
    names = [run.path.resolve().name for run in found]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in found]
    return Comparison(found, tuple(names), (*_settings(found), *_figures(found)))


def _read(path: Path) -> Run:
    return read_store(path) if is_store(path) else read_run(path)


def _settings(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """The options that differ, as the command line calls them."""
    options = [
        {f"--{name.replace('_', '-')}": value for section in run.config.values() for name, value in section.items()}
        for run in runs
    ]
    known = [had for had in options if had]
    names = dict.fromkeys(name for had in known for name in had)
    return [
        (name, *(_setting(had, name) for had in options))
        for name in names
        if any(had.get(name) != known[0].get(name) for had in known)
    ]


def _setting(options: Mapping[str, Any], name: str) -> str:
    return str(options[name]) if name in options else "not set" if options else ""


def _figures(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    rows = [
        ("updates", *(str(len(run.metrics)) for run in runs)),
        ("turns to learn from", *(_number(_turns(run)) for run in runs)),
        ("seconds of updates", *(_number(sum(run.series("seconds")[1])) for run in runs)),
        ("seconds in all", *(_number(run.summary.get("seconds")) for run in runs)),
        *((label, *(_last(run, metric) for run in runs)) for metric, label in FINAL),
    ]
    pairs = [shares | others for shares, others in map(comparable, runs)]
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        cells = (" → ".join(map(_number, pair[name])) if name in pair else "" for pair in pairs)
        rows.append((f"{figure_label(name)}, before → after", *cells))
    return [row for row in rows if any(row[1:])]


def _turns(run: Run) -> int | None:
    """How many judged answers it could learn from."""
    if demo := run.config.get("demo"):
        return demo["questions"] * demo["answers"] * len(run.metrics)
    return run.summary.get("turns", {}).get("trained")


def _last(run: Run, metric: str) -> str:
    values = run.series(metric)[1][-LAST:]
    return _number(sum(values) / len(values)) if values else ""


def _number(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3g}"
