"""A reader of the masks of drawn shapes, an upper bound for what can be told by looking at their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from datamodules.shape_captions import RELATIONS
from datamodules.shapes import CLASS_NAMES, COLORS, OUTLINES

if TYPE_CHECKING:
    from numpy import ndarray

_SPECKS = 10  # pixels of a color, in a class, that are none but noise
_NEAR = 6  # pixels around a region in which the outline of its shape is looked for
_ROUNDS, _TRIED, _KEPT = 6, 40, 8  # of the search for an outline


class MaskReader:
    """Captions by the rule of :class:`datamodules.ShapeCaptionsDataModule`, from the class of each pixel and its color.

    The pixels of a class fall apart into shapes by their colors, each smoothed over its neighbors. The two shapes with most pixels
    are named. Where they do not touch, their areas and centers tell the rest. Where they do, the outline of a shape of its class is
    fitted to each, once as the upper one, which ends where the other begins, and once as the lower one, which may go on below it;
    the one that loses the least as the upper one is "over" the other.

    Example:
        >>> from datamodules import ShapeCaptionsDataModule
        >>> data = ShapeCaptionsDataModule(count=20)
        >>> data.setup("fit")
        >>> images = np.stack([x.image.numpy() for x, _ in data._parts["val"]])
        >>> MaskReader().predict(images, data.masks["val"].numpy()) == data.captions["val"]
        True
    """

    def fit(self, images: "ndarray", captions: Sequence[Sequence[str]]) -> Self:
        """Learn nothing."""
        return self

    def predict(self, images: "ndarray", masks: "ndarray") -> list[str]:
        """Return the caption of each image.

        Shape:
            uint8 ``(N, 3, H, W)``, uint8 ``(N, H, W)``.
        """
        return [_read(image, mask) for image, mask in zip(images, masks, strict=True)]


@dataclass
class _Region:
    """What is seen of a shape."""

    color: int  # in COLORS
    kind: int  # in CLASS_NAMES
    where: "ndarray"  # bool (H, W)

    def __post_init__(self) -> None:
        places = np.argwhere(self.where) + 0.5
        self.area, self.center = len(places), places.mean(axis=0)

    @property
    def name(self) -> str:
        return f"a {[*COLORS][self.color]} {CLASS_NAMES[self.kind]}"


def _read(image: "ndarray", mask: "ndarray") -> str:
    regions = sorted(_regions(image, mask), key=lambda region: -region.area)
    if len(regions) < 2:
        return regions[0].name if regions else ""
    first, second = regions[:2]
    if (_grown(first.where, 1) & second.where).any():
        ground = mask == 0
        losses = [_loss_as_upper(one, other, ground) for one, other in ((first, second), (second, first))]
        upper, lower = (first, second) if losses[0] <= losses[1] else (second, first)
        return f"{upper.name} {RELATIONS[0]} {lower.name}"
    down, right = second.center - first.center
    across = abs(right) >= abs(down)
    place = (1 if right > 0 else 2) if across else (3 if down > 0 else 4)
    return f"{first.name} {RELATIONS[place]} {second.name}"


def _regions(image: "ndarray", mask: "ndarray") -> list[_Region]:
    palette = np.array([*COLORS.values()], np.float32)
    distance = ((image[None].astype(np.float32) - palette[:, :, None, None]) ** 2).sum(axis=1)  # (6, H, W)
    found = []
    for kind in range(1, len(CLASS_NAMES)):
        where = mask == kind
        if where.any():
            near = _sum_of_neighbors(distance * where) / np.maximum(
                _sum_of_neighbors(where[None].astype(np.float32)), 1
            )
            near[:, ~where] = np.inf
            sizes = np.bincount(near.argmin(axis=0)[where], minlength=len(palette))
            colors = np.flatnonzero(sizes >= min(_SPECKS, sizes.max()))
            nearest = colors[near[colors].argmin(axis=0)]
            found += [_Region(int(color), kind, where & (nearest == color)) for color in colors]
    return [region for region in found if region.area]


def _sum_of_neighbors(values: "ndarray") -> "ndarray":
    """Return the sum over each pixel and its eight neighbors: ``(..., H, W)``."""
    height, width = values.shape[-2:]
    wide = np.pad(values, [(0, 0)] * (values.ndim - 2) + [(1, 1), (1, 1)])
    total = np.zeros_like(values)
    for y in range(3):
        for x in range(3):
            total += wide[..., y : y + height, x : x + width]
    return total


def _grown(where: "ndarray", by: int) -> "ndarray":
    for _ in range(by):
        where = _sum_of_neighbors(where.astype(np.uint8)) > 0
    return where


def _loss_as_upper(one: _Region, other: _Region, ground: "ndarray") -> int:
    """Return how many more pixels no outline explains if a shape ends where the other begins, than if it may go on below it."""
    near = _grown(one.where, _NEAR)
    as_lower = near & (one.where | ground)
    start = _fit(one, as_lower, None)
    as_upper = near & (one.where | ground | other.where)
    return _fit(one, as_upper, start[1])[0] - start[0]


def _fit(region: _Region, counts: "ndarray", start: "ndarray | None") -> tuple[int, "ndarray"]:
    """Return the number of pixels that the best outline gets wrong, and its row, column, radius and angle.

    A search by samples (the cross-entropy method), from the same random numbers for each region.

    Args:
        region: What is seen of the shape.
        counts: Pixels that count, bool ``(H, W)``.
        start: Outline to start from; None for one of the region's size.
    """
    size, outline = len(counts), OUTLINES[region.kind - 1]
    rows, columns = np.nonzero(counts)
    seen = region.where[counts]
    low = np.array([0.1 * size, 0.1 * size, 0.12 * size, -0.3])
    high = np.array([0.9 * size, 0.9 * size, 0.3 * size, 0.3])
    rng = np.random.default_rng(0)
    radius = 0.65 * region.area**0.5
    mean = np.array([*region.center, radius, 0.0]) if start is None else start
    spread = np.array([3.0, 3.0, 2.5, 0.2])
    best, least = mean, len(seen) + 1
    for _ in range(_ROUNDS):
        tried = np.clip(mean + spread * rng.standard_normal((_TRIED, 4)), low, high)
        tried[0] = np.clip(best, low, high)
        dy, dx = ((place + 0.5 - tried[:, i, None]) / tried[:, 2, None] for i, place in enumerate((rows, columns)))
        cos, sin = np.cos(tried[:, 3, None]), np.sin(tried[:, 3, None])
        wrong = (outline(cos * dx + sin * dy, cos * dy - sin * dx) != seen).sum(axis=1)
        order = np.argsort(wrong, kind="stable")[:_KEPT]
        if wrong[order[0]] < least:
            best, least = tried[order[0]], int(wrong[order[0]])
        mean, spread = tried[order].mean(axis=0), tried[order].std(axis=0) + 0.02 * np.array([1, 1, 1, 0.1])
    return least, best
