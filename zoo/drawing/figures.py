"""Figures of predictions: grids of examples, tables of counts, regions, curves. They are drawn without a display."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing.colors import palette
from zoo.drawing.fonts import drawable, family, length
from zoo.drawing.tiles import GAP, HEADER, LINE, TILE, fit, to_uint8

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG = "#222222", "#c62828"
_PLANE = 240  # side of the plane of decision regions, in pixels
NAMED, COUNTED = 100, 30  # classes up to which a heatmap has names, and counts
LISTED = 20  # classes up to which there is a legend


def new_figure(width: float, height: float, dpi: float = 100, layout: str | None = "constrained") -> "Figure":
    """Return a figure that needs no display and touches no global state of matplotlib.

    Args:
        width, height: Size in inches.
        dpi: Pixels an inch.
        layout: Layout engine of matplotlib, None for none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def to_image(figure: "Figure") -> Tensor:
    """Draw a figure into an image ``(3, H, W)``."""
    canvas: Any = figure.canvas
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1).contiguous()


def image_grid(x: Tensor, predicted: Sequence[str], true: Sequence[str]) -> Tensor:
    """Draw images, eight in a row, each with its prediction and, below it, its target; wrong ones are framed in red.

    The pixels of the images are in the picture as they are, the first at row ``HEADER`` and column
    ``GAP + (cell - width) / 2``. Small images are enlarged by a whole number, large ones scaled down, see
    :func:`zoo.drawing.tiles.fit`.

    Args:
        x: Images.
        predicted, true: Text for each of them.

    Shape:
        x: ``(B, 1, H, W)`` or ``(B, 3, H, W)``, float in [0, 1].
    """
    tiles = to_uint8(fit(x.float().cpu())).permute(0, 2, 3, 1).numpy()  # (B, 3, h, w) -> (B, h, w, 3)
    height, width = tiles.shape[1:3]
    wrong = [a != b for a, b in zip(predicted, true, strict=True)]
    predicted, true = ([drawable(text) for text in texts] for texts in (predicted, true))
    widest = max(length(text) for text in [*predicted, *true]) * 7
    cell = max(width, min(widest, 2 * TILE))
    columns = min(len(tiles), 8)
    rows = math.ceil(len(tiles) / columns)
    pitch = height + 2 * LINE + GAP
    size = (HEADER + rows * pitch, max(GAP + columns * (cell + GAP), 5 * TILE))
    canvas = np.full((*size, 3), 255, np.uint8)
    figure = new_figure(size[1] / 64, size[0] / 64, dpi=64, layout=None)  # a power of two: sizes are exact

    def write(x: float, y: float, text: str, **style: Any) -> None:
        style |= {"va": "center", "parse_math": False, "family": family([text])}
        figure.text(x / size[1], 1 - y / size[0], text, **style)

    for i, tile in enumerate(tiles):
        top = HEADER + i // columns * pitch
        left = GAP + i % columns * (cell + GAP) + (cell - width) // 2
        if wrong[i]:
            canvas[top - 3 : top + height + 3, left - 3 : left + width + 3] = rgb(WRONG)
        canvas[top : top + height, left : left + width] = tile
        for line, text in enumerate((predicted[i], true[i])):
            shown = shortened(text, cell // 7)
            y = top + height + (line + 0.5) * LINE + 3
            style = {"color": "#888888"} if line else {"color": WRONG if wrong[i] else RIGHT, "weight": "bold"}
            write(left + width / 2, y, shown, ha="center", size=11, **style)
    write(GAP, HEADER / 2, f"predicted, below it true  ·  {sum(wrong)} of {len(tiles)} wrong", size=12, color=RIGHT)
    figure.figimage(canvas, origin="upper", zorder=-1)
    return to_image(figure)


def heatmap(counts: Tensor, rows: Sequence[str], columns: Sequence[str], labels: tuple[str, str], title: str) -> Tensor:
    """Draw a table of counts: the larger the share of its row, the darker a cell.

    Args:
        counts: Counts ``(R, C)``.
        rows, columns: Names; not written if there are more than ``NAMED``. Counts are written up to ``COUNTED`` rows.
        labels: Axis labels of rows and columns.
        title: Title above the table.
    """
    values = counts.cpu().double().numpy()
    height, width = values.shape
    counted = height <= COUNTED
    cell = 0.42 if counted else 0.14 if height <= NAMED else 10 / height  # inches
    rows, columns = ([shortened(drawable(name), 24) for name in names] for names in (rows, columns))
    margins = [0.085 * max(map(length, names)) if len(names) <= NAMED else 0.4 for names in (rows, columns)]
    size = (max(cell * width, 2.0 if width < height else 0) + margins[0] + 0.7, cell * height + margins[1] + 1.1)
    figure = new_figure(max(size[0], 4.2), size[1], dpi=120)
    axes = figure.add_subplot()
    axes.set(xlabel=labels[1], ylabel=labels[0])
    figure.suptitle(title, fontsize=10)
    share = values / np.maximum(values.sum(1, keepdims=True), 1)
    strength = share if counted else np.sqrt(share)  # without counts, a few mistakes must still show
    axes.imshow(strength, cmap="Blues", vmin=0, vmax=1, aspect="equal" if height == width else "auto")
    font = 9 if counted else 7
    if width <= NAMED:
        flat = counted and max(map(length, columns)) <= 3
        axes.set_xticks(range(width), columns, fontsize=font, rotation=0 if flat else 90)
    if height <= NAMED:
        axes.set_yticks(range(height), rows, fontsize=font)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set(parse_math=False, family=family([*rows, *columns]))
    if counted:
        fitting = min(9, 0.42 * 72 / (0.7 * len(f"{values.max():.0f}")))
        for (i, j), value in np.ndenumerate(values):
            if value:
                color = "white" if share[i, j] > 0.5 else "black"
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=fitting, color=color)
    return to_image(figure)


