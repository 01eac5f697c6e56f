"""Random overlapping shapes, each image with a caption that can be decided by looking at it."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.captions import CaptionDataModule, CaptionRows, Pictures
from datamodules.checks import check_integer, is_number
from datamodules.examples import Examples
from datamodules.shapes import CLASS_NAMES, COLORS, Scenes, outlines, painted, random_scenes
from datamodules.texts import encode, ended, words_of

TestPairs = Literal["held_in", "held_out"]
RELATIONS = ("over", "left of", "right of", "above", "below")
HELD_OUT = (
    ("red", "circle"),
    ("green", "square"),
    ("blue", "triangle"),
    ("yellow", "cross"),
)  # each shape, other colors
_TEST = 1000  # number of test images of either kind
_AT_ONCE = 256  # images that are drawn at once, of which some are kept: another number gives other images
_LENGTH = 9  # tokens of a caption such as "a red circle left of a blue square", with its end

# What makes a caption hang on so little that it cannot be decided; such an image is drawn again.
LEAST_SEEN = 20  # pixels of a captioned shape that are seen
LEAST_HIDDEN = 20  # pixels that one captioned shape hides of the other, if any
LEAST_SEAM = 4  # pairs of pixels along which the two touch where one hides the other
LEAST_OFFSET = 3.0  # pixels between the two offsets of which the larger decides the relation
NEXT_AREA = 0.85  # of two seen areas that are compared, the largest share of the larger one that the smaller may have


class ShapeCaptionsDataModule(CaptionDataModule):
    """The shapes of :class:`~datamodules.ShapesDataModule`, with captions such as "a red circle over a blue square".

    A caption names the two shapes of which the most is seen. If one hides a part of the other, it is "over" that one, and named
    first. Otherwise the larger one is named first, as "left of", "right of", "above" or "below" the other, by the larger offset
    between the centers of what is seen of them.

    Every caption can be decided by looking at its image: it is drawn again if fewer than 20 pixels of a captioned shape are seen;
    if the third shape has more than 85% of the second's area, or, without "over", the second more than 85% of the first's; if the
    horizontal and the vertical offset, without "over", differ by less than 3 pixels; if one hides fewer than 20 pixels of the
    other, or, without "over", the two touch; and if they hardly touch although one is over the other. Five of twelve images are.

    No image of training or validation has a red circle, a green square, a blue triangle or a yellow cross in it, nor has one of the
    1,000 test images by default. With ``test_pairs="held_out"`` other 1,000 images are the test part, whose captions all name one
    of these: ``zoo test RUN --data.test_pairs held_out`` measures what a model makes of pairs that it knows one by one only.

    Images depend on ``data_seed`` alone, and the first ones do not depend on ``count``. There are no files.

    Args:
        count: Number of images of the training part, validation included.
        size: Height and width, >= 24.
        shapes: Largest number of shapes in an image, 2..6; no two are of one color.
        noise: Standard deviation of the Gaussian noise on each color value in [0, 1], >= 0.
        test_pairs: Which test part there is.
        data_seed: Seed of the data, which do not depend on the run's seed.
        color_jitter, batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.CaptionDataModule`.

    Attributes:
        captions: By split ("train", "val", "test"), a caption for each example, in the examples' order, after ``setup``.
        masks: By split, the class of each pixel, an index in ``shape_names`` + 1 or 0, uint8 ``(N, H, W)``, after ``setup``.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.

    Example:
        >>> data = ShapeCaptionsDataModule(count=20, size=32)
        >>> data.setup("fit")
        >>> data.input_shape, data.vocab_size, data.captions["train"][0]
        ((3, 32, 32), 19, 'a green triangle right of a cyan square')
    """

    def __init__(
        self,
        count: int = 10000,
        size: int = 48,
        shapes: int = 3,
        noise: float = 0.1,
        test_pairs: TestPairs = "held_in",
        data_seed: int = 0,
        color_jitter: float = 0.0,
        batch_size: int = 32,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(
            size=size,
            color_jitter=color_jitter,
            batch_size=batch_size,
            num_workers=num_workers,
            val_fraction=val_fraction,
            split_seed=split_seed,
            drop_last=drop_last,
        )
        check_integer("count", count, 1)
        check_integer("size", size, 24)
        check_integer("shapes", shapes, 2, len(COLORS))
        check_integer("data_seed", data_seed, 0)
        if not (is_number(noise) and noise >= 0):
            raise ValueError(f"noise must be a standard deviation >= 0, got {noise}")
        if test_pairs not in get_args(TestPairs):
            raise ValueError(f'test_pairs must be "held_in" or "held_out", got {test_pairs!r}')
        self.count = count
        self.shapes = shapes
        self.noise = noise
        self.test_pairs = test_pairs
        self.data_seed = data_seed

    # What is known before fit ---------------------------------------------------------------------------------------

    caption_length = _LENGTH
    attributes: Mapping[str, list[str]] = {
        "color": list(COLORS),
        "shape": list(CLASS_NAMES[1:]),
        "relation": list(RELATIONS),
    }

    @cached_property
    def vocabulary(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The vocabulary of captions, see :class:`~datamodules.CaptionDataModule`: every word is known."""
        return words_of(["a", *(phrase for phrases in self.attributes.values() for phrase in phrases)], unknown=False)

    # Splits ---------------------------------------------------------------------------------------------------------

    @property
    def captions(self) -> dict[str, list[str]]:
        """By split, a caption for each example."""
        return {name: part.texts for name, part in self._parts.items() if isinstance(part, ShapeRows)}

    @property
    def masks(self) -> dict[str, Tensor]:
        """By split, the classes of the pixels of each example."""
        return {name: part.masks for name, part in self._parts.items() if isinstance(part, ShapeRows)}

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        count, stream = (self.count, 0) if part == "train" else (_TEST, 1 + get_args(TestPairs).index(self.test_pairs))
        held_out = part == "test" and self.test_pairs == "held_out"
        seed = (self.data_seed, stream)
        drawn = draw(count, self.size[0], self.shapes, self.noise, held_out, seed)
        tokens = ended(encode(drawn.captions, self.vocabulary), _LENGTH, self.vocabulary)
        return ShapeRows(drawn, tokens, self.vocabulary)


class Drawn(NamedTuple):
    """Images of shapes.

    Args:
        x: uint8 ``(N, 3, H, W)``.
        masks: The class of each pixel, uint8 ``(N, H, W)``.
        captions: A caption of each image.
    """

    x: Tensor
    masks: Tensor
    captions: list[str]


class ShapeRows(CaptionRows):
    """Drawn images with their masks and captions, also as texts.

    Args:
        drawn: The images.
        captions: The caption of each as tokens, ``(N, T)``.
        vocabulary: What the tokens mean.
    """

    def __init__(self, drawn: Drawn, captions: Tensor, vocabulary: Mapping[str, Any]) -> None:
        super().__init__(Pictures(drawn.x), captions, torch.ones(len(captions), dtype=torch.long), vocabulary)
        self.masks = drawn.masks
        self.texts = drawn.captions

    @override
    def subset(self, chosen: Tensor) -> "ShapeRows":
        texts = [text for text, one in zip(self.texts, chosen.tolist(), strict=True) if one]
        drawn = Drawn(self.pictures.x[chosen], self.masks[chosen], texts)
        return ShapeRows(drawn, self.captions[chosen], self.vocabulary)


def draw(count: int, size: int, most: int, noise: float, held_out: bool, seed: tuple[int, ...]) -> Drawn:
    """Return ``count`` images whose captions can be decided; the first ones do not depend on ``count``.

    Args:
        count: Number of images.
        size: Height and width.
        most: Largest number of shapes in an image.
        noise: Standard deviation of the noise on each color value in [0, 1].
        held_out: Whether each caption names one of the pairs ``HELD_OUT``; otherwise no shape is one of them.
        seed: Seed of the images.
    """
    rng, of_noise = (np.random.default_rng([*seed, i]) for i in (0, 1))
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    captions: list[str] = []
    while len(captions) < count:
        scenes = random_scenes(_AT_ONCE, size, most, rng)
        held = _is_held(scenes)
        scenes = scenes.take(held.any(axis=1) == held_out)
        for start in range(0, len(scenes.there), 64):  # few enough for the processor's cache
            some = scenes.take(slice(start, start + 64))
            top, inside = outlines(some, size)
            told = told_by(top, inside)
            keep = told.decided
            if held_out:
                rows = np.arange(len(top))
                named = _is_held(some)
                keep = keep & (named[rows, told.first] | named[rows, told.second])
            keep = np.flatnonzero(keep)[: count - len(captions)]
            if not len(keep):
                continue
            x, y = painted(some.take(keep), top[keep], noise, of_noise)
            images.append(x)
            masks.append(y)
            captions += [_caption(some, told, i) for i in keep.tolist()]
    return Drawn(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(masks)), captions)


def _is_held(scenes: Scenes) -> np.ndarray:
    """Return whether a shape is there and one of the pairs that are held out: bool ``(N, M)``."""
    table = np.zeros((len(COLORS), len(CLASS_NAMES)), bool)
    for color, shape in HELD_OUT:
        table[list(COLORS).index(color), CLASS_NAMES.index(shape)] = True
    return scenes.there & table[scenes.color, scenes.kind]


def _caption(scenes: Scenes, told: "Told", i: int) -> str:
    colors = list(COLORS)
    names = [
        f"a {colors[scenes.color[i, k]]} {CLASS_NAMES[scenes.kind[i, k]]}" for k in (told.first[i], told.second[i])
    ]
    return f"{names[0]} {RELATIONS[told.relation[i]]} {names[1]}"


class Told(NamedTuple):
    """What the captions of N images tell.

    Args:
        first, second: The shape that is named first, and the other one, ``(N,)``.
        relation: Index of the relation between them in ``RELATIONS``, ``(N,)``.
        decided: Whether all of that can be decided, bool ``(N,)``.
    """

    first: np.ndarray
    second: np.ndarray
    relation: np.ndarray
    decided: np.ndarray


def told_by(top: np.ndarray, inside: np.ndarray) -> Told:
    """Return what the captions of images tell, by the rule of :class:`ShapeCaptionsDataModule`.

    Args:
        top: The shape that is seen at each pixel, or -1, ``(N, H, W)``.
        inside: Where each shape lies, hidden or not, bool ``(N, M, H, W)``.
    """
    rows, size = np.arange(len(top)), top.shape[-1]
    layers = top[:, None] == np.arange(inside.shape[1])[:, None, None]  # (N, M, H, W)
    seen = layers.sum(axis=(2, 3))  # (N, M)
    order = np.argsort(-seen, axis=1, kind="stable")
    first, second = order[:, 0], order[:, 1]
    upper, lower = np.maximum(first, second), np.minimum(first, second)
    above, below = layers[rows, upper], layers[rows, lower]
    hidden = (inside[rows, lower] & above).sum(axis=(1, 2))
    over = hidden > 0

    middle = np.arange(size) + 0.5
    places = [(layers.sum(axis=axis) * middle).sum(axis=2) / np.maximum(seen, 1) for axis in (3, 2)]
    down, right = (place[rows, second] - place[rows, first] for place in places)
    across = np.abs(right) >= np.abs(down)
    relation = np.where(across, np.where(right > 0, 1, 2), np.where(down > 0, 3, 4))

    areas = np.take_along_axis(seen, order, axis=1)
    third = areas[:, 2] if seen.shape[1] > 2 else 0
    decided = (areas[:, 1] >= LEAST_SEEN) & (third <= NEXT_AREA * areas[:, 1])
    apart = ~_touch(above, below) & (areas[:, 1] <= NEXT_AREA * areas[:, 0])
    apart &= np.abs(np.abs(right) - np.abs(down)) >= LEAST_OFFSET
    decided &= np.where(over, (hidden >= LEAST_HIDDEN) & (_seam(above, below) >= LEAST_SEAM), apart)
    return Told(np.where(over, upper, first), np.where(over, lower, second), np.where(over, 0, relation), decided)


def _seam(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the number of pairs of neighboring pixels, left and right or up and down, one in each mask: ``(N,)``."""
    count = np.zeros(len(one), int)
    for a, b in ((one, other), (other, one)):
        count += (a[:, 1:] & b[:, :-1]).sum(axis=(1, 2)) + (a[:, :, 1:] & b[:, :, :-1]).sum(axis=(1, 2))
    return count


def _touch(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return whether a pixel of one mask is beside one of the other, also by a corner: bool ``(N,)``."""
    rows = one.copy()
    rows[:, 1:] |= one[:, :-1]
    rows[:, :-1] |= one[:, 1:]
    near = rows.copy()
    near[:, :, 1:] |= rows[:, :, :-1]
    near[:, :, :-1] |= rows[:, :, 1:]
    return (near & other).any(axis=(1, 2))
