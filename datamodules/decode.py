"""Image files of any kind as uint8 pixels of a given size."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

# The image files that are read: the suffix under which folders take them, and Pillow's format. What is in a file decides, not
# its suffix; but Pillow's other readers, of which one starts a program (Ghostscript, for EPS), are never asked.
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".mpo": "JPEG",  # several JPEGs
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
    ".avif": "AVIF",
}
if not features.check("avif"):  # not in all builds of Pillow
    del FORMATS[".avif"]
SUFFIXES = tuple(FORMATS)

Box = tuple[float, float, float, float]  # left, top, right, bottom


class BadImageError(ValueError):
    """An image file cannot be used; the message names it."""


def left_out(files: Sequence[str], folder: str | Path, why: str = "in no format that is read") -> str:
    """Return the sentence about files of a folder that are not taken, with their number by suffix and an example."""
    kinds = Counter(Path(file).suffix.lower() or "without suffix" for file in files)
    (most, _), *_ = common = kinds.most_common(4)
    example = next(file for file in files if (Path(file).suffix.lower() or "without suffix") == most)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in common) + " ..." * (len(kinds) > len(common))
    what = f"{len(files):,} file{'s' * (len(files) > 1)}"
    return f"{what} in {folder} left out, {why}: {counts} (such as {example})"


def decode(
    path: str | Path,
    channels: int,
    size: int | tuple[int, int],
    share: float = 1.0,
    crop: Callable[[Image.Image], Box] | None = None,
) -> Tensor:
    """Return the center of an image file, cropped to the aspect ratio of ``size`` and resized (bilinear, antialiased).

    Args:
        path: The file, read by :func:`read_image`.
        channels: 3 (RGB) or 1 (gray).
        size: Height and width of the result; one number for a square.
        share: Share of the height and width of the center crop that is kept; 0.875 is usually written "resize to 256, center crop
            224".
        crop: Returns another box to crop from the upright image.

    Returns:
        uint8 ``(channels, height, width)``.
    """
    plain = read_image(path, channels)
    height, width = (size, size) if isinstance(size, int) else size
    scale = min(plain.width / width, plain.height / height)
    kept = (
        min(plain.width, share * width * scale),
        min(plain.height, share * height * scale),
    )  # not outside of the image by rounding
    left, top = ((length - part) / 2 for length, part in zip(plain.size, kept, strict=True))
    box = (left, top, left + kept[0], top + kept[1]) if crop is None else crop(plain)
    pixels = torch.from_numpy(
        np.array(plain.resize((width, height), Image.Resampling.BILINEAR, box=box))
    )  # (H, W[, 3])
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def whole(image: Image.Image) -> Box:
    """Return the box of the whole image: a ``crop`` of :func:`decode` that does not keep the aspect ratio."""
    return 0, 0, image.width, image.height


def read_image(path: str | Path, channels: int) -> Image.Image:
    """Read an image file as 8-bit RGB or gray.

    It is rotated as its EXIF orientation says. Transparent pixels become white. 16-bit gray levels are divided by 257, so a ramp
    stays a ramp. Gray is converted to RGB, or RGB to gray (ITU-R 601 luma).

    Args:
        path: The file, of one of the ``FORMATS``, in any mode of Pillow's.
        channels: 3 (RGB) or 1 (gray).

    Raises:
        FileNotFoundError: There is no such file.
        BadImageError: The file cannot be read (see :func:`read_upright`).
    """
    return read_upright(path, lambda image: _converted(_eight_bits(image), "RGB" if channels == 3 else "L"))


def read_upright(path: str | Path, change: Callable[[Image.Image], Image.Image] = lambda image: image) -> Image.Image:
    """Read an image file in its own mode, rotated as its EXIF orientation says, and apply ``change``.

    Raises:
        FileNotFoundError: There is no such file.
        BadImageError: The file is truncated, too large or not an image, or ``change`` fails; the message names it.
    """
    with open_image(path) as image:
        ImageOps.exif_transpose(image, in_place=True)  # reads the pixels
        return change(image)


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file of one of the ``FORMATS``; whatever is wrong with it, in the block too, names it.

    Raises:
        FileNotFoundError: There is no such file.
        BadImageError: It cannot be read, or has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    limit = Image.MAX_IMAGE_PIXELS or math.inf  # None switches it off
    too_large = f"{path} has more than {limit:,} pixels: make it smaller, remove it, or set PIL.Image.MAX_IMAGE_PIXELS in Python"
    formats = sorted(set(FORMATS.values()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours is an error that names the file
            image = Image.open(path, formats=formats)
        with image:
            if image.width * image.height > limit:
                raise BadImageError(too_large)
            yield image
    except (FileNotFoundError, BadImageError):
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(too_large) from error
    except UnidentifiedImageError as error:
        raise BadImageError(
            f"{path} cannot be read as an image: it is damaged, or none of {', '.join(formats)}; replace or remove it"
        ) from error
    except Exception as error:  # Pillow's readers raise any: OSError, SyntaxError, struct.error ...
        raise BadImageError(
            f"{path} cannot be read as an image ({error}): it is damaged or not an image; replace or remove it"
        ) from error


def has_frames(image: Image.Image, path: str | Path) -> bool:
    """Return whether a file holds several images, of which the first is read; the preview in a photo does not count."""
    return getattr(image, "is_animated", False) and (image.format != "MPO" or str(path).lower().endswith(".mpo"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image without transparency, of at most eight bits for each channel."""
    if image.mode == "F":
        raise ValueError("its pixels are floats, of an unknown range")
    if image.mode.startswith("I"):  # 16 bits of gray, in one of several modes
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"its gray levels {levels.min()}..{levels.max()} exceed 16 bits")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colors = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colors.size, "white"), colors).convert("RGB")
    return image.convert("RGB") if image.mode == "LAB" else image  # Pillow knows no other way out of LAB


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # Pillow would copy it