def decision_regions(
    x: Tensor, y: Tensor, wrong: Tensor, probabilities: Callable[[Tensor], Tensor], names: Sequence[str]
) -> Tensor:
    """Draw the plane in the color of the predicted class, stronger where it is more certain, and the examples upon it.

    Args:
        x: Examples ``(B, 2)``, drawn in the color of their class.
        y: Their classes ``(B,)``.
        wrong: Which of them are misclassified, ``(B,)``; they get a cross.
        probabilities: Maps points ``(N, 2)`` to probabilities ``(N, K)``; the largest decides.
        names: Names of the K classes.
    """
    points = x.cpu().double()
    low, high = points.amin(0), points.amax(0)
    margin = 0.15 * (high - low).clamp(min=1e-6)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    middles = (np.arange(_PLANE) + 0.5) / _PLANE  # of the pixels, as shares of a side
    across, up = left + (right - left) * middles, bottom + (top - bottom) * middles
    grid = torch.from_numpy(np.stack(np.meshgrid(across, up), axis=-1)).reshape(-1, 2)  # row by row, from the bottom
    confidence, decided = probabilities(grid.to(x)).float().cpu().max(dim=1)
    colors = palette(len(names)).numpy() / 255
    strength = 0.2 + 0.4 * ((confidence - 1 / len(names)) / (1 - 1 / len(names))).clamp(0, 1).numpy()[:, None]
    plane = 1 - strength * (1 - colors[decided.numpy()])
    figure = new_figure(6.5, 5)
    axes = figure.add_subplot()
    axes.imshow(
        plane.reshape(_PLANE, _PLANE, 3),
        origin="lower",
        extent=(left, right, bottom, top),
        aspect="auto",
        interpolation="nearest",
    )
    y, wrong = y.cpu(), wrong.cpu()
    shown = scatter_classes(axes, points, y, names)
    if wrong.any():
        style: dict[str, Any] = {"s": 30, "color": "black", "marker": "x", "linewidths": 1.2, "label": "wrong"}
        shown.append(axes.scatter(points[wrong, 0], points[wrong, 1], **style))
    axes.set(xlabel="x0", ylabel="x1", xlim=(left, right), ylim=(bottom, top))
    axes.set_title(f"{int(wrong.sum())} of {len(points)} wrong", fontsize=10)
    add_legend(figure, shown, len(names))
    return to_image(figure)


def scatter_classes(axes: "Axes", points: Tensor, classes: Tensor, names: Sequence[str]) -> list["Artist"]:
    """Draw points ``(N, 2)``, each in the color of its class ``(N,)``; return what :func:`add_legend` takes."""
    colors = palette(len(names)).numpy() / 255
    shown: list[Artist] = []
    for k, name in enumerate(names):
        own = points[classes == k]
        if len(own):
            style: dict[str, Any] = {"color": colors[k], "edgecolors": "white", "linewidths": 0.8, "label": name}
            shown.append(axes.scatter(own[:, 0], own[:, 1], s=28, **style))
    return shown


