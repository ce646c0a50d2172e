"""Plots as PNG bytes: no file, no window, the same look for all."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tasks.core.metrics import Interval

MOST_COLUMNS = 30  # of a plot of them
BLUE, ORANGE, GREY, GREEN, RED, INK = "#2f7fb8", "#d9772b", "#8a97a3", "#3a8f5c", "#b3401f", "#3c4650"
plt.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6eaee",
        "axes.axisbelow": True,
    }
)


@dataclass(frozen=True)
class Point:
    """A candidate in the plot: the metric that ranks (more of it is better) with its interval, microseconds for one row, bytes."""

    name: str
    value: float
    low: float
    high: float
    microseconds: float
    bytes: int


MARKERS = "os^vDPX*<>hp"
COLOURS = ("#2f7fb8", "#3a8f5c", "#8a5fb0", "#b3401f", "#1b9e9e", "#c2a11c", "#5b6b7a", "#d165a8", "#7a5230", "#6d8f1f", "#2b4a8b")
ROOM = 1.3  # on a logarithmic axis, beside the outermost points
NEAR = 1.0  # lines further than so many times the candidates' own range beyond them are told in words
REACH = 4.0  # a limit further than so many times beyond them is told in words: a line there would leave them no room
LABEL_HEIGHT = 0.055  # of the height of a panel


def plot_quality(
    points: Sequence[Point],
    chosen: str,
    slowest: float,
    largest: int,
    lowest: float | None,
    lines: dict[str, float],
    *,
    metric: str,
) -> bytes:
    """The metric with its interval against microseconds and against bytes, each with its Pareto front.

    What the gate allows is green: up to `slowest` microseconds and `largest` bytes, from `lowest` of the metric on. `lines` are
    models beside the candidates, as horizontal lines; of those far from all candidates the figure stands at the edge.
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 6.4), sharey=True)
    figure.subplots_adjust(left=0.07, right=0.82, top=0.93, bottom=0.26, wspace=0.05)
    colours = itertools.cycle(COLOURS)
    styles = {
        point.name: (marker, ORANGE if point.name == chosen else next(colours))
        for point, marker in zip(points, itertools.cycle(MARKERS), strict=False)
    }
    panels = (
        ("microseconds for one row, network alone", [point.microseconds for point in points], slowest),
        ("kilobytes on disk", [point.bytes / 1000 for point in points], largest / 1000),
    )
    values = [point.value for point in points]
    own = [*values, *([lowest] if lowest is not None else []), *lines.values()]
    wide = max(values) - min(values)
    near = [value for value in own if min(values) - NEAR * wide <= value <= max(values) + NEAR * wide]
    margin = 0.08 * (max(near) - min(near)) or 0.01
    bottom, top = min(near) - margin, max(near) + margin
    for axis, (unit, places, most) in zip(axes, panels, strict=True):
        steps = _front(places, values)
        end = max(places) * ROOM
        front = ([x for x, _ in steps] + [end], [y for _, y in steps] + [steps[-1][1]])
        axis.step(*front, where="post", color=INK, linewidth=1.3, alpha=0.6, zorder=2, label="Pareto front")
        for point, x in zip(points, places, strict=True):
            marker, colour = styles[point.name]
            label = f"{point.name} (chosen)" if point.name == chosen else point.name
            if point.name == chosen:
                axis.plot([x, x], [point.low, point.high], color=ORANGE, linewidth=1, alpha=0.6, zorder=2)
                axis.plot(x, point.value, "o", color=ORANGE, markersize=19, markerfacecolor="none", markeredgewidth=1.5, zorder=3)
            style = {"color": colour, "markersize": 8, "markeredgecolor": "white", "markeredgewidth": 0.7}
            axis.plot(x, point.value, marker, label=label, linestyle="none", zorder=4, **style)
        for value in lines.values():
            axis.axhline(value, color=GREY, linestyle="--", linewidth=1, zorder=1)
        shown = most <= REACH * max(places)
        left, right = min(places) / ROOM, max(end, most * ROOM) if shown else end
        axis.set(
            xlabel=unit if shown else f"{unit} (the gate allows {most:,.0f})", xscale="log", xlim=(left, right), ylim=(bottom, top)
        )
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        if shown:
            axis.axvline(most, color=GREEN, linewidth=1.2, zorder=1)
        if lowest is not None:
            axis.axhline(lowest, color=GREEN, linewidth=1.2, zorder=1)
        axis.axhspan(
            bottom if lowest is None else lowest, top, xmax=_share(most, left, right), color=GREEN, alpha=0.07, linewidth=0
        )
    axes[0].set(ylabel=f"{metric} on the test part")
    named = dict(lines) if lowest is None else {**lines, "the gate": lowest}
    ordered = [
        (name if bottom <= value <= top else f"{name} {value:.4f} {'↓' if value < bottom else '↑'}", min(max(value, bottom), top))
        for name, value in sorted(named.items(), key=lambda pair: pair[1])
    ]
    labels = _spread([value for _, value in ordered], LABEL_HEIGHT * (top - bottom))
    edge = axes[1].get_yaxis_transform()
    for (name, value), place in zip(ordered, labels, strict=True):
        colour = GREEN if name.startswith("the gate") else GREY
        pointer = {"arrowstyle": "-", "color": colour, "linewidth": 0.8}
        axes[1].annotate(
            name,
            (1, value),
            (1.03, place),
            xycoords=edge,
            textcoords=edge,
            va="center",
            color=colour,
            arrowprops=pointer,
            annotation_clip=False,
        )
    handles, words = axes[0].get_legend_handles_labels()
    figure.legend(handles, words, frameon=False, loc="lower center", ncols=4, bbox_to_anchor=(0.5, 0.0))
    interval = f"bar: the interval of the chosen one's {metric}"
    figure.suptitle(f"Quality against latency and size; green: what the gate allows; {interval}", y=0.985, fontsize=11)
    return _png(figure)


