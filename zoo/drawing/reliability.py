"""Reliability diagrams: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, figure 1."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from zoo.drawing import figures

_RIGHT, _GAP = "#3b6fb6", "#d9722e"
_COLUMNS = 3  # panels side by side


def reliability_diagram(
    counts: Sequence[Tensor], accuracies: Sequence[Tensor], confidences: Sequence[Tensor], titles: Sequence[str]
) -> Tensor:
    """Draw accuracy against confidence, a bar for each bin, and below it the share of the decisions in each bin.

    The gap between the accuracy and the mean confidence of a bin is the narrow bar in orange: a model is too sure where it stands
    on top, and not sure enough where it hangs inside. A panel a model, three side by side.

    Args:
        counts: Number of decisions in each bin of equal width, of each model.
        accuracies: Share of them that are right; what it is in an empty bin does not matter.
        confidences: Their mean confidence.
        titles: Title of each panel.

    Shape:
        counts, accuracies, confidences: ``(M,)`` each.
    """
    columns = min(len(titles), _COLUMNS)
    rows = -(-len(titles) // columns)
    figure = figures.new_figure(3.9 * columns, 5.1 * rows)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[3, 1] * rows)
    for i, (count, accuracy, confidence, title) in enumerate(zip(counts, accuracies, confidences, titles, strict=True)):
        total, hits, sure = (part.cpu().double().numpy() for part in (count, accuracy, confidence))
        bins = len(total)
        left, filled = np.arange(bins) / bins, total > 0
        hits, sure = hits[filled], sure[filled]
        bars: dict[str, Any] = {"width": 1 / bins, "align": "edge", "edgecolor": "white", "linewidth": 0.5}
        row, column = 2 * (i // columns), i % columns
        axes = figure.add_subplot(grid[row, column])
        axes.plot((0, 1), (0, 1), color="#888888", lw=1, ls="--", zorder=3)
        axes.bar(left[filled], hits, color=_RIGHT, label="accuracy", **bars)
        low, high = np.minimum(hits, sure), np.maximum(hits, sure)
        axes.bar(left[filled] + 0.5 / bins, high - low, 0.4 / bins, low, color=_GAP, label="gap to confidence")
        axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), xticklabels=[])
        axes.set_title(figures.shortened(title, 60), fontsize=10, parse_math=False)
        axes.legend(loc="upper left", fontsize=8)
        below = figure.add_subplot(grid[row + 1, column])
        below.bar(left, total / max(total.sum(), 1), color="#9a9a9a", **bars)
        below.set(xlabel="confidence", ylabel="share", xlim=(0, 1), ylim=(0, 1))
        for part in (axes, below):
            part.grid(alpha=0.25)
            part.set_axisbelow(True)
    return figures.to_image(figure)
