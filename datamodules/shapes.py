"""Random overlapping shapes with exact masks and a caption for each image."""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.checks import check_integer, is_number
from datamodules.segmentation import Pairs, SegmentationDataModule

COLORS = {
    "red": (214, 48, 40),
    "green": (44, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 210, 40),
    "purple": (150, 60, 190),
    "cyan": (40, 200, 210),
}
_TEST = 250  # number of test images
_AT_ONCE = 64  # images that are drawn at once: few enough for the processor's cache


class ShapesDataModule(SegmentationDataModule):
    """Circles, squares, triangles and crosses of different colors, sizes, angles and positions on a gray background, with noise.

    A later shape hides what is below it. Color does not depend on the class, so a net must see outlines: the arms of a cross are
    thin, and small shapes are a few pixels wide. Masks are exact: a pixel belongs to the shape that its center lies in.

    Images depend on ``data_seed`` alone, and there are no files. The 250 test images do not depend on ``count``. A caption names
    the two shapes with the most visible pixels: "a red circle over a blue square" if one covers a part of the other, otherwise
    "left of", "right of", "above" or "below".

    Args:
        count: Number of images of the training part, validation included.
        size: Height and width.
        shapes: Largest number of shapes in an image; each number from 2 on is equally frequent.
        noise: Standard deviation of the Gaussian noise on each color value in [0, 1], >= 0.
        data_seed: Seed of the data, which do not depend on the run's seed.
        **segmentation: Other arguments of :class:`~datamodules.SegmentationDataModule`.

    Attributes:
        captions: By split ("train", "val", "test"), a caption for each example, in the examples' order, after ``setup``.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.

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
        if not (is_number(noise) and noise >= 0):
            raise ValueError(f"noise must be a standard deviation >= 0, got {noise}")
        self.count = count
        self.shapes = shapes
        self.noise = noise
        self.data_seed = data_seed

    @property
    def captions(self) -> dict[str, list[str]]:
        """By split, a caption for each example."""
        return {name: part.captions for name, part in self._parts.items() if isinstance(part, Drawn)}

    @override
    def examples(self, part: Literal["train", "test"]) -> "Drawn":
        count, stream = (self.count, 0) if part == "train" else (_TEST, 1)
        return draw(count, self.size[0], self.shapes, self.noise, np.random.default_rng([self.data_seed, stream]))


class Drawn(Pairs):
    """Random images with their masks and captions."""

    def __init__(self, x: Tensor, y: Tensor, captions: list[str]) -> None:
        super().__init__(x, y)
        self.captions = captions

    @override
    def subset(self, chosen: Tensor) -> "Drawn":
        captions = [caption for caption, one in zip(self.captions, chosen.tolist(), strict=True) if one]
        return Drawn(self.x[chosen], self.y[chosen], captions)


def draw(count: int, size: int, most: int, noise: float, rng: np.random.Generator) -> Drawn:
    """Return ``count`` images of ``size`` x ``size`` pixels with 2 to ``most`` shapes each."""
    shape = (count, most)
    number = rng.integers(2, most + 1, count)
    kind = rng.integers(1, len(ShapesDataModule.class_names), shape)
    orders = rng.random((count, max(most, len(COLORS)))).argsort(axis=1)
    color = orders[:, :most] % len(COLORS)  # all six before one is repeated
    radius = size * rng.uniform(0.12, 0.3, shape)
    center = size * rng.uniform(0.1, 0.9, (*shape, 2))
    angle = rng.uniform(-0.3, 0.3, shape)  # free angles would take minutes to learn
    paint = np.array(list(COLORS.values()))[color] / 255 + rng.uniform(-0.1, 0.1, (*shape, 3))  # (N, M, 3)
    ground = rng.uniform(0.25, 0.75, (count, 1, 1)) + rng.uniform(-0.04, 0.04, (count, 1, 3))
    colors = np.concatenate([ground, paint], axis=1).astype(np.float32).swapaxes(1, 2)  # (N, M + 1, 3) -> (N, 3, M + 1)
    parts = []
    for start in range(0, count, _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        there = number[some, None] > np.arange(most)  # (n, M)
        inside = np.zeros((*there.shape, size, size), bool)
        inside[there] = _inside(kind[some][there], center[some][there], radius[some][there], angle[some][there], size)
        top = np.full((len(there), size, size), -1, np.int8)  # the last shape that covers a pixel
        for k in range(most):
            top[inside[:, k]] = k
        over = top.reshape(len(there), 1, -1).astype(np.intp) + 1  # 0: the ground
        image = np.take_along_axis(colors[some], over, axis=2).reshape(-1, 3, size, size)
        image += noise * rng.standard_normal(image.shape, dtype=np.float32)
        kinds = np.concatenate([np.zeros((len(there), 1), np.uint8), kind[some].astype(np.uint8)], axis=1)
        mask = np.take_along_axis(kinds, over[:, 0], axis=1).reshape(top.shape)
        np.rint(image * np.float32(255), out=image)
        parts.append(
            (
                image.clip(0, 255, out=image).astype(np.uint8),
                mask,
                _captions(top, inside, kind[some], color[some], center[some]),
            )
        )
    x, y = (torch.from_numpy(np.concatenate([part[i] for part in parts])) for i in (0, 1))
    return Drawn(x, y, [caption for part in parts for caption in part[2]])


def _inside(kind: np.ndarray, center: np.ndarray, radius: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """Return a mask of the pixels whose center lies in the shape of their image: bool ``(N, H, W)``.

    Shape:
        kind, radius, angle: ``(N,)``, center: ``(N, 2)``, row and column.
    """
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
    """An equilateral triangle whose corners are 1.15 radii from the center."""
    return (v >= -0.575) & (v + math.sqrt(3) * np.abs(u) <= 1.15)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Two bars, 2.2 radii long and 0.56 radii wide."""
    long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return (long <= 1.1) & (short <= 0.28)


def _captions(
    top: np.ndarray, inside: np.ndarray, kind: np.ndarray, color: np.ndarray, center: np.ndarray
) -> list[str]:
    """Return captions of the two shapes with the most visible pixels of each image.

    Shape:
        top: ``(N, H, W)``, the shape that is seen, or -1; inside: ``(N, M, H, W)``, where each shape lies, hidden or not; kind,
        color: ``(N, M)``, center: ``(N, M, 2)``.
    """
    rows = np.arange(len(top))
    seen = np.stack([(top == k).sum(axis=(1, 2)) for k in range(kind.shape[1])], axis=1)  # (N, M)
    first, second = np.argsort(-seen, axis=1, kind="stable")[:, :2].T
    upper, lower = np.maximum(first, second), np.minimum(first, second)
    covers = (inside[rows, lower] & (top == upper[:, None, None])).any(axis=(1, 2))
    apart = center[rows, second] - center[rows, first]
    colors = list(COLORS)

    def name_of(i: int, k: int) -> str:
        return f"a {colors[color[i, k]]} {ShapesDataModule.class_names[kind[i, k]]}"

    def caption(i: int) -> str:
        if not seen[i, second[i]]:
            return name_of(i, first[i])
        if covers[i]:
            return f"{name_of(i, upper[i])} over {name_of(i, lower[i])}"
        down, right = apart[i]
        words = ("left of", "right of") if abs(right) >= abs(down) else ("above", "below")
        relation = words[0] if (right if abs(right) >= abs(down) else down) > 0 else words[1]
        return f"{name_of(i, first[i])} {relation} {name_of(i, second[i])}"

    return [caption(i) for i in range(len(top))]
