"""Base of all images with captions, which are to be written after looking at the image."""

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_integer, is_number
from datamodules.decode import Box, Size, random_part, whole
from datamodules.examples import CaptionedImage, Examples
from datamodules.images import statistics
from datamodules.internals import in_precision
from datamodules.splits import digest
from datamodules.texts import size_of

_SAMPLE = 512  # number of training images that mean and std are estimated from


class CaptionDataModule(DataModule):
    """Images and captions as tokens. A subclass gives :meth:`examples`, which are :class:`CaptionRows`, and a vocabulary.

    On the device a batch becomes ``(x, y)``. x is a :class:`~datamodules.CaptionedImage`: ``image`` float32 in [0, 1]
    ``(B, C, H, W)``, and ``caption``, what a decoder reads: R captions of each image, each the end and its tokens, int64
    ``(B, R, T)``. y is what it is to write, the tokens of each caption and the end, int64 ``(B, R, T)``. Both are padded to the
    longest caption of the batch; an image with fewer captions than another of the batch has rows of padding only. Evaluation may
    yield ``(x, y, weight)``, see :class:`~datamodules.DataModule`. Examples are images: all captions of one are in one part.

    In evaluation, the whole image is resized to ``size`` without keeping its aspect ratio. Training images are cropped, mirrored
    and colored at random, each as a function of (run seed, epoch, image): a stopped run continues exactly, with any number of
    workers and processes. All of that is off by default: a mirrored image belies "left of", a cropped one may lack what its
    caption tells.

    Args:
        size: Height and width of an image, as one number or two.
        flip: Whether to mirror training images left and right with probability 1/2.
        resized_crop: Smallest share of a training image's area that is cropped at random, at an aspect ratio of 3/4 to 4/3, and
            resized to ``size``; 0 takes the whole image.
        color_jitter: Training images' brightness, contrast and saturation change by a random factor of 1 - this to 1 + this, in
            [0, 1].
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`; the validation part
            is not stratified.

    Attributes:
        vocabulary: The vocabulary of captions as plain data, which a model keeps, see
            :class:`~datamodules.TextCaptionDataModule`.
        caption_length: Number of tokens of the longest caption, with its end.
        attributes: What captions are about, such as "color", and the words or phrases for it; empty where it is not known. A
            model measures how often it gets each right.
        mean, std: Statistics of up to 512 training images, evenly spread, one for each channel: ``(C,)``, after ``setup("fit")``.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.
    """

    kind = "captioning"
    channels = 3
    vocabulary: Mapping[str, Any]
    caption_length: int
    attributes: Mapping[str, list[str]] = {}

    def __init__(
        self,
        size: int | Sequence[int] = 224,
        flip: bool = False,
        resized_crop: float = 0.0,
        color_jitter: float = 0.0,
        batch_size: int = 32,
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
        """``(C, H, W)`` of an image."""
        return (self.channels, *self.size)

    @property
    def vocab_size(self) -> int:
        """Number of tokens V of the vocabulary, with those for padding and end."""
        return size_of(self.vocabulary)

    @property
    def padding(self) -> int:
        """Index of the token that pads captions at their end."""
        return int(self.vocabulary["padding"])

    @property
    def preparation(self) -> dict[str, Any]:
        """How an image file becomes an image in evaluation, as plain data for a model to save."""
        return {"whole": True} | self.seen_in_training

    @override
    def ready(self, examples: Examples) -> Examples:
        assert isinstance(examples, CaptionRows)
        ready = copy.copy(examples)
        ready.size = self.size
        ready.crop = partial(random_part, least=self.resized_crop) if self.resized_crop else whole
        changes: list[Any] = [v2.RandomHorizontalFlip()] * self.flip
        changes += [v2.ColorJitter(*[self.color_jitter] * 3)] if self.color_jitter else []
        ready.change = v2.Compose(changes) if changes else None
        return ready

    @override
    def describe(self, train: Examples) -> None:
        indices = torch.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).round().long()
        self.mean, self.std, self.seen = statistics(train.inputs(some) for some in indices.split(32))

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, *rest = batch
        assert self.trainer is not None
        return (x._replace(image=in_precision(self.trainer, x.image.float().div_(255))), *rest)


class Pictures:
    """Images in memory.

    Args:
        x: uint8 ``(N, C, H, W)``.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def part(self, index: int, crop: Callable[[Size], Box], size: Sequence[int]) -> Any:
        """Return the part of an image that ``crop`` chooses, a tensor or Pillow's image, in ``size`` (height and width)."""
        left, top, right, bottom = (int(side) for side in crop((self.x.shape[3], self.x.shape[2])))
        return resized(self.x[index, :, top:bottom, left:right], size)

    def wholes(self, index: Tensor, size: Sequence[int]) -> Tensor | None:
        """Return several images at once; None where they are not in memory."""
        return resized(self.x.index_select(0, index), size)

    def subset(self, chosen: Tensor) -> Self:
        """Return the images where the mask ``(N,)`` is True."""
        return type(self)(self.x[chosen])

    def name_of(self, index: int) -> str:
        """Return a name of an image for messages."""
        return str(index)

    def content(self) -> list[Tensor | str]:
        """Return what identifies the images."""
        return [self.x]