def add_legend(figure: "Figure", shown: Sequence["Artist"], num_classes: int) -> None:
    """Draw a legend beside the axes, the labels as they are, unless there are more classes than it can hold."""
    if num_classes > LISTED:
        return
    # matplotlib itself would leave out labels that begin with an underscore
    names = [drawable(str(artist.get_label())) for artist in shown]
    for text in figure.legend(shown, names, loc="outside right upper", frameon=False, fontsize=9).get_texts():
        text.set(parse_math=False, family=family(names))


def predicted_against_true(true: Tensor, predicted: Tensor) -> Tensor:
    """Draw predictions over targets, and the diagonal where they agree; one panel an output, nine at most.

    Args:
        true: Targets ``(B, K)``, in their own unit.
        predicted: Predictions ``(B, K)``.
    """
    true, predicted = true.cpu().double(), predicted.cpu().double()  # far from zero, float32 has steps
    outputs = true.shape[1]

    def one(axes: "Axes", k: int) -> None:
        a, b = true[:, k], predicted[:, k]
        low, high = min(a.min(), b.min()).item(), max(a.max(), b.max()).item()
        margin = 0.05 * (high - low) or 1.0
        ends = (low - margin, high + margin)
        axes.plot(ends, ends, color="#888888", lw=1, zorder=0)
        axes.scatter(a, b, s=14, color="#3b6fb6", alpha=0.7, linewidths=0)
        axes.set(xlabel="true", ylabel="predicted", xlim=ends, ylim=ends, aspect="equal")
        rmse = (b - a).square().mean().sqrt().item()
        axes.set_title(f"{f'output {k}  ·  ' * (outputs > 1)}rmse {rmse:.4g}", fontsize=10)

    return _panels(min(outputs, 9), one)


