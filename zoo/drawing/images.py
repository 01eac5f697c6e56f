"""Pictures of what a model makes: walls of images, rows of pairs, clouds of points. All are uint8 ``(3, H, W)``."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.drawing.figures import TILE, class_colors, new_figure, to_image

_GAP = 2  # pixels between images


def image_wall(images: Tensor, columns: int | None = None) -> Tensor:
    """Images side by side, nothing written on them; small ones are enlarged by a whole number.

    Args:
        images: ``(N, 1 or 3, H, W)``, float in [0, 1] (what lies outside is cut), N >= 1.
        columns: images in a row; by default about as many as rows.

    Returns:
        White between the images, ``_GAP`` pixels; places without an image are white too.
    """
    count, _, height, width = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    rows = math.ceil(count / columns)
    scale = max(1, math.ceil(TILE / max(height, width)))
    tiles = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1)
    tiles = F.interpolate(tiles, scale_factor=scale, mode="nearest") if scale > 1 else tiles
    height, width = tiles.shape[2:]
    wall = torch.full((3, rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP), 255, dtype=torch.uint8)
    for i, tile in enumerate(tiles):
        top, left = _GAP + i // columns * (height + _GAP), _GAP + i % columns * (width + _GAP)
        wall[:, top : top + height, left : left + width] = tile
    return wall


def image_rows(rows: Sequence[Tensor]) -> Tensor:
    """Rows of images, one below the other, such as inputs over their reconstructions: each ``(N, C, H, W)`` in [0, 1]."""
    return image_wall(torch.cat([row.expand(-1, 3, -1, -1) for row in rows]), columns=len(rows[0]))


def clouds(real: Tensor | None, made: Tensor) -> Tensor:
    """Points of the plane: those of the data, if any, and, over them, those a model made; ``(N, 2)`` each."""
    figure = new_figure(5, 5)
    axes = figure.add_subplot()
    for points, color, label in ((real, "#9aa5b1", "data"), (made, "#d9722e", "model")):
        if points is None:
            continue
        x, y = points.detach().float().cpu().unbind(1)
        axes.scatter(x, y, s=10, color=color, alpha=0.6, linewidths=0, label=label)
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)  # over no point
    axes.grid(alpha=0.25)
    return to_image(figure)


def codes(z: Tensor, y: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """Codes of two numbers ``(N, 2)``, each in the color of its class: y int64 ``(N,)``; other targets are one gray."""
    figure = new_figure(6.5, 5)
    axes = figure.add_subplot()
    points, classes = z.detach().float().cpu(), y.detach().cpu()
    known = not classes.is_floating_point() and classes.ndim == 1
    colors = class_colors(int(classes.max()) + 1) if known else np.full((1, 3), 0.5)
    for k in range(len(colors)):
        own = points[classes == k] if known else points
        if len(own):
            name = names[k] if known and names else str(k)
            axes.scatter(own[:, 0], own[:, 1], s=18, color=colors[k], alpha=0.8, linewidths=0, label=name)
    axes.set(xlabel="z0", ylabel="z1")
    axes.grid(alpha=0.25)
    if known and len(colors) <= 20:
        for text in figure.legend(loc="outside right upper", frameon=False, fontsize=9).get_texts():
            text.set_parse_math(False)
    return to_image(figure)


def are_images(x: Tensor) -> bool:
    """Whether a batch can be drawn: one channel or three."""
    return x.ndim == 4 and x.shape[1] in (1, 3)
