"""The plots of one run, as PNG bytes: what was learned, how far the policy moved, what it cost.

Every plot is a panel of the table `PANELS`: one or two strips over the update number, each with one y axis
and its unit. Points are what was recorded; the line through them is a centred moving average, drawn when
there are enough points for one. Colours are those of Okabe and Ito, "Color Universal Design" (2008), which
stay apart for people with any of the common kinds of colour blindness.
"""

import io
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from talktune.report.read_run import Run

BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
GREY = "#666666"
DPI = 160
FEWEST_TO_SMOOTH = 8


@dataclass(frozen=True, slots=True)
class Line:
    """One metric drawn over the updates."""

    metric: str
    label: str
    colour: str
    spread: str | None = None
    """Metric whose value is drawn as a band of ± itself around this one."""
    smooth: bool = True
    """False for what was set, not measured: a schedule is drawn as it was."""


class Strip:
    """One y axis and the lines on it."""

    def __init__(self, ylabel: str, *lines: Line, percent: bool = False, from_zero: bool = False) -> None:
        self.ylabel, self.lines, self.percent, self.from_zero = ylabel, lines, percent, from_zero


class Panel:
    """One plot file: its strips lie above each other and share the x axis."""

    def __init__(self, name: str, title: str, *strips: Strip) -> None:
        self.name, self.title, self.strips = name, title, strips

    def metrics(self) -> list[str]:
        """Return the metrics that the panel shows, in the order of the legend."""
        lines = [line for strip in self.strips for line in strip.lines]
        return [name for line in lines for name in (line.metric, line.spread) if name]


PANELS: tuple[Panel, ...] = (
    Panel(
        "reward",
        "Reward and its parts",
        Strip(
            "reward (−1 bad … +1 good)",
            Line("reward_mean", "judge's reward, mean", BLUE, spread="reward_std"),
            Line("length_penalty_mean", "length penalty, mean", VERMILLION),
        ),
    ),
    Panel(
        "objective",
        "Objective and loss",
        Strip("objective", Line("objective", "objective", BLUE)),
        Strip("loss", Line("loss", "loss", VERMILLION)),
    ),
    Panel("kl", "KL to the reference", Strip("KL (nats per token)", Line("kl_ref", "KL", PURPLE), from_zero=True)),
    Panel("entropy", "Entropy", Strip("entropy (nats per token)", Line("entropy", "entropy", GREEN), from_zero=True)),
    Panel(
        "clip",
        "Clipped tokens",
        Strip(
            "share of tokens",
            Line("clipped_low", "clipped low", VERMILLION),
            Line("clipped_high", "clipped high", BLUE),
            percent=True,
            from_zero=True,
        ),
        Strip("ε high (ratio)", Line("eps_high", "ε high", ORANGE, smooth=False), from_zero=True),
    ),
    Panel(
        "ratio",
        "Ratio of new to old probability",
        Strip("mean ratio", Line("ratio_mean", "mean", BLUE)),
        Strip("largest ratio", Line("ratio_max", "largest", VERMILLION)),
    ),
    Panel(
        "length",
        "Answer length",
        Strip("length (tokens)", Line("response_length", "mean answer", ORANGE), from_zero=True),
    ),
    Panel(
        "gradient",
        "Gradient and step size",
        Strip("gradient norm", Line("grad_norm", "gradient norm before clipping", BLUE), from_zero=True),
        Strip("learning rate", Line("learning_rate", "learning rate", ORANGE, smooth=False), from_zero=True),
    ),
    Panel(
        "votes",
        "Agreement of the judge's votes",
        Strip("share of votes", Line("votes_agreement", "agreement", SKY), percent=True),
    ),
    Panel(
        "data",
        "What the updates were made of",
        Strip("groups skipped", Line("skipped_groups", "groups of equal rewards", GREY), from_zero=True),
        Strip("staleness (versions)", Line("staleness", "age of the samples", PURPLE), from_zero=True),
    ),
    Panel(
        "speed",
        "Speed",
        Strip("tokens per second", Line("tokens_per_second", "tokens per second", GREEN), from_zero=True),
    ),
)
_BY_NAME: Mapping[str, Panel] = {panel.name: panel for panel in PANELS}

