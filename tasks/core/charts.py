"""Plots as PNG bytes: no file, no window, the same look for all."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN, RED = "#2f7fb8", "#d9772b", "#8a97a3", "#3a8f5c", "#b3401f"
plt.rcParams.update(
    {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6eaee", "axes.axisbelow": True}
)


def plot_trials(trials: Sequence[tuple[dict[str, Any], float]]) -> bytes:
    """Validation loss in the order of the trials, with the best so far, and against each hyperparameter."""
    names = list(trials[0][0])
    losses = [loss for _, loss in trials]
    best = min(range(len(losses)), key=losses.__getitem__)
    figure, axes = plt.subplots(1, len(names) + 1, figsize=(2.5 * (len(names) + 1), 3.1), sharey=True, layout="constrained")
    numbers = range(1, len(losses) + 1)
    axes[0].step(numbers, [min(losses[:i]) for i in numbers], where="post", color=GREY, label="best so far")
    axes[0].set(xlabel="trial", ylabel="validation log loss", xticks=list(numbers) if len(losses) <= 12 else [])
    axes[0].legend(frameon=False)
    for axis, name in zip(axes[1:], names, strict=True):
        axis.set_xlabel(name)
    for i, axis in enumerate(axes):
        places = list(numbers) if i == 0 else [values[names[i - 1]] for values, _ in trials]
        axis.scatter(places, losses, color=BLUE, zorder=3)
        axis.scatter(places[best], losses[best], color=ORANGE, s=70, zorder=4)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    """The figure's bytes, without a date in them, and the figure closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
