"""Curves as pictures (SVG) whose values a pointer shows. Imports no torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from callbacks.curve_panels import EPOCH_METRIC, RATE, STEP_METRIC, log_bottom, order_of, panel_of
from recipes.cli.pages.curves import MOST_POINTS, Curve, drawn
from recipes.cli.pages.html import data, element, fold, text

WIDTH, HEIGHT = 440, 250  # of a picture, in its own units
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 12, 24  # margins around its axes
_FEW = 40  # points of a curve up to which each is marked
_NAMED = 5  # steps that a note names
_COLORS = 8  # of curves that are neither train nor val
_MOST_PANELS = 80


def pictures(curves: Mapping[str, Curve], best: tuple[str, float] | None = None) -> str:
    """Return the figures of all curves, those of the learning curves first, the others below a click.

    Args:
        curves: By name.
        best: The metric whose best value is marked, and that value.
    """
    curves = {name: curve for name, curve in curves.items() if not name.startswith("test/")}
    shown: dict[str, list[Curve]] = {}
    further: dict[str, list[Curve]] = {}
    for name, curve in curves.items():
        if EPOCH_METRIC.fullmatch(name) or STEP_METRIC.fullmatch(name):
            shown.setdefault(panel_of(name), []).append(curve)
        elif name.startswith("lr"):
            shown.setdefault(RATE, []).append(curve)
        else:
            further.setdefault(_group(name), []).append(curve)
    main = _grid(_figure(panel, shown[panel], best) for panel in sorted(shown, key=order_of))
    groups = sorted(further)
    more = _grid(_figure(panel, further[panel], best) for panel in groups[:_MOST_PANELS])
    if len(groups) > _MOST_PANELS:
        more += element("p", f"{len(groups) - _MOST_PANELS} further metrics are in metrics.csv", class_="note")
    count = sum(map(len, further.values()))
    return main + fold(f"{count} more curve{'s' * (count != 1)}", more, "more curves")


def _group(name: str) -> str:
    """Return the label of the panel of a curve that the learning curves do not draw: "val/iou/cat" is in "iou"."""
    parts = name.removesuffix("_step").split("/")
    rest = parts[1:] if parts[0] in ("train", "val") and len(parts) > 1 else parts
    return rest[0]


def _grid(figures: Iterable[str]) -> str:
    content = "".join(figures)
    return element("div", content, class_="grid") if content else ""


@dataclass(frozen=True)
class _Axes:
    """Steps from ``first`` to ``last``, values from ``low`` to ``high``."""

    first: int
    last: int
    low: float
    high: float
    log: bool

    def x(self, step: float) -> float:
        return LEFT + (step - self.first) / max(self.last - self.first, 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        if self.log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _figure(panel: str, curves: list[Curve], best: tuple[str, float] | None) -> str:
    curves = sorted(curves, key=lambda curve: (not curve.name.endswith("_step"), curve.name))  # the running one behind
    axes = _axes(curves, panel)
    points = [drawn(curve) for curve in curves]
    parts, legend, notes = [_ticks(axes)], [], []
    colors = _classes([curve.name for curve in curves])
    for curve, kept, color in zip(curves, points, colors, strict=True):
        parts.append(_line(curve, kept, axes, color))
        legend.append(f'<span class="{color}"><i></i>{text(curve.name)}</span>')
        if len(kept) < len(curve.steps):
            notes.append(
                f"{curve.name}: of {len(curve.steps):,} values the first, last, lowest and highest of each of {MOST_POINTS // 4} "
                "parts of the width"
            )
        notes += _missing(curve, axes)
        if best is not None and curve.name == best[0]:
            parts.append(_star(curve, best[1], axes))
    scale = {"first": axes.first, "last": axes.last, "low": axes.low, "high": axes.high, "log": axes.log}
    values = [
        {
            "name": curve.name,
            "color": color,
            "steps": [curve.steps[i] for i in kept],
            "epochs": [curve.epochs[i] for i in kept],
            "texts": [curve.texts[i] for i in kept],
        }
        for curve, kept, color in zip(curves, points, colors, strict=True)
    ]
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(panel)} over steps">{"".join(parts)}'
        f'<g class="pointer"></g></svg>'
    )
    title = element("figcaption", element("b", text(panel)) + (" (log)" if axes.log else "") + "".join(legend))
    below = "".join(element("p", text(note), class_="note") for note in notes)
    return element(
        "figure",
        f'{title}{svg}<div class="tip" hidden></div>{below}{data({**frame, **scale, "curves": values})}',
        class_="curves",
    )


def _classes(names: Sequence[str]) -> list[str]:
    """Return the class of each curve: blue for training, orange for validation, and other colors where that would not tell."""
    plain = [
        "run" if n.endswith("_step") else "train" if n.startswith("train") else "val" if n.startswith("val") else ""
        for n in names
    ]
    if "" not in plain and len(set(plain)) == len(plain):
        return plain
    return [f"c{i % _COLORS}" for i in range(len(names))]


def _axes(curves: list[Curve], panel: str) -> _Axes:
    steps = [step for curve in curves for step in (curve.steps[0], curve.steps[-1])]
    first, last = min(steps), max(steps)
    finite = [values for curve in curves if (values := curve.finite())]
    if not finite:
        return _Axes(first, last, 0.0, 1.0, log=False)
    low, high = min(map(min, finite)), max(map(max, finite))
    if bottom := log_bottom(finite, panel):
        return _Axes(first, last, bottom, high * 1.15, log=True)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room
    if not math.isfinite(high - low):  # numbers near the largest there are
        low, high = -1.7e308 / 2, 1.7e308 / 2
    return _Axes(first, last, low, high, log=False)


def _line(curve: Curve, kept: list[int], axes: _Axes, color: str) -> str:
    """Return the curve, broken where values are not finite, and ticks at the upper edge where those are."""
    runs: list[list[str]] = [[]]
    gaps: dict[str, str] = {}
    for i in kept:
        x, value = f"{axes.x(curve.steps[i]):.1f}", curve.values[i]
        if math.isfinite(value):
            runs[-1].append(f"{x},{axes.y(value):.1f}")
        else:
            gaps[x] = f"M{x} {TOP}v8"
            if runs[-1]:
                runs.append([])
    lines = "".join(f'<polyline points="{" ".join(run)}"/>' for run in runs if len(run) > 1)
    few = len(kept) <= _FEW
    dots = [point for run in runs for point in run if few or len(run) == 1]
    marks = "".join('<circle cx="{}" cy="{}" r="{}"/>'.format(*point.split(","), 2.2) for point in dots)
    ticks = f'<path class="gap" d="{"".join(gaps.values())}"/>' if gaps else ""
    return f'<g class="{color}">{lines}{marks}</g>{ticks}'


def _missing(curve: Curve, axes: _Axes) -> list[str]:
    """Return what to say of values that are not drawn."""
    notes = []
    bad = [i for i, value in enumerate(curve.values) if not math.isfinite(value)]
    if bad:
        steps = ", ".join(f"{curve.texts[i]} at step {curve.steps[i]}" for i in bad[:_NAMED])
        more = f" and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
        count = "1 value is" if len(bad) == 1 else f"{len(bad):,} values are"
        notes.append(f"{curve.name}: {count} not finite: {steps}{more}")
    below = sum(value < axes.low for value in curve.finite()) if axes.log else 0
    if below:
        notes.append(f"{curve.name}: {below:,} value{'s' * (below != 1)} below the axis, drawn at its lower end")
    return notes


def _star(curve: Curve, value: float, axes: _Axes) -> str:
    at = next((i for i, each in enumerate(curve.values) if math.isclose(each, value, rel_tol=1e-6)), None)
    if at is None:
        return ""
    x, y = axes.x(curve.steps[at]), axes.y(value)
    label = f"best {curve.name}: {curve.texts[at]}, step {curve.steps[at]}"
    return f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{text(label)}</title></circle>'


def _ticks(axes: _Axes) -> str:
    parts = []
    for value in _decades(axes.low, axes.high) if axes.log else _even(axes.low, axes.high, 5):
        y = axes.y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    steps = [value for value in _even(axes.first, axes.last, 5) if value == round(value) and axes.x(value) < WIDTH - 50]
    parts += [
        f'<text x="{axes.x(value):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_short(value)}</text>' for value in steps
    ]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step</text>')
    return f'<g class="axes">{"".join(parts)}</g>'


def _short(step: float) -> str:
    """Return a number of steps with at most four digits: 12000 is "12k".

    Example:
        >>> _short(400), _short(12000), _short(1500000)
        ('400', '12k', '1.5M')
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= 10 * size or (abs(step) >= size and step % (size / 10) == 0):
            return f"{step / size:g}{unit}"
    return f"{step:g}"


def _even(low: float, high: float, count: int) -> list[float]:
    """Return round numbers, about ``count`` of them, between two numbers.

    Example:
        >>> _even(0.03, 0.97, 5)
        [0.2, 0.4, 0.6, 0.8]
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * 0.999)
    return [
        round(i * step, 12) if abs(step) > 1e-9 else i * step
        for i in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]


def _decades(low: float, high: float) -> list[float]:
    """Return powers of ten between two numbers, with 2 and 5 times them where there are few.

    Example:
        >>> _decades(0.02, 3)
        [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(wide) > 3:
        return wide[:: max(1, len(wide) // 5)]
    return [v for p in powers for m in (1, 2, 5) if low <= (v := float(f"{m}e{p}")) <= high]
