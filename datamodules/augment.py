"""Augmentation of a whole batch of images at once, with independent random numbers for each image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images: flip, then shift or crop, then cutout.

    A random crop from an image padded with n zeros on each side is the same as a shift by up to n pixels filled with zeros. Both
    names are common, so both can be given, but only one at a time.

    Args:
        shift: Largest shift in pixels in each direction, filled with zeros.
        crop: Number of zeros that each side is padded with before a window of the image's size is cut out at random.
        flip: Whether to mirror left and right with probability 1/2.
        cutout: Side in pixels of a square that is set to zero. Its center is uniform over the image, so at the border a part of it
            lies outside (DeVries and Taylor 2017, arXiv:1708.04552).

    Raises:
        ValueError: A size is negative, or both ``shift`` and ``crop`` are given.

    Example:
        >>> import torch
        >>> images, augmentation = torch.ones(4, 1, 8, 8, dtype=torch.uint8), Augmentation(shift=1, flip=True)
        >>> draws = augmentation.draw(4, (8, 8), torch.Generator().manual_seed(0))
        >>> augmentation.apply(images, draws).shape
        torch.Size([4, 1, 8, 8])
    """

    shift: int = 0
    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("shift", "crop", "cutout"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} must be a number of pixels >= 0 (0: off), got {value}")
        if self.shift and self.crop:
            raise ValueError(
                f"shift={self.shift} and crop={self.crop} both move the image (a padded crop is a shift): give one of them"
            )

    @property
    def active(self) -> bool:
        """Whether anything is switched on."""
        return bool(self.shift or self.crop or self.flip or self.cutout)

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the parameters for ``count`` images of ``size`` (H, W), on the CPU so that they are the same for every device.

        Returns:
            By name, one row for each image: ``flip`` bool ``(count,)``, ``corner`` (row, column in the padded image) and
            ``center`` of the square, int64 ``(count, 2)``; only those of what is switched on.
        """
        draws = {}
        if self.flip:
            draws["flip"] = torch.rand(count, generator=generator) < 0.5
        if pad := self.shift or self.crop:
            draws["corner"] = torch.randint(0, 2 * pad + 1, (count, 2), generator=generator)
        if self.cutout:
            both = [torch.randint(0, side, (count,), generator=generator) for side in size]
            draws["center"] = torch.stack(both, dim=1)
        return draws

    def apply(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Return the images augmented with drawn parameters.

        Shape:
            images: Any dtype ``(B, C, H, W)`` -> the same.
        """
        if "flip" in draws:
            images = torch.where(draws["flip"].view(-1, 1, 1, 1), images.flip(-1), images)
        if "corner" in draws:
            images = _windows(images, draws["corner"], self.shift or self.crop)
        if "center" in draws:
            images = images.masked_fill(_squares(draws["center"], self.cutout, images), 0)
        return images


def _windows(images: Tensor, corner: Tensor, pad: int) -> Tensor:
    """Return from each image, padded with zeros, the window of its old size that starts at ``corner``."""
    b, c, h, w = images.shape
    padded = F.pad(images, (pad, pad, pad, pad)).contiguous()  # (B, C, H, W) -> (B, C, H + 2 pad, W + 2 pad)
    rows, columns = h + 2 * pad, w + 2 * pad
    # Each row of a window is contiguous in memory: view all runs of W elements, and copy those that start a row.
    runs = padded.as_strided((padded.numel() - w + 1, w), (1, 1))
    device = images.device
    plane = torch.arange(b * c, device=device).view(b, c, 1) * rows * columns
    row = (corner[:, :1] + torch.arange(h, device=device)) * columns  # (B, H)
    start = plane + row[:, None, :] + corner[:, 1, None, None]  # (B, C, H)
    return runs.index_select(0, start.flatten()).view(b, c, h, w)


def _squares(center: Tensor, side: int, images: Tensor) -> Tensor:
    """Return a mask that is True inside the squares: ``(B, 1, H, W)``."""
    inside = []
    for axis in (0, 1):
        first = center[:, axis, None] - side // 2
        place = torch.arange(images.shape[2 + axis], device=images.device)
        inside.append((place >= first) & (place < first + side))
    return (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)
