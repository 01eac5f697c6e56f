"""Shapes that lie over each other, drawn from a seed: masks without an annotator's mistakes, and a caption for each image."""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.checks import check_integer
from datamodules.segmentation import Pairs, SegmentationDataModule

COLORS = {
    "red": (214, 48, 40),
    "green": (44, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 210, 40),
    "purple": (150, 60, 190),
    "cyan": (40, 200, 210),
}
_TEST = 250  # images that test


class ShapesDataModule(SegmentationDataModule):
    """Circles, squares, triangles and crosses of different colors, random sizes, tilts and places over a gray ground, with noise.

    A later shape hides what lies under it. Color tells nothing of the class, so outlines must be seen: the arms of a cross
    are thin, and small shapes are a few pixels wide. Masks are exact, a pixel belongs to the shape that its middle lies in.

    Images are drawn from ``data_seed`` alone, without a file. The 250 test images are drawn by themselves: they are the same
    whatever ``count`` is. ``captions`` tells of the two shapes of which most can be seen: "a red circle over a blue square"
    if the one lies over the other, else "left of", "right of", "above" or "below".

    Args:
        count: images of the training part, validation included.
        size: height and width.
        shapes: most shapes in an image; each number from 2 is as frequent.
        noise: standard deviation of the Gaussian noise on each color value, >= 0, in units of the range 0 to 1.
        data_seed: of the draw; the run's seed does not change the data.
        **segmentation: the others of :class:`~datamodules.SegmentationDataModule`.

    Attributes:
        captions: after ``setup``, by split ("train", "val", "test") a caption for each example, in the examples' order.

    Raises:
        ValueError, TypeError: an argument out of its range, or of another type.

    Example:
        >>> data = ShapesDataModule(count=20, size=32)
        >>> data.setup("fit")
        >>> data.class_names, data.input_shape, data.captions["train"][0]
        (['background', 'circle', 'square', 'triangle', 'cross'], (3, 32, 32), 'a green square left of a purple triangle')
    """

    class_names = ["background", "circle", "square", "triangle", "cross"]

    def __init__(
        self,
        count: int = 3000,
        size: int = 48,
        shapes: int = 3,
        noise: float = 0.1,
        data_seed: int = 0,
        batch_size: int = 32,
        **segmentation: Any,
    ) -> None:
        super().__init__(size=size, batch_size=batch_size, **segmentation)
        check_integer("count", count, 1)
        check_integer("size", size, 8)
        check_integer("shapes", shapes, 2)
        check_integer("data_seed", data_seed, 0)
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise is a standard deviation >= 0, got {noise}")
        self.count = count
        self.shapes = shapes
        self.noise = noise
        self.data_seed = data_seed

    @property
    def captions(self) -> dict[str, list[str]]:
        """By split a caption for each example."""
        return {name: part.captions for name, part in self._parts.items() if isinstance(part, Drawn)}

    @override
    def examples(self, part: Literal["train", "test"]) -> "Drawn":
        count, stream = (self.count, 0) if part == "train" else (_TEST, 1)
        return draw(count, self.size[0], self.shapes, self.noise, np.random.default_rng([self.data_seed, stream]))


class Drawn(Pairs):
    """Drawn images, their masks and captions."""

    def __init__(self, x: Tensor, y: Tensor, captions: list[str]) -> None:
        super().__init__(x, y)
        self.captions = captions

    @override
    def subset(self, chosen: Tensor) -> "Drawn":
        captions = [caption for caption, one in zip(self.captions, chosen.tolist(), strict=True) if one]
        return Drawn(self.x[chosen], self.y[chosen], captions)


