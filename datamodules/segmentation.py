"""Images with a mask, a class for each pixel: the base of all data for segmentation, and how both move together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_integer
from datamodules.examples import Examples
from datamodules.images import statistics
from datamodules.internals import in_precision

IGNORED = 255  # the mask's value where a pixel counts nowhere
_SAMPLE = 512  # training images that tell mean, std and class_counts


class SegmentationDataModule(DataModule):
    """Images and their masks; a subclass sets ``class_names`` and gives :class:`Pairs` in :meth:`examples`.

    On the device a batch becomes ``(x, y)``: x float32 in [0, 1] ``(B, C, H, W)``, y int64 ``(B, H, W)`` with classes 0..K-1, or
    255 where a pixel shall not count. Evaluation may give ``(x, y, weight)``, see :class:`~datamodules.DataModule`.

    Evaluation sees the whole image, resized to ``size`` without keeping its aspect ratio, so scores are those of masks of
    that size. Training images are cropped, mirrored and colored at random, each by its own draw, a function of (run seed, epoch,
    image): a run that was stopped anywhere continues exactly, with any number of workers and processes. Image and mask always
    move together; the image is resized by bilinear interpolation, the mask by its nearest pixel.

    Args:
        size: height and width of an image, as one number or two.
        flip: mirror training images left and right with probability 1/2.
        resized_crop: smallest share of a training image's area that is cut out at random, at an aspect ratio of 3/4 to 4/3, and
            resized to ``size``; 0 takes the whole image.
        color_jitter: training images' brightness, contrast and saturation change by a factor of 1 - this to 1 + this, in [0, 1].
        batch_size, num_workers, val_fraction, split_seed: as in :class:`~datamodules.DataModule`; held out is a share of all
            images, whatever is on them.

    Attributes:
        mean, std: a channel each, of up to 512 training images, evenly spread: ``(C,)``, after ``setup("fit")``.
        class_counts: pixels of each class in the masks of these; ``ignored_count`` those of none.

    Raises:
        ValueError, TypeError: an argument out of its range, or of another type.
    """

    kind = "segmentation"
    ignore_index = IGNORED
    class_names: list[str] = []
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
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed)
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2:
            raise ValueError(f"size is one number, or height and width, got {size}")
        for side in sides:
            check_integer("size", side, 1)
        for name, value in (("resized_crop", resized_crop), ("color_jitter", color_jitter)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a share in [0, 1], 0 is off, got {value}")
        self.size = (sides[0], sides[1])
        self.flip = flip
        self.resized_crop = resized_crop
        self.color_jitter = color_jitter

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) as the net will see it."""
        return (self.channels, *self.size)

    @property
    def preparation(self) -> dict[str, Any]:
        """How an image file becomes x in evaluation, as plain data: a model remembers it."""
        return {"whole": True}

    @override
    def ready(self, examples: Examples) -> Examples:
        assert isinstance(examples, Pairs)
        examples.fit = _Fit(self.size)
        moves: list[Any] = [_Crop(self.size, (self.resized_crop, 1.0)) if self.resized_crop else _Fit(self.size)]
        moves += [v2.RandomHorizontalFlip()] * self.flip
        moves += [v2.ColorJitter(*[self.color_jitter] * 3)] if self.color_jitter else []
        examples.move = v2.Compose(moves) if len(moves) > 1 else moves[0]
        return examples

    @override
    def describe(self, train: Examples) -> None:
        places = torch.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).round().long()
        counts = torch.zeros(256, dtype=torch.long)

        def images() -> Any:
            for some in places.split(32):
                x, y = train.batch(some)
                counts.add_(torch.bincount(y.flatten().long(), minlength=256))
                yield x

        self.mean, self.std = statistics(images())
        self.class_counts = counts[: self.num_classes].tolist()
        self.ignored_count = int(counts[IGNORED])

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, masks, *rest = batch
        assert self.trainer is not None
        return (in_precision(self.trainer, images.float().div_(255)), masks.long(), *rest)


class Pairs(Examples):
    """Images and masks in memory, transformed one by one, each by its own draw.

    Args:
        x: uint8 ``(N, C, H, W)``.
        y: uint8 ``(N, H, W)``: classes, or 255.
    """

    fit: Callable[..., Any] | None = None  # what is done in evaluation
    move: Callable[..., Any] | None = None  # in training

    def pair(self, place: int) -> tuple[Any, Tensor]:
        """An image, a tensor or Pillow's, and its mask ``(H, W)``, as they were read."""
        return self.x[place], self.y[place]

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        transform = self.fit if self.training is None else self.move
        assert transform is not None
        with isolate_rng(include_cuda=False):  # torchvision draws from the global generator
            found = [self._transformed(place, transform) for place in index.tolist()]
        x, y = zip(*found, strict=True)
        return torch.stack(x), torch.stack(y)

    def _transformed(self, place: int, transform: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        image, mask = self.pair(place)
        if self.training is not None:
            self.seed(place)
        image = image if isinstance(image, Image.Image) else tv_tensors.Image(image)
        image, mask = transform(image, tv_tensors.Mask(mask))
        image = TF.pil_to_tensor(image) if isinstance(image, Image.Image) else image
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def nearest(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A mask ``(H, W)`` in another size: each pixel has the value of the one that lies where its middle is."""
    exact = InterpolationMode.NEAREST_EXACT  # torchvision's own, NEAREST, moves masks by up to half a pixel
    return TF.resize(mask[None], list(size), exact)[0]


class _Fit(v2.Transform):
    """The whole image and mask in another size."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = list(size)

    @override
    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _resized(inpt, self.size)


class _Crop(v2.RandomResizedCrop):
    """A random part of image and mask, resized."""

    @override
    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _resized(TF.crop(inpt, **params), self.size)


def _resized(inpt: Any, size: Sequence[int]) -> Any:
    if isinstance(inpt, tv_tensors.Mask):
        return tv_tensors.Mask(nearest(inpt.as_subclass(Tensor), size))
    return TF.resize(inpt, list(size), InterpolationMode.BILINEAR, antialias=True)
