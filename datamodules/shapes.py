"""Random overlapping shapes with exact masks."""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
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
CLASS_NAMES = ("background", "circle", "square", "triangle", "cross")
_TEST = 250  # number of test images
_AT_ONCE = 64  # images that are drawn at once: few enough for the processor's cache


class ShapesDataModule(SegmentationDataModule):
    """Circles, squares, triangles and crosses of different colors, sizes, angles and positions on a gray background, with noise.

    A later shape hides what is below it. Color does not depend on the class, so a net must see outlines: the arms of a cross are
    thin, and small shapes are a few pixels wide. Masks are exact: a pixel belongs to the shape that its center lies in.

    Images depend on ``data_seed`` alone, and there are no files. The 250 test images do not depend on ``count``. Images of such
    shapes with captions are those of :class:`~datamodules.ShapeCaptionsDataModule`.

    Args:
        count: Number of images of the training part, validation included.
        size: Height and width.
        shapes: Largest number of shapes in an image; each number from 2 on is equally frequent.
        noise: Standard deviation of the Gaussian noise on each color value in [0, 1], >= 0.
        data_seed: Seed of the data, which do not depend on the run's seed.
        **segmentation: Other arguments of :class:`~datamodules.SegmentationDataModule`.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.

    Example:
        >>> data = ShapesDataModule(count=20, size=32)
        >>> data.setup("fit")
        >>> data.class_names, data.input_shape
        (['background', 'circle', 'square', 'triangle', 'cross'], (3, 32, 32))
    """

    class_names = list(CLASS_NAMES)

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

    @override
    def examples(self, part: Literal["train", "test"]) -> Pairs:
        count, stream = (self.count, 0) if part == "train" else (_TEST, 1)
        return draw(count, self.size[0], self.shapes, self.noise, np.random.default_rng([self.data_seed, stream]))


class Scenes(NamedTuple):
    """What N images of at most M shapes are drawn from.

    Args:
        there: Whether there is such a shape, bool ``(N, M)``.
        kind: Index of each shape in ``CLASS_NAMES``, ``(N, M)``.
        color: Index of its color in ``COLORS``, ``(N, M)``.
        center: Its row and column, ``(N, M, 2)``.
        radius: In pixels, ``(N, M)``.
        angle: In radians, ``(N, M)``.
        paint: Red, green and blue of the ground and of each shape, in [0, 1], ``(N, 3, M + 1)``.
    """

    there: np.ndarray
    kind: np.ndarray
    color: np.ndarray
    center: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    paint: np.ndarray

    def take(self, chosen: slice | np.ndarray) -> "Scenes":
        """Return some of the images."""
        return Scenes(*(part[chosen] for part in self))


def random_scenes(count: int, size: int, most: int, rng: np.random.Generator) -> Scenes:
    """Return what ``count`` images of ``size`` x ``size`` pixels with 2 to ``most`` shapes each are drawn from."""
    shape = (count, most)
    number = rng.integers(2, most + 1, count)
    kind = rng.integers(1, len(CLASS_NAMES), shape)
    orders = rng.random((count, max(most, len(COLORS)))).argsort(axis=1)
    color = orders[:, :most] % len(COLORS)  # all six before one is repeated
    radius = size * rng.uniform(0.12, 0.3, shape)
    center = size * rng.uniform(0.1, 0.9, (*shape, 2))
    angle = rng.uniform(-0.3, 0.3, shape)  # free angles would take minutes to learn
    paint = np.array(list(COLORS.values()))[color] / 255 + rng.uniform(-0.1, 0.1, (*shape, 3))  # (N, M, 3)
    ground = rng.uniform(0.25, 0.75, (count, 1, 1)) + rng.uniform(-0.04, 0.04, (count, 1, 3))
    colors = np.concatenate([ground, paint], axis=1).astype(np.float32).swapaxes(1, 2)  # (N, M + 1, 3) -> (N, 3, M + 1)
    return Scenes(number[:, None] > np.arange(most), kind, color, center, radius, angle, colors)


def outlines(scenes: Scenes, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the shape that is seen at each pixel, -1 for the ground, and where each shape lies, hidden or not.

    Shape:
        int8 ``(N, H, W)``, bool ``(N, M, H, W)``.
    """
    there = scenes.there
    inside = np.zeros((*there.shape, size, size), bool)
    inside[there] = _inside(scenes.kind[there], scenes.center[there], scenes.radius[there], scenes.angle[there], size)
    top = np.full((len(there), size, size), -1, np.int8)  # the last shape that covers a pixel
    for k in range(there.shape[1]):
        top[inside[:, k]] = k
    return top, inside


def painted(scenes: Scenes, top: np.ndarray, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 ``(N, 3, H, W)``, and the classes of their pixels, uint8 ``(N, H, W)``.

    Args:
        scenes: What they are drawn from.
        top: The shape that is seen at each pixel, from :func:`outlines`.
        noise: Standard deviation of the noise on each color value in [0, 1].
        rng: Generator of the noise.
    """
    over = top.reshape(len(top), 1, -1).astype(np.intp) + 1  # 0: the ground
    image = np.take_along_axis(scenes.paint, over, axis=2).reshape(-1, 3, *top.shape[1:])
    image += noise * rng.standard_normal(image.shape, dtype=np.float32)
    kinds = np.concatenate([np.zeros((len(top), 1), np.uint8), scenes.kind.astype(np.uint8)], axis=1)
    mask = np.take_along_axis(kinds, over[:, 0], axis=1).reshape(top.shape)
    np.rint(image * np.float32(255), out=image)
    return image.clip(0, 255, out=image).astype(np.uint8), mask


def draw(count: int, size: int, most: int, noise: float, rng: np.random.Generator) -> Pairs:
    """Return ``count`` images of ``size`` x ``size`` pixels with 2 to ``most`` shapes each, and their masks."""
    scenes = random_scenes(count, size, most, rng)
    parts = []
    for start in range(0, count, _AT_ONCE):
        some = scenes.take(slice(start, start + _AT_ONCE))
        parts.append(painted(some, outlines(some, size)[0], noise, rng))
    x, y = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return Pairs(x, y)


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
    for k, outline in enumerate(OUTLINES, start=1):
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


# Of each class but the background: whether points are in the shape, from their distances to its center to the right and down,
# along its own axes, in radii.
OUTLINES = (_circle, _square, _triangle, _cross)
