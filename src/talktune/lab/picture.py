"""What the lab's pictures share: the size of a sheet, the look of its axes, the PNG."""

import io
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from talktune.report.plots import DPI, moving_average

Place = Literal["upper left", "upper right", "lower left", "lower right", "center left", "center right", "best"]


def new_figure(width: float = 8.0, height: float = 3.4) -> Figure:
    """A white sheet of `width` × `height` inches, whose parts make room for each other."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def finish(axes: Axes, *, title: str, x: str, y: str, legend: Place | None = None) -> None:
    """Label the axes (units included) and give them the lab's look; `legend` is where the legend stands."""
    axes.set_title(title, fontsize=10.5, fontweight="bold")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    if legend is not None:
        axes.legend(loc=legend, frameon=False, fontsize=8)


def draw_band(
    axes: Axes,
    xs: Sequence[float],
    runs: Sequence[Sequence[float]],
    *,
    colour: str,
    label: str,
    style: str = "-",
    smooth: int = 9,
) -> None:
    """The mean of several runs over the same xs, and the band from the least to the largest of them.

    Each run is first smoothed by a centred moving average of `smooth` points; runs that ended early are cut to
    the shortest.
    """
    length = min(len(run) for run in runs)
    lines = [moving_average(list(run[:length]), smooth) for run in runs]
    columns = list(zip(*lines, strict=True))
    axes.fill_between(
        xs[:length], [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.18, linewidth=0
    )
    axes.plot(xs[:length], [sum(c) / len(c) for c in columns], style, color=colour, linewidth=1.7, label=label)


def mean_and_range(values: Sequence[float], digits: int = 2) -> str:
    """`0.95 (0.93 … 0.97)`: the mean of the seeds, their least and their largest."""
    return f"{sum(values) / len(values):.{digits}f} ({min(values):.{digits}f} … {max(values):.{digits}f})"


def png(figure: Figure) -> bytes:
    """The sheet as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "talktune"})
    return buffer.getvalue()