SHARES: Mapping[str, str] = {
    "satisfaction": "satisfied",
    "liked": "answers liked",
    "facts_kept": "facts kept",
    "distinct_answers": "distinct answers",
}
"""Figures of before and after that are shares from 0 to 1, and what each is called."""
OTHERS: Mapping[str, str] = {"answer_tokens": "answer length (tokens)", "kl": "KL (nats per token)"}
"""Figures of before and after that are not shares, and what each is called."""


def smoothing(points: int) -> int:
    """Return the width of the moving average through so many points; 1 where they are too few for one."""
    return 1 if points < FEWEST_TO_SMOOTH else max(3, points // 10 * 2 + 1)


def moving_average(values: list[float], width: int) -> list[float]:
    """Return the mean of the `width` (an odd number) values around each value; fewer at the two ends."""
    half = width // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def draw_panels(run: Run) -> Iterator[tuple[Panel, bytes]]:
    """Yield each panel that has something to show, with its PNG."""
    for panel in PANELS:
        strips = [strip for strip in panel.strips if _has_points(run, strip)]
        if not strips:
            continue
        figure = new_figure(width=9.0, height=3.4 if len(strips) == 1 else 4.6)
        heights = [2.0, 1.0][: len(strips)]
        grid = figure.add_gridspec(len(strips), 1, height_ratios=heights)
        axes: list[Axes] = []
        for i, strip in enumerate(strips):
            axes.append(figure.add_subplot(grid[i, 0], sharex=axes[0] if axes else None))
            _draw_strip(axes[i], run, strip)
            axes[i].tick_params(labelbottom=i == len(strips) - 1)
        axes[0].set_title(panel.title)
        axes[-1].set_xlabel("update")
        yield panel, png(styled(figure))


def draw_before_after(run: Run) -> bytes | None:
    """Return a PNG with the figures before and after the run side by side, or `None` where there are none."""
    shares, others = comparable(run)
    parts = ([shares] if shares else []) + [{name: pair} for name, pair in others.items()]
    if not parts:
        return None
    figure = new_figure(width=9.0, height=3.2)
    widths = [max(1.0, 0.8 * len(part)) for part in parts]
    grid = figure.add_gridspec(1, len(parts), width_ratios=widths)
    for i, part in enumerate(parts):
        axes = figure.add_subplot(grid[0, i])
        _draw_bars(axes, part, percent=part is shares)
        if i == 0:
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.0)
    return png(styled(figure))


