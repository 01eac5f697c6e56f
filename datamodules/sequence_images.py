"""Images read as series: row by row, or pixel by pixel."""

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from datamodules.digits import DigitsDataModule
from datamodules.examples import Examples
from datamodules.images import ImageDataModule
from datamodules.mnist import MNISTDataModule
from datamodules.samplers import generator_for


class ImagesInOrder(ImageDataModule):
    """Images in memory as series ``(B, T, D)``, all of one length, from the upper left corner on.

    Args:
        order: "rows": a row of the image at each time, ``(B, H, W C)``; "pixels": a pixel at each time, ``(B, H W, C)``.
        permuted: Whether the T times come in a random order, the same for all images: neighbors in the image are then far apart
            (Le et al. 2015, arXiv:1504.00941, section 4.2).
        **images: Arguments of the datamodule of the images.

    Raises:
        ValueError: Another order.
    """

    def __init__(self, order: Literal["rows", "pixels"] = "rows", permuted: bool = False, **images: Any) -> None:
        super().__init__(**images)
        if order not in ("rows", "pixels"):
            raise ValueError(f'order must be "rows" or "pixels", got {order!r}')
        self.order = order
        self.permuted = permuted

    @property
    @override
    def input_shape(self) -> tuple[int, ...]:
        channels, height, width = self.image_shape
        return (height, width * channels) if self.order == "rows" else (height * width, channels)

    @property
    @override
    def preparation(self) -> None:
        """None: these series are not read from files."""
        return

    @override
    def describe(self, train: Examples) -> None:
        super().describe(train)
        if self.order == "rows" and self.mean is not None and self.std is not None:
            width = self.image_shape[2]
            self.mean, self.std = self.mean.repeat(width), self.std.repeat(width)  # (C,) -> (W C,)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, *rest = super().on_after_batch_transfer(batch, dataloader_idx)
        return (self._in_order(x), *rest)

    def _in_order(self, x: Tensor) -> Tensor:
        """Return series ``(B, T, D)`` of images ``(B, C, H, W)``."""
        x = x.movedim(1, -1)  # (B, C, H, W) -> (B, H, W, C)
        x = x.flatten(2) if self.order == "rows" else x.flatten(1, 2)
        if self.permuted:
            x = x[:, torch.randperm(x.shape[1], generator=generator_for(_SEED)).to(x.device)]
        return x


_SEED = 1  # of the one random order


class DigitSequenceDataModule(ImagesInOrder, DigitsDataModule):
    """The bundled digits, see :class:`~datamodules.DigitsDataModule`, read row by row or pixel by pixel.

    Args: See :class:`~datamodules.sequence_images.ImagesInOrder`, and :class:`~datamodules.ImageDataModule`.

    Example:
        >>> DigitSequenceDataModule().input_shape, DigitSequenceDataModule(order="pixels").input_shape
        ((8, 8), (64, 1))
    """


class SequentialMNISTDataModule(ImagesInOrder, MNISTDataModule):
    """MNIST, see :class:`~datamodules.MNISTDataModule`, read row by row or pixel by pixel (Le et al. 2015, arXiv:1504.00941).

    Args: See :class:`~datamodules.sequence_images.ImagesInOrder`, and :class:`~datamodules.MNISTDataModule`.

    Example:
        >>> SequentialMNISTDataModule(order="pixels", permuted=True).input_shape
        (784, 1)
    """