class CaptionRows(Examples):
    """Images and the captions of each, as tokens of a small type; a batch has them as int64.

    Args:
        pictures: N images.
        captions: Captions of all images, one after another: tokens and the end in each row, padded, ``(M, T)``.
        counts: Number of captions of each image, >= 1, ``(N,)``.
        vocabulary: What the tokens mean.
    """

    size: tuple[int, int]  # height and width of the images
    crop: Callable[[Size], Box] = staticmethod(whole)  # in training: the part of an image, of its width and height
    change: Callable[..., Any] | None = None  # in training: transform of the resized image

    def __init__(self, pictures: Pictures, captions: Tensor, counts: Tensor, vocabulary: Mapping[str, Any]) -> None:
        super().__init__(torch.empty(0), torch.empty(len(counts), 0))
        self.pictures = pictures
        self.captions = captions
        self.counts = counts
        self.vocabulary = vocabulary
        self._ends = counts.cumsum(0)

    @override
    def batch(self, index: Tensor) -> tuple[Any, ...]:
        y = self.targets(index)
        return CaptionedImage(self.inputs(index), read_of(y, self.vocabulary)), y

    def targets(self, index: Tensor) -> Tensor:
        """Return the captions of images ``(B,)``, padded to the longest of them and to the most of an image: ``(B, R, T)``."""
        padding, counts = int(self.vocabulary["padding"]), self.counts[index]
        ends = self._ends[index]
        places = torch.arange(int(counts.max()))
        there = places < counts[:, None]  # (B, R)
        rows = self.captions[((ends - counts)[:, None] + places)[there]].long()  # (captions of the batch, T)
        rows = rows[:, : int((rows != padding).sum(dim=1).max())]
        y = rows.new_full((*there.shape, rows.shape[1]), padding)
        y[there] = rows
        return y

    @override
    def inputs(self, index: Tensor) -> Tensor:
        draws = self.training is not None and (self.crop is not whole or self.change is not None)
        if not draws and (images := self.pictures.wholes(index, self.size)) is not None:
            return images
        with isolate_rng(include_cuda=False):  # torchvision draws from the global generator
            return torch.stack([self._transformed(i) for i in index.tolist()])

    def _transformed(self, index: int) -> Tensor:
        if self.training is None:
            image = self.pictures.part(index, whole, self.size)
        else:
            self.seed(index)
            image = self.pictures.part(index, self.crop, self.size)
            if self.change is not None:
                image = self.change(image if isinstance(image, Image.Image) else tv_tensors.Image(image))
        image = TF.pil_to_tensor(image) if isinstance(image, Image.Image) else image
        return image.as_subclass(Tensor)

    @override
    def subset(self, chosen: Tensor) -> "CaptionRows":
        other = copy.copy(self)
        rows = chosen.repeat_interleave(self.counts)
        other.__init__(self.pictures.subset(chosen), self.captions[rows], self.counts[chosen], self.vocabulary)  # type: ignore[misc]
        return other

    @override
    def name_of(self, index: int) -> str:
        return self.pictures.name_of(index)

    @override
    def fingerprint(self, validates: Tensor) -> str:
        """Return 16 hexadecimal digits that identify images, captions and their meaning, and which images validate."""
        meaning = json.dumps(dict(self.vocabulary), sort_keys=True)
        return digest(*self.pictures.content(), self.captions, self.counts, validates, meaning)


def read_of(y: Tensor, vocabulary: Mapping[str, Any]) -> Tensor:
    """Return what a decoder reads to write captions ``(..., T)``: the end, then their tokens, padded; nothing of an empty row."""
    padding, end = (vocabulary[name] for name in ("padding", "end"))
    caption = y.roll(1, dims=-1)
    caption[caption == end] = padding  # a decoder reads nothing after the end
    caption[..., 0] = torch.where(y[..., 0] == padding, padding, end)
    return caption


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize one image or several (bilinear, antialiased): uint8 ``(..., C, H, W)``."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return TF.resize(images, list(size), InterpolationMode.BILINEAR, antialias=True)


def rows_of(captions: Iterable[Tensor], length: int, vocabulary: Mapping[str, Any]) -> Tensor:
    """Return each caption's tokens in a row, its end, and padding: ``(M, length)``."""
    captions = list(captions)
    rows = torch.full((len(captions), length), vocabulary["padding"], dtype=captions[0].dtype)
    for row, tokens in zip(rows, captions, strict=True):
        row[: len(tokens)] = tokens
        row[len(tokens)] = vocabulary["end"]
    return rows