def summary_sheet(run: Run) -> Figure:
    """Return one sheet of six panels: reward, before and after (or objective), length, KL, entropy, clipping.

    A panel whose metric was not recorded says so.
    """
    shares, _ = comparable(run)
    figure = new_figure(width=9.0, height=5.6)
    grid = figure.add_gridspec(2, 3)
    second = "before and after" if shares else "objective"
    for i, name in enumerate(("reward", second, "length", "kl", "entropy", "clip")):
        axes = figure.add_subplot(grid[i // 3, i % 3])
        if name == "before and after":
            _draw_bars(axes, shares, percent=True)
            axes.legend(loc="upper left", ncols=2)
            axes.set_ylim(0.0, 1.3)  # room for the legend above whatever bar
            axes.set_title("Before and after")
            continue
        strip = _BY_NAME[name].strips[0]
        axes.set_title(_BY_NAME[name].title)
        if _has_points(run, strip):
            _draw_strip(axes, run, strip)
            axes.set_xlabel("update")
        else:
            axes.text(0.5, 0.5, "not recorded", ha="center", va="center", color=GREY, transform=axes.transAxes)
            axes.set_axis_off()
    return styled(figure)


def draw_summary(run: Run) -> bytes:
    """Return that sheet as a PNG."""
    return png(summary_sheet(run))


def comparable(run: Run) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """Return the numbers that the summary holds both before and after: shares from 0 to 1, and all others."""
    before, after = run.figures("before"), run.figures("after")
    shares: dict[str, tuple[float, float]] = {}
    others: dict[str, tuple[float, float]] = {}
    for name in before:
        a, b = _number(before[name]), _number(after.get(name))
        if a is not None and b is not None:
            is_share = name in SHARES and 0 <= a <= 1 and 0 <= b <= 1
            (shares if is_share else others)[name] = (a, b)
    return shares, others


def figure_label(name: str) -> str:
    """Return what a figure of before and after is called, with its unit where it is known."""
    return SHARES.get(name) or OTHERS.get(name) or name.replace("_", " ")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _has_points(run: Run, strip: Strip) -> bool:
    return any(run.series(line.metric)[0] for line in strip.lines)


def _draw_strip(axes: Axes, run: Run, strip: Strip) -> None:
    drawn = 0
    for line in strip.lines:
        xs, ys = run.series(line.metric)
        if not xs:
            continue
        drawn += 1
        width = smoothing(len(xs)) if line.smooth else 1
        if line.spread:
            _draw_band(axes, run, line)
        axes.plot(xs, moving_average(ys, width), color=line.colour, linewidth=1.8, label=line.label)
        dot = 3.5 if len(xs) <= 100 else 1.5
        axes.plot(xs, ys, "o", color=line.colour, markersize=dot, alpha=0.45, markeredgewidth=0)
    axes.set_ylabel(strip.ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    last = run.metrics[-1]["update"]
    axes.set_xlim(0.5, last + 0.5)
    if strip.percent:
        axes.yaxis.set_major_formatter(_percent)
    if strip.from_zero:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if _lowest(run, strip) < 0 else 0.0)
    if drawn > 1 or any(line.spread for line in strip.lines):
        axes.legend(loc="best")


def _percent(value: float, _position: float) -> str:
    return f"{round(100 * value, 6):g}%"


def _draw_band(axes: Axes, run: Run, line: Line) -> None:
    centre, spread = line.metric, line.spread or ""
    rows = [row for row in run.metrics if centre in row and spread in row]
    xs = [row["update"] for row in rows]
    low = [row[centre] - row[spread] for row in rows]
    high = [row[centre] + row[spread] for row in rows]
    if rows:
        axes.fill_between(xs, low, high, color=line.colour, alpha=0.15, linewidth=0, label="± standard deviation")


def _lowest(run: Run, strip: Strip) -> float:
    return min(value for line in strip.lines for value in run.series(line.metric)[1])


def _draw_bars(axes: Axes, figures: Mapping[str, tuple[float, float]], *, percent: bool) -> None:
    for side, (label, colour) in enumerate((("before", GREY), ("after", BLUE))):
        heights = [pair[side] for pair in figures.values()]
        xs = [i + (side - 0.5) * 0.38 for i in range(len(heights))]
        bars = axes.bar(xs, heights, width=0.36, color=colour, label=label)
        texts = [f"{100 * height:.0f}" if percent else f"{height:.3g}" for height in heights]  # the axis says %
        axes.bar_label(bars, labels=texts, padding=2, fontsize=7.5)
    names = [figure_label(name) for name in figures]
    axes.set_xticks(range(len(names)), [textwrap.fill(name, 14) for name in names])
    for tick in axes.get_xticklabels():
        tick.set_parse_math(False)  # a figure's name is text, whatever signs it holds
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.margins(y=0.15)
    if percent:
        axes.set_ylim(0.0, 1.15)
        axes.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])
        axes.yaxis.set_major_formatter(_percent)
        axes.set_ylabel("share of questions")


class Sheet(Figure):
    """A figure that a notebook shows whatever its backend is."""

    def _repr_png_(self) -> bytes:
        return png(self)


def new_figure(width: float = 8.0, height: float = 3.4) -> Figure:
    """Return a white sheet of `width` × `height` inches, whose parts make room for each other."""
    figure = Sheet(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return the sheet as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "talktune"})
    return buffer.getvalue()


def styled(figure: Figure) -> Figure:
    """Return the sheet with grids, fonts and legends as all of them have."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.title.set(fontsize=10.5, fontweight="bold")
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
        axes.tick_params(labelsize=8.5)
        legend = axes.get_legend()
        if legend is not None:
            legend.set_frame_on(False)
            for text in legend.get_texts():
                text.set_fontsize(8)
    return figure
