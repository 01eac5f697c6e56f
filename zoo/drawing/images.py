"""Pictures of samples: walls of images, rows of pairs, clouds of points, codes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.drawing.figures import add_legend, new_figure, scatter_classes, to_image
from zoo.drawing.tiles import enlarge, to_uint8

_GAP = 2  # pixels between images


def image_wall(images: Tensor, columns: int | None = None) -> Tensor:
    """Draw images side by side, without text; small ones are enlarged by a whole number.

    Args:
        images: Images ``(N, 1 or 3, H, W)``, float in [0, 1] (other values are cut), N >= 1.
        columns: Images in a row; by default about as many as rows.

    Returns:
        The images on white, ``_GAP`` pixels apart.
    """
    tiles = enlarge(to_uint8(images))
    count, _, height, width = tiles.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    rows = math.ceil(count / columns)
    wall = torch.full((3, rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP), 255, dtype=torch.uint8)
    for i, tile in enumerate(tiles):
        top, left = _GAP + i // columns * (height + _GAP), _GAP + i % columns * (width + _GAP)
        wall[:, top : top + height, left : left + width] = tile
    return wall


def image_rows(rows: Sequence[Tensor]) -> Tensor:
    """Draw rows of images, one below the other, such as inputs over their reconstructions: each ``(N, C, H, W)`` in [0, 1]."""
    return image_wall(torch.cat([row.expand(-1, 3, -1, -1) for row in rows]), columns=len(rows[0]))


def clouds(real: Tensor | None, made: Tensor) -> Tensor:
    """Draw points of the plane ``(N, 2)``: those of the data, if any, and over them those of a model."""
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
    """Draw codes ``(N, 2)`` in the color of their class.

    Args:
        z: Codes.
        y: Classes, int64 ``(N,)``; with other targets all codes are gray.
        names: Names of the classes; by default their numbers.
    """
    figure = new_figure(6.5, 5)
    axes = figure.add_subplot()
    points, classes = z.detach().float().cpu(), y.detach().cpu()
    axes.set(xlabel="z0", ylabel="z1")
    axes.grid(alpha=0.25)
    if classes.is_floating_point() or classes.ndim != 1:
        axes.scatter(points[:, 0], points[:, 1], s=18, color="0.5", alpha=0.8, linewidths=0)
        return to_image(figure)
    names = names or [str(k) for k in range(int(classes.max()) + 1)]
    add_legend(figure, scatter_classes(axes, points, classes, names), len(names))
    return to_image(figure)


def are_images(x: Tensor) -> bool:
    """Return whether a batch can be drawn as images: it has one channel or three."""
    return x.ndim == 4 and x.shape[1] in (1, 3)
