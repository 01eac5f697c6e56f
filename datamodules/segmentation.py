"""Base of all data for segmentation: images and masks, which are transformed together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF
from typing_extensions import override

from datamodules.decode import Box, Size, whole
from datamodules.examples import Examples
from datamodules.images import statistics
from datamodules.internals import in_precision
from datamodules.resized_images import ResizedExamples, ResizedImagesDataModule

IGNORED = 255  # the mask's value of a pixel to ignore
_SAMPLE = 512  # number of training images that mean, std and class_counts are estimated from


class SegmentationDataModule(ResizedImagesDataModule):
    """Images and their masks. A subclass sets ``class_names`` and returns :class:`Pairs` from :meth:`examples`.

    On the device a batch becomes ``(x, y)``: x float32 in [0, 1] ``(B, C, H, W)``, y int64 ``(B, H, W)`` with classes 0..K-1, or
    255 for a pixel to ignore. Evaluation may yield ``(x, y, weight)``, see :class:`~datamodules.DataModule`.

    In evaluation, the whole image is resized to ``size`` without keeping its aspect ratio, so metrics are those of masks of that
    size. Training images are cropped, mirrored and colored at random, each as a function of (run seed, epoch, image): a stopped
    run continues exactly, with any number of workers and processes. Image and mask are transformed together; the image is
    resized by bilinear interpolation (files: as their datamodule's ``interpolation`` says), the mask by its nearest pixel.

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
        mean, std: Statistics of up to 512 training images, evenly spread, one for each channel: ``(C,)``, after ``setup("fit")``.
        class_counts: Number of pixels of each class in the masks of these; ``ignored_count`` is the number of those to ignore.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.
    """

    kind = "segmentation"
    ignore_index = IGNORED
    class_names: list[str] = []

    @override
    def describe(self, train: Examples) -> None:
        indices = torch.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).round().long()
        counts = torch.zeros(256, dtype=torch.long)

        def images() -> Any:
            for some in indices.split(32):
                x, y = train.batch(some)
                counts.add_(torch.bincount(y.flatten().long(), minlength=256))
                yield x

        self.mean, self.std, self.seen = statistics(images())
        self.class_counts = counts[: self.num_classes].tolist()
        self.ignored_count = int(counts[IGNORED])

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, masks, *rest = batch
        assert self.trainer is not None
        return (in_precision(self.trainer, images.float().div_(255)), masks.long(), *rest)


class Pairs(ResizedExamples):
    """Images and masks in memory: one by one where random numbers are drawn, otherwise a batch at once.

    Args:
        x: uint8 ``(N, C, H, W)``.
        y: uint8 ``(N, H, W)``: classes, or 255.
    """

    def pair(self, index: int, crop: Callable[[Size], Box]) -> tuple[Any, Tensor]:
        """Return the part of an image that ``crop`` chooses, a tensor or Pillow's, and that of its mask, both in ``size``."""
        image, mask = self.x[index], self.y[index]
        part = slices(crop((image.shape[2], image.shape[1])))
        return self._resized(image[:, *part], mask[part])

    def _resized(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Resize one image and its mask, or a batch of both."""
        images = TF.resize(images, list(self.size), InterpolationMode.BILINEAR, antialias=True)
        return images, nearest(masks, self.size)

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        if not self.draws and type(self).pair is Pairs.pair:
            return self._resized(self.x.index_select(0, index), self.y.index_select(0, index))
        with isolate_rng(include_cuda=False):  # torchvision draws from the global generator
            pairs = [self._transformed(i) for i in index.tolist()]
        x, y = zip(*pairs, strict=True)
        return torch.stack(x), torch.stack(y)

    def _transformed(self, index: int) -> tuple[Tensor, Tensor]:
        if self.training is None:
            image, mask = self.pair(index, whole)
        else:
            self.seed(index)
            image, mask = self.pair(index, self.crop)
            if self.change is not None:
                image = image if isinstance(image, Image.Image) else tv_tensors.Image(image)
                image, mask = self.change(image, tv_tensors.Mask(mask))
        image = TF.pil_to_tensor(image) if isinstance(image, Image.Image) else image
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def slices(box: Box) -> tuple[slice, slice]:
    """Return the rows and columns of a box of whole pixels."""
    left, top, right, bottom = (int(side) for side in box)
    return slice(top, bottom), slice(left, right)


def nearest(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a mask ``(H, W)``, or several ``(B, H, W)``: each pixel gets the value of the one at its center."""
    exact = InterpolationMode.NEAREST_EXACT  # torchvision's default, NEAREST, shifts masks by up to half a pixel
    return TF.resize(mask[None], list(size), exact)[0]
