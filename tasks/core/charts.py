"""Plots as PNG bytes: no file, no window, the same look for all."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tasks.core.metrics import Interval

MOST_COLUMNS = 30  # of a plot of them
BLUE, ORANGE, GREY, GREEN, RED = "#2f7fb8", "#d9772b", "#8a97a3", "#3a8f5c", "#b3401f"
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
    """A candidate in the plot: the metric that ranks with its interval, microseconds for one row, bytes."""

    name: str
    value: float
    low: float
    high: float
    microseconds: float
    bytes: int


def plot_quality(
    points: Sequence[Point], chosen: str, slowest: float, lowest: float | None, baselines: dict[str, float], *, metric: str
) -> bytes:
    """The metric with its interval against microseconds and against bytes; green lines are what the gate demands.

    Baselines are horizontal lines.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), sharey=True, layout="constrained")
    styles = {
        point.name: (marker, ORANGE if point.name == chosen else BLUE)
        for point, marker in zip(points, "os^vDPX*" * 4, strict=False)
    }
    for axis, unit in zip(axes, ("microseconds for one row, network alone", "kilobytes"), strict=True):
        for point in points:
            x = point.microseconds if axis is axes[0] else point.bytes / 1000
            marker, colour = styles[point.name]
            label = f"{point.name} (chosen)" if point.name == chosen else point.name
            errors = [[point.value - point.low], [point.high - point.value]]
            axis.errorbar(x, point.value, errors, fmt=marker, color=colour, ecolor="#c3ccd4", markersize=8, label=label, zorder=3)
        for name, value in baselines.items():
            axis.axhline(value, color=GREY, linestyle="--", linewidth=1)
            axis.annotate(name, (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=GREY)
        axis.set(xlabel=unit, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        if lowest is not None:
            axis.axhline(lowest, color=GREEN, linewidth=1)
            axis.annotate("gate", (0.99, lowest), xycoords=("axes fraction", "data"), ha="right", va="top", color=GREEN)
    axes[0].axvline(slowest, color=GREEN, linewidth=1)
    axes[0].set(ylabel=f"{metric} on the test part")
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle("Quality against latency and size")
    return _png(figure)


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
