"""What the lab's pictures share: the look of axes, and the runs of several seeds on them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from matplotlib.axes import Axes

from talktune.report.plots import moving_average

if TYPE_CHECKING:
    from talktune.lab.trainer import History

SMOOTH = 9
Place = Literal["upper left", "upper right", "lower left", "lower right", "center left", "center right", "best"]


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
    axes: Axes, xs: Sequence[float], runs: Sequence[Sequence[float]], *, colour: str, label: str, style: str = "-"
) -> None:
    """The mean of several runs over the same xs, and the band from the least to the largest of them.

    Each run is first smoothed by a centred moving average of SMOOTH points; runs that ended early are cut to the
    shortest.
    """
    length = min(len(run) for run in runs)
    columns = list(zip(*(moving_average(list(run[:length]), SMOOTH) for run in runs), strict=True))
    axes.fill_between(
        xs[:length], [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.18, linewidth=0
    )
    axes.plot(xs[:length], [mean(c) for c in columns], style, color=colour, linewidth=1.7, label=label)


def draw_runs(
    axes: Axes, runs: "Sequence[History]", metric: str, look: tuple[str, str], label: str, factor: float = 1.0
) -> None:
    """`draw_band` of what several runs recorded, times `factor`, over the updates; `look` is a colour and a style."""
    lines = [[factor * value for value in run.series(metric)[1]] for run in runs]
    draw_band(axes, runs[0].series(metric)[0], lines, colour=look[0], label=label, style=look[1])


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def mean_and_range(values: Sequence[float], digits: int = 2) -> str:
    """`0.95 (0.93 … 0.97)`: the mean of the seeds, their least and their largest."""
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} … {max(values):.{digits}f})"