def draw(count: int, size: int, most: int, noise: float, rng: np.random.Generator) -> Drawn:
    """So many images of ``size`` x ``size`` with 2 to ``most`` shapes each."""
    shape = (count, most)
    number = rng.integers(2, most + 1, count)
    kind = rng.integers(1, len(ShapesDataModule.class_names), shape)
    color = rng.random((count, max(most, len(COLORS)))).argsort(axis=1)[:, :most] % len(
        COLORS
    )  # six before one comes again
    radius = size * rng.uniform(0.12, 0.3, shape)
    center = size * rng.uniform(0.1, 0.9, (*shape, 2))
    angle = rng.uniform(-0.3, 0.3, shape)  # free angles would take minutes to learn
    paint = np.array(list(COLORS.values()))[color] / 255 + rng.uniform(-0.1, 0.1, (*shape, 3))  # (N, M, 3)
    ground = rng.uniform(0.25, 0.75, (count, 1, 1, 1)) + rng.uniform(-0.04, 0.04, (count, 3, 1, 1))
    image = np.broadcast_to(ground, (count, 3, size, size)).astype(np.float32)
    top = np.full((count, size, size), -1, np.int8)  # the last shape that covers a pixel
    for k in range(most):
        (has,) = (number > k).nonzero()
        inside = _inside(kind[has, k], center[has, k], radius[has, k], angle[has, k], size)
        top[has] = np.where(inside, k, top[has])
        image[has] = np.where(inside[:, None], paint[has, k, :, None, None], image[has])
    image += noise * rng.standard_normal(image.shape, dtype=np.float32)
    x = torch.from_numpy((image * 255).round().clip(0, 255).astype(np.uint8))
    rows = np.arange(count)[:, None, None]
    mask = np.where(top < 0, 0, kind[rows, top]).astype(np.uint8)
    captions = [_caption(top[i], kind[i], color[i], center[i], radius[i], angle[i]) for i in range(count)]
    return Drawn(x, torch.from_numpy(mask), captions)


def _inside(kind: np.ndarray, center: np.ndarray, radius: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """The pixels whose middle lies in a shape, one an image: ``(N,)``, center ``(N, 2)`` as row, column -> bool ``(N, H, W)``."""
    middle = np.arange(size, dtype=np.float32) + 0.5
    dy, dx = ((middle - center[:, axis, None]) / radius[:, None] for axis in (0, 1))  # (N, H), (N, W)
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    u = (cos * dx[:, None, :] + sin * dy[:, :, None]).astype(np.float32)  # (N, H, W), in radii
    v = (cos * dy[:, :, None] - sin * dx[:, None, :]).astype(np.float32)
    inside = np.empty(u.shape, bool)
    for k, outline in enumerate((_circle, _square, _triangle, _cross), start=1):
        inside[kind == k] = outline(u[kind == k], v[kind == k])
    return inside


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u * u + v * v <= 0.8


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.8


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Equilateral, its corners 1.15 radii from the middle."""
    return (v >= -0.575) & (v + math.sqrt(3) * np.abs(u) <= 1.15)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Two bars, 2.2 radii long and a little over half a radius wide."""
    long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return (long <= 1.1) & (short <= 0.28)


def _caption(
    top: np.ndarray, kind: np.ndarray, color: np.ndarray, center: np.ndarray, radius: np.ndarray, angle: np.ndarray
) -> str:
    """What can be seen most of, in words."""
    names = list(COLORS)
    seen = np.bincount(top[top >= 0], minlength=len(kind))
    first, second = np.argsort(-seen, kind="stable")[:2]

    def name_of(k: int) -> str:
        return f"a {names[color[k]]} {ShapesDataModule.class_names[kind[k]]}"

    if not seen[second]:
        return name_of(first)
    upper, lower = max(first, second), min(first, second)
    covers = _inside(kind[[lower]], center[[lower]], radius[[lower]], angle[[lower]], len(top))[0] & (top == upper)
    if covers.any():
        return f"{name_of(upper)} over {name_of(lower)}"
    down, right = center[second] - center[first]
    words = ("left of", "right of") if abs(right) >= abs(down) else ("above", "below")
    return (
        f"{name_of(first)} {words[0] if (right if abs(right) >= abs(down) else down) > 0 else words[1]} {name_of(second)}"
    )
