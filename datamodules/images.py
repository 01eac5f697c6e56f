"""Base of all image datasets in memory."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from typing_extensions import override

from datamodules.augment import Augmentation
from datamodules.base import DataModule
from datamodules.checks import check_integer, is_number
from datamodules.examples import Examples
from datamodules.internals import fetched_batches_of_epoch, finished_epochs, in_precision
from datamodules.samplers import generator_for, seed_all

_SAMPLE = 2048  # number of images of a chunk whose brightness and contrast are looked at


class ImageDataModule(DataModule):
    """Images in memory, one uint8 tensor for each split. A subclass gives its arrays and two constants.

    The loaders yield whole uint8 batches. On the device (``on_after_batch_transfer``) they become ``(x, y)``: x float32 in [0, 1],
    y int64. Training batches are augmented there, each image with its own random numbers. A batch may also be
    ``(x, y, weight)``, see :class:`~datamodules.DataModule`.

    Augmentation is a pure function of (run seed, epoch, batch, position in the global batch), like the order of training (see
    :class:`~datamodules.DataModule`): a stopped run continues exactly, and several processes augment like one.

    With mixup and cutmix, the labels of training batches are soft: y float32 ``(B, K)``, shares of the classes that sum to 1. The
    random numbers, one set for each batch, are the same on all processes; but partners come from a process's own share of the
    batch, so two processes mix other pairs than one with the same global batch.

    A subclass sets ``class_names`` and ``native_shape``, and defines :meth:`read`, and ``prepare_data`` if there is something to
    download.

    Args:
        size: Height and width that the images are resized to, once (bilinear, antialiased); None keeps their own.
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`.
        shift: Largest random shift of training images in pixels, filled with zeros (see :class:`~datamodules.Augmentation`).
        crop: The same by its other name: number of zeros to pad each side with before cropping to the old size at random.
        flip: Whether to mirror training images left and right with probability 1/2.
        cutout: Side of a square that is set to zero in each training image.
        mixup: Alpha of the Beta distribution for blending pairs of training images (torchvision's ``v2.MixUp``); 0 is off.
        cutmix: The same for pasting a box of one image into the other (``v2.CutMix``); with both, one is drawn for each batch.
        binarize: Threshold as a share of the maximum, in (0, 1), rounded to a whole gray level (0.5: 128 of 255): values above it
            become 1, others 0, in all images. None keeps the values.

    Attributes:
        mean, std: Statistics of the training split, one for each channel, in units of x: ``(C,)``, after ``setup("fit")``.
        class_counts, fingerprint: See :class:`~datamodules.DataModule`.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.
    """

    kind = "classification"
    class_names: list[str] = []
    native_shape: ClassVar[tuple[int, int, int]]  # (C, H, W) of the images that read() returns

    def __init__(
        self,
        size: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_last: bool = True,
        shift: int = 0,
        crop: int = 0,
        flip: bool = False,
        cutout: int = 0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        binarize: float | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed, drop_last)
        if not hasattr(self, "native_shape"):
            raise TypeError(
                f"{type(self).__name__} must define native_shape, (C, H, W) of the images that read() returns"
            )
        if size is not None:
            check_integer("size", size, 1)
        self.size = size
        side = min(self.image_shape[1:])
        for name, value, most in (("shift", shift, side - 1), ("crop", crop, side - 1), ("cutout", cutout, side)):
            check_integer(name, value, 0, most)
        self.augmentation = Augmentation(shift, crop, flip, cutout)
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not (is_number(alpha) and alpha >= 0):
                raise ValueError(
                    f"{name} must be alpha >= 0 of a Beta distribution (0: off, usual: 0.2 to 1), got {alpha}"
                )
        self.mixup = mixup
        self.cutmix = cutmix
        if binarize is not None and not (is_number(binarize) and 0 < binarize < 1):
            raise ValueError(f"binarize must be a share of the maximum in (0, 1), or None (off), got {binarize}")
        self.binarize = binarize

    # What a subclass defines ----------------------------------------------------------------------------------------

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """Return the whole official training or test part: uint8 images ``(N, C, H, W)`` and int64 labels ``(N,)``."""
        raise TypeError(f"{type(self).__name__} must define read(part), which returns its images and labels")

    # What is known before fit ---------------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """Number of classes K, labels are 0..K-1."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of an image."""
        channels, height, width = self.native_shape
        return (channels, height, width) if self.size is None else (channels, self.size, self.size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of an input of the net."""
        return self.image_shape

    @property
    def preparation(self) -> dict[str, Any] | None:
        """How an image file becomes x in evaluation, as plain data for a model to save."""
        more = {} if self.binarize is None else {"binarize": self.binarize}
        return (more | self.seen_in_training) or None

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        return Examples(*self._checked(part))

    @override
    def ready(self, examples: Examples) -> Examples:
        x = _resized(examples.x, self.image_shape[1:]).contiguous()
        if self.binarize is not None:
            x = binarized(x, self.binarize)
        return Examples(x, examples.y)

    @override
    def describe(self, train: Examples) -> None:
        self.mean, self.std, self.seen = statistics([train.x])

    def _checked(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        images, labels = self.read(part)
        name = f"the {part} part of {type(self).__name__}"
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != self.native_shape[0]:
            raise ValueError(
                f"{name} must be uint8 of shape (N, {self.native_shape[0]}, H, W), got {images.dtype} {tuple(images.shape)}"
            )
        if len(images) == 0 or labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"{name} must have one int64 label for each image, got {labels.dtype} {tuple(labels.shape)} for {len(images)} "
                "images"
            )
        wrong = ((labels < 0) | (labels >= self.num_classes)).nonzero()
        if len(wrong):
            index = int(wrong[0])
            raise ValueError(
                f"labels must lie in 0..{self.num_classes - 1} for the {self.num_classes} classes, but {name} has "
                f"{int(labels[index])} at example {index}: number the classes from 0, or add the missing class names"
            )
        return images, labels

    # Batches --------------------------------------------------------------------------------------------------------

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, *rest = batch
        assert self.trainer is not None
        training = self.trainer.training
        x = (self._augmented(images) if training and self.augmentation.active else images).float().div_(255)
        if training and (self.mixup or self.cutmix):
            x, rest[0] = self._mixed(x, rest[0])
        return (in_precision(self.trainer, x), *rest)

    def _batch_key(self) -> tuple[int, int, int]:
        """Return run seed, epoch and index of the training batch at hand."""
        assert self.trainer is not None
        return self._seed, finished_epochs(self.trainer), fetched_batches_of_epoch(self.trainer)

    def _augmented(self, images: Tensor) -> Tensor:
        """Augment this process's share of the global batch with its share of the random numbers, every ``num_replicas``-th."""
        replicas = self._replica_kwargs()
        batch = (
            len(images) if self.drop_last else max(self.batch_size, len(images))
        )  # in a short batch ranks may differ
        count = batch * replicas["num_replicas"]
        height, width = images.shape[2:]
        draws = self.augmentation.draw(count, (height, width), generator_for(*self._batch_key(), 2))
        share = slice(replicas["rank"], len(images) * replicas["num_replicas"], replicas["num_replicas"])
        mine = {k: v[share].to(images.device, non_blocking=True) for k, v in draws.items()}
        return self.augmentation.apply(images, mine)

    def _mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Apply mixup or cutmix: ``(B, C, H, W)``, labels ``(B,)`` -> ``(B, C, H, W)``, soft labels ``(B, K)``."""
        from torchvision.transforms import v2

        kinds = [(kind, alpha) for kind, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)) if alpha]
        with isolate_rng(include_cuda=False):  # torchvision draws from the global generator of the CPU
            seed_all(*self._batch_key(), 3)
            kind, alpha = kinds[int(torch.randint(len(kinds), ()))]
            return kind(alpha=alpha, num_classes=self.num_classes)(x, y)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (bilinear, antialiased) in chunks, to save memory: uint8 ``(N, C, H, W)`` -> ``(N, C, *size)``."""
    if images.shape[2:] == size or not len(images):
        return images
    chunks = [
        F.interpolate(chunk.float(), size, mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
        for chunk in images.split(4096)
    ]
    return torch.cat(chunks)


def binarized(images: Tensor, share: float) -> Tensor:
    """Return 255 where a value is above this share of the maximum, otherwise 0: uint8 of any shape."""
    return (images > round(share * 255)).byte() * 255


def statistics(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return mean and standard deviation of each channel in units of [0, 1], and the range of single images' :func:`levels`.

    Mean and deviation are exact, from counts of the 256 values; the range is that of 2,048 to 4,095 images of each chunk.

    Args:
        chunks: Any number of uint8 tensors ``(N, C, H, W)``.
    """
    counts: Any = 0
    ranges = []
    for images in chunks:
        counts = counts + torch.stack(
            [torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)]
        )  # (C, 256)
        some = images[:: max(1, len(images) // _SAMPLE)]
        ranges += [levels(part.float() / 255).aminmax(dim=0) for part in some.split(64)]
    share = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values  # (C,)
    std = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
    lowest, highest = zip(*ranges, strict=True)
    seen = torch.stack(lowest).amin(0), torch.stack(highest).amax(0)
    return mean.float(), torch.where(std > 0, std, 1.0).float(), seen  # 1 for a constant channel


def levels(images: Tensor) -> Tensor:
    """Return the mean of each channel of an image, then the standard deviation of each: ``(N, C, H, W)`` -> ``(N, 2 C)``."""
    pixels = images.flatten(2)  # (N, C, H W)
    return torch.cat([pixels.mean(2), pixels.std(2, correction=0)], dim=1)