def fitted_curve(x: Tensor, y: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
    """Draw the prediction as a curve over a single input, and the examples; one panel an output, nine at most.

    Args:
        x: Examples ``(B, 1)``.
        y: Targets ``(B, K)``.
        predict: Maps inputs ``(N, 1)`` to predictions ``(N, K)``.
    """
    points, targets = x.cpu().double(), y.cpu().double()
    low, high = points.min().item(), points.max().item()
    margin = 0.05 * (high - low) or 1.0
    across = torch.linspace(low - margin, high + margin, 501, dtype=torch.float64)
    curve = predict(across[:, None].to(x)).cpu().double()

    def one(axes: "Axes", k: int) -> None:
        axes.scatter(points[:, 0], targets[:, k], s=14, color="#3b6fb6", alpha=0.6, linewidths=0, label="true")
        axes.plot(across, curve[:, k], color="#d9722e", lw=2, label="predicted")
        axes.set(xlabel="x", ylabel="y" if targets.shape[1] == 1 else f"output {k}")
        axes.legend(frameon=False, fontsize=9)

    return _panels(min(targets.shape[1], 9), one)


def state_maps(states: Sequence[Tensor], titles: Sequence[str]) -> Tensor:
    """Draw the state of a recurrent layer over the steps: blue below 0, red above, one panel a sequence.

    Panels of short sequences stand side by side, those of long ones one below another.

    Args:
        states: Of each sequence ``(W, T)``: a row a unit, a column a step. Colors reach to the largest absolute value of all.
        titles: Title of each panel.
    """
    from matplotlib.ticker import MaxNLocator

    largest = max(1e-9, *(part.abs().max().item() for part in states))
    height, steps = min(5.0, 1.2 + 0.05 * states[0].shape[0]), max(part.shape[1] for part in states)
    rows, columns = (1, len(states)) if steps <= 20 else (len(states), 1)
    figure = new_figure(min(12.0, 1.0 + (2.0 + 0.12 * steps) * columns), height * rows)
    for i, (part, title) in enumerate(zip(states, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        shown = axes.imshow(
            part.double().numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
        )
        axes.set(xlabel="step", ylabel="unit", xlim=(-0.5, steps - 0.5), facecolor="#dddddd")  # gray: beyond the end
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        title = drawable(shortened(title, 80))
        axes.set_title(title, fontsize=10, parse_math=False, family=family([title]))
    figure.colorbar(shown, ax=figure.axes, shrink=min(1.0, 2 / rows), label="state")
    return to_image(figure)


def attention_maps(
    weights: Sequence[Tensor],
    sources: Sequence[Sequence[str]],
    targets: Sequence[Sequence[str]],
    titles: Sequence[str] | None = None,
) -> Tensor:
    """Draw where a model looked as it wrote: a column a source token, a row a target token, from above.

    Panels stand side by side as far as there is room. A space is drawn as an open box. Beyond ``NAMED`` tokens on a side only
    every tenth is numbered.

    Args:
        weights: Of each example ``(T, S)``. Colors reach from 0 to the largest weight of all.
        sources: The S source tokens of each.
        targets: The T target tokens of each.
        titles: Title of each panel.

    Raises:
        ValueError: No example, or weights of another number of tokens.
    """
    if not weights:
        raise ValueError("there is nothing to draw: give the weights of one example or more")
    for i, (part, source, target) in enumerate(zip(weights, sources, targets, strict=True)):
        if part.shape != (wanted := (len(target), len(source))) or not part.numel():
            raise ValueError(
                f"the weights of example {i + 1} must have a row for each target token and a column for each source token, "
                f"{wanted}, got {tuple(part.shape)}"
            )
    cell = max(0.06, min(0.2, 9 / max(max(part.shape) for part in weights)))  # inches
    font = max(4.5, min(9.0, 0.6 * 72 * cell))
    figure = new_figure(1, 1, dpi=120, layout=None)
    names = [[[_token(token) for token in tokens] for tokens in side] for side in (sources, targets)]
    above, beside = (max(_width(figure, name, font) for tokens in side for name in tokens) + 0.1 for side in names)
    above += 0.3 * (titles is not None)
    heads = [None if titles is None else shortened(drawable(title), 60) for title in titles or [""] * len(weights)]
    wide = [
        beside + max(cell * part.shape[1], 0 if head is None else _width(figure, head, 10))
        for part, head in zip(weights, heads, strict=True)
    ]
    rows: list[list[int]] = [[]]
    for i, width in enumerate(wide):
        if rows[-1] and sum(wide[j] + 0.2 for j in rows[-1]) + width > 12:
            rows.append([])
        rows[-1].append(i)
    heights = [above + max(cell * weights[i].shape[0] for i in row) + 0.25 for row in rows]
    size = max(sum(wide[i] + 0.2 for i in row) for row in rows) + 0.9, max(1.4, sum(heights))
    figure.set_size_inches(size)
    largest = max(1e-9, *(part.max().item() for part in weights))
    top = size[1]
    for row, height in zip(rows, heights, strict=True):
        left = 0.05
        for i in row:
            target_count, source_count = weights[i].shape
            box = (left + beside, top - above - cell * target_count, cell * source_count, cell * target_count)
            axes = figure.add_axes((box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]))
            values = weights[i].detach().cpu().double().numpy()
            shown = axes.imshow(values, cmap="Blues", vmin=0, vmax=largest, aspect="auto", interpolation="nearest")
            axes.xaxis.tick_top()
            axes.tick_params(length=0, pad=2, labelsize=font)
            for side, set_ticks in zip(names, (axes.set_xticks, axes.set_yticks), strict=True):
                count = len(side[i])
                set_ticks(range(count), side[i]) if count <= NAMED else set_ticks(range(0, count, 10))
            for label in axes.get_xticklabels() if len(names[0][i]) <= NAMED else ():
                label.set(rotation=90 if length(label.get_text()) > 2 else 0)
            known = family([*names[0][i], *names[1][i]])
            for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
                label.set(parse_math=False, family=known)
            if (head := heads[i]) is not None:
                style: dict[str, Any] = {"fontsize": 10, "parse_math": False, "family": family([head])}
                figure.text(box[0] / size[0], (top - 0.05) / size[1], head, va="top", **style)
            left += wide[i] + 0.2
        top -= height
    bar = min(1.6, size[1] - 0.4)
    scale = figure.add_axes((1 - 0.75 / size[0], 1 - (bar + 0.2) / size[1], 0.12 / size[0], bar / size[1]))
    figure.colorbar(shown, cax=scale, label="weight").ax.tick_params(labelsize=8)
    return to_image(figure)


def forecasts(context: Tensor, truth: Tensor, forecast: Tensor, naive: Tensor, names: Sequence[str]) -> Tensor:
    """Draw windows of series: the context, the truth that followed, the forecast, and a naive one to compare with.

    One panel for each window and target, nine at most: as many windows as there is room for.

    Args:
        context: What was read.
        truth: What followed; nan where nobody knows.
        forecast: What was forecast.
        naive: What another method forecasts.
        names: Names of the K targets.

    Shape:
        context: ``(B, T, K)``; truth, forecast, naive: ``(B, H, K)``.
    """
    context, truth, forecast, naive = (part.cpu().double() for part in (context, truth, forecast, naive))
    steps, horizon, targets = context.shape[1], *truth.shape[1:]
    shown = max(1, min(len(context), 9 // targets))
    windows = torch.linspace(0, len(context) - 1, shown).round().long().tolist()
    panels = [(window, k) for window in windows for k in range(min(targets, 9))][:9]
    after = torch.arange(horizon + 1)

    def one(axes: "Axes", index: int) -> None:
        window, k = panels[index]
        past = context[window, :, k]
        axes.plot(torch.arange(1 - steps, 1), past, color="#888888", lw=1.5, label="context")
        lines = (
            (naive, "#9a9a9a", ":", "naive"),
            (truth, "#222222", "-", "true"),
            (forecast, "#d9722e", "-", "forecast"),
        )
        for values, color, style, label in lines:
            line = torch.cat([past[-1:], values[window, :, k]])
            axes.plot(after, line, color=color, ls=style, lw=1.5, marker="." if horizon <= 24 else "", label=label)
        errors = (values[window, :, k] - truth[window, :, k] for values in (forecast, naive))
        mae, other = (error.abs().nanmean().item() for error in errors)
        axes.set_title(f"mae {mae:.4g}, naive {other:.4g}", fontsize=10)
        axes.set_xlabel("steps after the context")
        name = shortened(drawable(names[k]), 40)
        axes.set_ylabel(name, parse_math=False, family=family([name]))
        axes.legend(frameon=False, fontsize=8)

    return _panels(len(panels), one)


def series_pairs(one: Tensor, two: Tensor, ends: Sequence[int], names: tuple[str, str]) -> Tensor:
    """Draw series over the steps, each beside another one: up to three values of a step as lines, more as maps, a row a value.

    Args:
        one, two: Series ``(N, T, D)``.
        ends: Number of steps of each that are drawn.
        names: What they are.
    """
    from matplotlib.ticker import MaxNLocator

    one, two = one.cpu().double(), two.cpu().double()
    count, steps, size = one.shape
    lines = size <= 3
    figure = new_figure(4.6 if lines else 7.0, 2.2 * count)
    low, high = min(one.min().item(), two.min().item()), max(one.max().item(), two.max().item())
    for i, end in enumerate(ends):
        pair = [(one[i, :end], names[0], "-"), (two[i, :end], names[1], "--")]
        if lines:
            axes = figure.add_subplot(count, 1, i + 1)
            for part, name, style in pair:
                for d in range(size):
                    axes.plot(
                        range(end), part[:, d], color=f"C{d}", ls=style, label=f"{name} {d}" if size > 1 else name
                    )
            axes.set(xlabel="step", xlim=(-0.5, steps - 0.5))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.25)
            if i == 0:
                figure.legend(
                    *axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8
                )
            continue
        for k, (part, name, _) in enumerate(pair):
            axes = figure.add_subplot(count, 2, 2 * i + k + 1)
            axes.imshow(part.T.numpy(), cmap="gray", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
            axes.set(
                xlabel="step", ylabel="value", xlim=(-0.5, steps - 0.5), facecolor="#bcd0e8"
            )  # blue: beyond the end
            if i == 0:
                axes.set_title(name, fontsize=10)
    return to_image(figure)


def _token(token: str) -> str:
    """A token as a label in which each character can be seen."""
    token = token.replace("\n", "\\n").replace("\t", "\\t")
    if token and unicodedata.combining(token[0]):
        token = f"\u25cc{token}"  # on a dotted circle
    return shortened(drawable(token).replace(" ", "\u2423"), 16)


def _width(figure: "Figure", text: str, size: float) -> float:
    """Width of a line of text in inches, drawn in the fonts of :func:`~zoo.drawing.fonts.family`."""
    from matplotlib.font_manager import FontProperties

    canvas: Any = figure.canvas
    properties = FontProperties(family=family([text]), size=size)
    return canvas.get_renderer().get_text_width_height_descent(text, properties, ismath=False)[0] / figure.dpi


def shortened(text: str, most: int) -> str:
    """Cut a text to at most ``most`` letters in width; the last is an ellipsis if any are missing."""
    if length(text) <= most:
        return text
    while length(text) > most - 1:
        text = text[:-1]
    return text + "…"


def _panels(count: int, draw: Callable[["Axes", int], None]) -> Tensor:
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    figure = new_figure(4.6 * columns, 4.4 * rows)
    for k in range(count):
        axes = figure.add_subplot(rows, columns, k + 1)
        draw(axes, k)
        axes.grid(alpha=0.25)
    return to_image(figure)


def rgb(color: str) -> list[int]:
    """Return the red, green and blue of a color such as "#c62828"."""
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]
