"""Base of data whose whole images are resized, and in training cropped, mirrored and colored with what belongs to them."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torchvision.transforms import v2
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_integer, is_number
from datamodules.decode import Box, Size, random_part, whole
from datamodules.examples import Examples


class ResizedImagesDataModule(DataModule):
    """Images of one size. A subclass returns :class:`ResizedExamples` from :meth:`examples`.

    In evaluation, the whole image is resized to ``size`` without keeping its aspect ratio. Training images are cropped, mirrored
    and colored at random, each as a function of (run seed, epoch, image): a stopped run continues exactly, with any number of
    workers and processes.

    Args:
        size: Height and width of an image, as one number or two.
        flip: Whether to mirror training images left and right with probability 1/2.
        resized_crop: Smallest share of a training image's area that is cropped at random, at an aspect ratio of 3/4 to 4/3, and
            resized to ``size``; 0 takes the whole image.
        color_jitter: Training images' brightness, contrast and saturation change by a random factor of 1 - this to 1 + this, in
            [0, 1].
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`; the validation part
            is not stratified.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.
    """

    channels = 3

    def __init__(
        self,
        size: int | Sequence[int] = 256,
        flip: bool = False,
        resized_crop: float = 0.0,
        color_jitter: float = 0.0,
        batch_size: int = 16,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed, drop_last)
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2:
            raise ValueError(f"size must be one number, or height and width, got {size}")
        for side in sides:
            check_integer("size", side, 1)
        for name, value in (("resized_crop", resized_crop), ("color_jitter", color_jitter)):
            if not (is_number(value) and 0 <= value <= 1):
                raise ValueError(f"{name} must be a share in [0, 1] (0: off), got {value}")
        self.size = (sides[0], sides[1])
        self.flip = flip
        self.resized_crop = resized_crop
        self.color_jitter = color_jitter

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of an input of the net."""
        return (self.channels, *self.size)

    @property
    def preparation(self) -> dict[str, Any]:
        """How an image file becomes an input in evaluation, as plain data for a model to save."""
        return {"whole": True} | self.seen_in_training

    @override
    def ready(self, examples: Examples) -> Examples:
        assert isinstance(examples, ResizedExamples)
        ready = copy.copy(examples)
        ready.size = self.size
        ready.crop = partial(random_part, least=self.resized_crop) if self.resized_crop else whole
        changes: list[Any] = [v2.RandomHorizontalFlip()] * self.flip
        changes += [v2.ColorJitter(*[self.color_jitter] * 3)] if self.color_jitter else []
        ready.change = v2.Compose(changes) if changes else None
        return ready


class ResizedExamples(Examples):
    """Examples with an image, which :class:`ResizedImagesDataModule` tells its size and what changes it in training."""

    size: tuple[int, int]  # height and width of the results
    crop: Callable[[Size], Box] = staticmethod(whole)  # in training: the part of an image, of its width and height
    change: Callable[..., Any] | None = None  # in training: transform of the resized image, and of what belongs to it

    @property
    def draws(self) -> bool:
        """Whether random numbers are drawn for each image."""
        return self.training is not None and (self.crop is not whole or self.change is not None)
