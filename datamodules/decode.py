"""An image file of any kind -> uint8 pixels of a wanted size; everything that files in the wild can be."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MAX_PIXELS = 178_956_970  # Pillow's own bound against decompression bombs: half a gigabyte of RGB


Box = tuple[float, float, float, float]  # left, top, right, bottom


class BadImageError(ValueError):
    """An image file that cannot be used; the message names it."""


def decode(
    path: str | Path,
    channels: int,
    size: int | tuple[int, int],
    share: float = 1.0,
    crop: Callable[[Image.Image], Box] | None = None,
) -> Tensor:
    """The middle of an image file, as much of it as has the wanted shape (a square, say), resized (bilinear, antialiased).

    The file is read by :func:`read_image`.

    Args:
        path, channels: as there.
        size: height and width of the result; one number for a square.
        share: of the height and width of the middle that is kept; 0.875 is what others call "resize to 256, then crop 224".
        crop: chooses another part of the upright image.

    Shape:
        uint8 ``(channels, height, width)``.
    """
    plain = read_image(path, channels)
    height, width = (size, size) if isinstance(size, int) else size
    scale = min(plain.width / width, plain.height / height)
    kept = (
        min(plain.width, share * width * scale),
        min(plain.height, share * height * scale),
    )  # rounding must not leave it
    left, top = ((length - part) / 2 for length, part in zip(plain.size, kept, strict=True))
    box = (left, top, left + kept[0], top + kept[1]) if crop is None else crop(plain)
    pixels = torch.from_numpy(
        np.array(plain.resize((width, height), Image.Resampling.BILINEAR, box=box))
    )  # (H, W[, 3])
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def whole(image: Image.Image) -> Box:
    """The ``crop`` of :func:`decode` that keeps everything, whatever becomes of the aspect ratio."""
    return 0, 0, image.width, image.height


def read_image(path: str | Path, channels: int) -> Image.Image:
    """An image file as 8-bit RGB or gray.

    Turned upright as its EXIF orientation says. What is transparent becomes white. 16-bit gray levels are divided by 257, so a
    ramp stays a ramp. Gray becomes RGB, or RGB gray (ITU-R 601 luma), as ``channels`` asks.

    Args:
        path: of the file, in any format and mode that Pillow reads.
        channels: 3 (RGB) or 1 (gray).

    Raises:
        FileNotFoundError, BadImageError: as :func:`read_upright`.
    """
    return read_upright(path, _eight_bits).convert("RGB" if channels == 3 else "L")


def read_upright(path: str | Path, change: Callable[[Image.Image], Image.Image] = lambda image: image) -> Image.Image:
    """An image file in its own mode, turned upright as its EXIF orientation says, then changed.

    Raises:
        FileNotFoundError: no such file.
        BadImageError: a truncated file, one that is no image or cannot be changed, or one that is too large; the message names it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours is an error, with the file's name
            with Image.open(path) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
        return change(upright)
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(f"{path} has more than {MAX_PIXELS:,} pixels: make it smaller, or remove it") from error
    except (
        Exception
    ) as error:  # Pillow's readers raise whatever they stumble over: OSError, SyntaxError, struct.error ...
        raise BadImageError(
            f"{path} cannot be read as an image ({error}): it is damaged or none; replace or remove it"
        ) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Without transparency, and no more than eight bits a channel."""
    if image.mode == "F":
        raise ValueError("its pixels are floats, of an unknown range")
    if image.mode.startswith("I"):  # 16 bits of gray, in one of several modes
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"gray levels {levels.min()}..{levels.max()} are not those of 16 bits")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colors = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colors.size, "white"), colors).convert("RGB")
    return image
