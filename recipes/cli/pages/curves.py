"""Curves of a run, read from ``metrics.csv``. Imports no torch."""

import csv
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

_PARTS = 300  # of the width of a picture: a curve of many points is drawn by four of each part
MOST_POINTS = 4 * _PARTS


@dataclass
class Curve:
    """The values of one metric.

    Args:
        name: "train/loss".
        steps: Optimizer steps at which it was logged, ascending.
        epochs: The epochs of them, as texts.
        values: The values; some may be nan or infinite.
        texts: The values as they stand in the file.
    """

    name: str
    steps: list[int] = field(default_factory=list)
    epochs: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def finite(self) -> list[float]:
        """Return the values that are finite."""
        return [value for value in self.values if isfinite(value)]


def read_curves(path: Path) -> tuple[dict[str, Curve], int]:
    """Return the curves of a metrics file by name, and the number of lines that are damaged and left out.

    The last line may be damaged because the run writes it right now; a file that is missing has no curves.

    Raises:
        OSError: It cannot be read.
    """
    curves: dict[str, Curve] = {}
    damaged = 0
    if not path.is_file():
        return curves, damaged
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = (line.replace("\0", "\ufffd") for line in file if line.endswith("\n"))  # others are being written
        rows = csv.reader(lines)
        names = _next(rows) or []
        if names[:2] != ["step", "epoch"]:
            return curves, int(bool(names))
        columns = [Curve(name) for name in names[2:]]
        step = 0
        while (cells := _next(rows)) is not None:
            if len(cells) != len(names) or not cells[0].isdecimal() or (at := int(cells[0])) < step:
                damaged += 1
                continue
            step, epoch = at, cells[1]
            for curve, text in zip(columns, cells[2:], strict=True):
                if not text:
                    continue
                try:
                    curve.values.append(float(text))
                except ValueError:
                    damaged += 1
                    continue
                curve.steps.append(step)
                curve.epochs.append(epoch)
                curve.texts.append(text)
        curves = {curve.name: curve for curve in columns if curve.steps}
    return curves, damaged


def _next(rows: Iterator[list[str]]) -> list[str] | None:
    """Return the next row, an empty one if it is damaged, None at the end."""
    try:
        return next(rows, None)
    except csv.Error:  # such as a cell that is too long
        return []


def drawn(curve: Curve) -> list[int]:
    """Return the indices of the points to draw: all of a few, else of each part of the width four.

    The first, the last, the lowest and the highest value of each part: a line through them covers the same pixels as one through
    all points (Jugel et al. 2014, "M4: A Visualization-Oriented Time Series Data Aggregation", VLDB 7(10), section 4). Values that
    are not finite are never left out before the others.
    """
    count = len(curve.steps)
    if count <= MOST_POINTS:
        return [*range(count)]
    kept: set[int] = set()
    values, first, span = curve.values, curve.steps[0], max(curve.steps[-1] - curve.steps[0], 1)
    begin = 0
    for part in range(_PARTS):
        # steps ascend: the part ends at the first one whose place is that of the next
        end = bisect_left(curve.steps, first - (-(part + 1) * span // _PARTS), begin) if part < _PARTS - 1 else count
        if begin == end:
            continue
        inside = range(begin, end)
        finite = [i for i in inside if isfinite(values[i])]
        kept.update((begin, end - 1))
        if finite:
            kept.update((min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)))
        if len(finite) < len(inside):
            kept.add(next(i for i in inside if not isfinite(values[i])))
        begin = end
    return sorted(kept)
