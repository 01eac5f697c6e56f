"""The curves of several runs in one picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from callbacks.curve_panels import EPOCH_METRIC, log_bottom, order_of, panel_of
from recipes.cli.pages.curves import read_curves
from recipes.cli.run.folder import METRICS
from zoo.drawing.figures import new_figure
from zoo.drawing.fonts import drawable
from zoo.writing import replacing

# colors that can be told apart by all: Okabe and Ito 2008, "Color universal design"; more groups are from dark to light
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_COLUMNS = 3  # panels in a row


def draw(groups: Mapping[str, Sequence[Path]], path: Path) -> bool:
    """Draw the means of epochs of several groups of runs into a PNG: a panel a metric, validation as lines, training as dashes.

    A group is drawn as the mean of its runs at each step that more than half of them have, in a band from the lowest to the
    highest. Values that are not finite are left out.

    Args:
        groups: By label, the folders of the runs.
        path: The file.

    Returns:
        Whether there was anything to draw.
    """
    curves = {label: [_points(run) for run in runs] for label, runs in groups.items()}
    names = dict.fromkeys(name for runs in curves.values() for run in runs for name in run)
    panels: dict[str, list[str]] = {}
    for name in names:
        panels.setdefault(panel_of(name), []).append(name)
    if not panels:
        return False
    order = sorted(panels, key=order_of)
    columns = min(len(order), _COLUMNS)
    rows = math.ceil(len(order) / columns)
    beside = columns if len(groups) > len(_COLORS) else 1  # columns of the legend
    figure = new_figure(max(4.8 * columns, 6), 3.4 * rows + 0.3 * math.ceil(len(groups) / beside) + 0.4, dpi=120)
    colors = colors_of(len(groups))
    handles = {}
    for i, panel in enumerate(order):
        axes = figure.add_subplot(rows, columns, i + 1)
        drawn = []
        for color, (label, runs) in zip(colors, curves.items(), strict=True):
            for name in sorted(panels[panel]):
                steps, low, mean, high = over_runs([run[name] for run in runs if name in run])
                if not steps:
                    continue
                part = "val" if name.startswith("val") else "train"
                marker = "o" if len(steps) < 8 else None
                dashes = "-" if part == "val" else "--"
                (line,) = axes.plot(steps, mean, dashes, lw=1.6, marker=marker, ms=3, color=color)
                if low != high:
                    axes.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
                drawn.append(mean)
                if part == "val" or label not in handles:
                    handles[label] = line
        if bottom := log_bottom(drawn, panel):
            axes.set_yscale("log")
            axes.set_ylim(bottom=bottom)
        axes.set_title(drawable(panel), fontsize="medium", parse_math=False)
        axes.set_xlabel("optimizer steps")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(
        [*handles.values()],
        [drawable(label) for label in handles],
        ncols=beside,
        loc="outside upper left",
        frameon=False,
        title="lines: validation, dashes: training",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def gaps_of(run: Path) -> str:
    """Return which means of epochs of a run were nan or infinite, how often and since when; an empty text if none was."""
    texts = []
    for name, curve in read_curves(run / METRICS)[0].items():
        steps = [step for step, value in zip(curve.steps, curve.values, strict=True) if not math.isfinite(value)]
        if EPOCH_METRIC.fullmatch(name) and steps:
            texts.append(f"{name} ({len(steps)} of {len(curve.steps)}, first at step {steps[0]})")
    return ", ".join(texts)


def colors_of(count: int) -> list[str]:
    """Return as many colors, all of them different.

    Example:
        >>> colors_of(2), len({*colors_of(40)})
        (['#0072B2', '#D55E00'], 40)
    """
    if count <= len(_COLORS):
        return [*_COLORS[:count]]
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(matplotlib.colormaps["viridis"](0.95 * i / (count - 1))) for i in range(count)]


def over_runs(runs: Sequence[Mapping[int, float]]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return steps and, of the values of several runs there, the lowest, the mean and the highest.

    Steps that no more than half of the runs have are left out: the mean would jump where a run begins or ends.

    Example:
        >>> over_runs([{0: 1.0, 9: 2.0}, {0: 3.0, 9: 4.0}, {0: 2.0}])
        ([0, 9], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0])
    """
    steps = sorted({step for run in runs for step in run})
    values = {step: [run[step] for run in runs if step in run] for step in steps}
    kept = [step for step in steps if 2 * len(values[step]) > len(runs)]
    low, high = [min(values[step]) for step in kept], [max(values[step]) for step in kept]
    return kept, low, [math.fsum(values[step]) / len(values[step]) for step in kept], high


def _points(run: Path) -> dict[str, dict[int, float]]:
    """Return the finite values of the means of epochs of a run, by name and step."""
    curves, _ = read_curves(run / METRICS)
    found = {}
    for name, curve in curves.items():
        points = {step: value for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)}
        if EPOCH_METRIC.fullmatch(name) and points:
            found[name] = points
    return found