def _share(value: float, left: float, right: float) -> float:
    """Where the value lies between the ends of a logarithmic axis, 0 to 1."""
    return min(1.0, math.log(value / left) / math.log(right / left))


def _front(places: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """The points that none is left of or level with and above, from left to right."""
    steps: list[tuple[float, float]] = []
    for x, y in sorted(zip(places, values, strict=True), key=lambda point: (point[0], -point[1])):
        if not steps or y > steps[-1][1]:
            steps.append((x, y))
    return steps


def _spread(values: Sequence[float], room: float) -> list[float]:
    """Places for labels near these rising values, none nearer than `room` to the next: overlapping ones share their middle."""
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _middle(groups[-1]) - _middle(groups[-2]) < room * (len(groups[-1]) + len(groups[-2])) / 2:
            last = groups.pop()
            groups[-1] += last
    return [_middle(group) + room * (i - (len(group) - 1) / 2) for group in groups for i in range(len(group))]


def _middle(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def plot_calibration(curves: Mapping[str, Sequence[tuple[float, float]]], said: str, came: str) -> bytes:
    """What came against what was said, for each model."""
    figure, axis = plt.subplots(figsize=(5.4, 5), layout="constrained")
    values = [value for curve in curves.values() for point in curve for value in point]
    low, high = min(values), max(values)
    low = 0.0 if 0 <= low < high / 3 else low - 0.05 * (high - low)
    high += 0.05 * (high - low) or 1.0
    axis.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1, label="as said, so it comes")
    for (name, curve), colour in zip(curves.items(), (ORANGE, BLUE, GREEN, RED), strict=False):
        axis.plot(*zip(*curve, strict=True), marker="o", markersize=4, color=colour, label=name)
    axis.set(xlabel=said, ylabel=came, xlim=(low, high), ylim=(low, high), aspect="equal")
    axis.legend(frameon=False)
    return _png(figure)


def plot_importance(found: Mapping[str, Interval], *, metric: str, rows: int) -> bytes:
    """How much the loss grows where each column is shuffled, with the lowest and highest of the repeats; the foremost columns."""
    shown = dict(list(found.items())[:MOST_COLUMNS][::-1])
    figure, axis = plt.subplots(figsize=(7, 1 + 0.26 * len(shown)), layout="constrained")
    values = [one.value for one in shown.values()]
    errors = [[one.value - one.low for one in shown.values()], [one.high - one.value for one in shown.values()]]
    axis.barh(list(shown), values, xerr=errors, color=BLUE, ecolor=GREY)
    axis.set(xlabel=f"growth of the {metric} where the column is shuffled, on {rows:,} test rows")
    axis.grid(axis="y", visible=False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    """The figure's bytes, without a date in them, and the figure closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
