"""Images as tiles of a picture: of a size to look at, as uint8 in three channels. No matplotlib here."""

import math

import torch.nn.functional as F
from torch import Tensor

TILE = 64  # pixels: small images are enlarged until their smaller side has as many
LARGEST = 4 * TILE  # pixels: large images are scaled down until their larger side has as many
GAP, HEADER, LINE = 10, 30, 16  # pixels between tiles, of a line of titles above them, of a line of text


def enlarge(x: Tensor, least: int = TILE, most: int = LARGEST) -> Tensor:
    """Enlarge small images or masks by a whole number: each pixel becomes a square.

    Shape:
        ``(..., H, W)`` -> ``(..., s H, s W)``: the smaller side is ``least`` or more, where the larger one stays within ``most``.
    """
    height, width = x.shape[-2:]
    scale = max(1, min(math.ceil(least / min(height, width)), most // max(height, width)))
    return x if scale == 1 else x.repeat_interleave(scale, dim=-1).repeat_interleave(scale, dim=-2)


def fit(x: Tensor, labels: bool = False, least: int = TILE, most: int = LARGEST) -> Tensor:
    """Enlarge small images and scale large ones down, so that several of them fit a picture.

    Args:
        x: Images, or masks of classes.
        labels: Whether the values are classes, which cannot be averaged.
        least, most: Pixels to which sides are enlarged and scaled down, see :func:`enlarge`.

    Shape:
        ``(B, C, H, W)`` -> ``(B, C, h, w)``, of the same type.
    """
    largest = max(x.shape[-2:])
    if largest <= most:
        return enlarge(x, least, most)
    size = [max(1, round(n * most / largest)) for n in x.shape[-2:]]
    if labels:
        return F.interpolate(x.float(), size, mode="nearest-exact").to(x.dtype)
    return F.interpolate(x, size, mode="bilinear", antialias=True)


def to_uint8(x: Tensor) -> Tensor:
    """Convert images to pixels of a picture; values outside [0, 1] are cut.

    Shape:
        ``(..., 1 or 3, H, W)``, float in [0, 1] -> ``(..., 3, H, W)``, uint8, on the CPU.
    """
    pixels = (x.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return pixels.expand(*pixels.shape[:-3], 3, -1, -1)
