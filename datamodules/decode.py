"""Image files of any kind as uint8 pixels of a given size."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
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

_SCALABLE = ("JPEG", "MPO")  # Pillow's formats that can be decoded at a fraction of their size

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]  # of Pillow's, all but "nearest" antialiased
Size = tuple[int, int]  # width, height
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
    crop: Callable[[Size], Box] | None = None,
    draft: bool = False,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Return the center of an image file, cropped to the aspect ratio of ``size`` and resized.

    Args:
        path: The file, read as :func:`read_image` does.
        channels: 3 (RGB) or 1 (gray).
        size: Height and width of the result; one number for a square.
        share: Share of the height and width of the center crop that is kept; 0.875 is usually written "resize to 256, center crop
            224".
        crop: Returns another box to crop from the upright image, of the width and height that it is given.
        draft, interpolation: See :func:`read_part`.

    Returns:
        uint8 ``(channels, height, width)``.
    """
    height, width = (size, size) if isinstance(size, int) else size
    with open_image(path) as image:
        own = upright_size(image)
        box = _center(own, (width, height), share) if crop is None else crop(own)
        part = read_part(image, channels, (width, height), box, draft, interpolation)
        pixels = torch.from_numpy(np.array(part))  # (H, W[, 3])
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _center(own: Size, size: Size, share: float) -> Box:
    scale = min(own[0] / size[0], own[1] / size[1])
    kept = (
        min(own[0], share * size[0] * scale),
        min(own[1], share * size[1] * scale),
    )  # not outside of the image by rounding
    left, top = ((length - part) / 2 for length, part in zip(own, kept, strict=True))
    return left, top, left + kept[0], top + kept[1]


def whole(own: Size) -> Box:
    """Return the box of the whole image: a ``crop`` of :func:`decode` that does not keep the aspect ratio."""
    return 0, 0, *own


def random_part(own: Size, least: float) -> Box:
    """Return a random box of at least this share of the image's area, at an aspect ratio of 3/4 to 4/3.

    It is torchvision's ``RandomResizedCrop``, in whole pixels, and draws from torch's global generator.
    """
    from torchvision.transforms import RandomResizedCrop

    width, height = own
    image = torch.empty(0, height, width)  # of which only the size is asked
    top, left, height, width = RandomResizedCrop.get_params(image, [least, 1.0], [3 / 4, 4 / 3])
    return left, top, left + width, top + height


def read_image(path: str | Path, channels: int) -> Image.Image:
    """Read an image file as 8-bit RGB or gray.

    It is rotated as its EXIF orientation says. Transparent pixels become white. 16-bit gray levels are divided by 257, so a ramp
    stays a ramp. Gray is converted to RGB, or RGB to gray (ITU-R 601 luma).

    Args:
        path: The file, of one of the ``FORMATS``, in any mode of Pillow's.
        channels: 3 (RGB) or 1 (gray).

    Raises:
        FileNotFoundError: There is no such file.
        BadImageError: The file is truncated, too large or not an image; the message names it.
    """
    with open_image(path) as image:
        return _plain(image, channels)


def read_upright(path: str | Path) -> Image.Image:
    """Read an image file in its own mode, rotated as its EXIF orientation says.

    Raises:
        FileNotFoundError, BadImageError: See :func:`read_image`.
    """
    with open_image(path) as image:
        ImageOps.exif_transpose(image, in_place=True)  # reads the pixels
        return image


def check_interpolation(interpolation: str) -> None:
    """Refuse an unknown way to resize.

    Raises:
        ValueError: It is none of ``Interpolation``.
    """
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"interpolation must be one of {', '.join(get_args(Interpolation))}, got {interpolation!r}")


def read_part(
    image: Image.Image,
    channels: int,
    size: Size,
    box: Box,
    draft: bool = False,
    interpolation: Interpolation = "bilinear",
) -> Image.Image:
    """Return a part of an image from :func:`open_image`, upright and resized.

    Args:
        image: The image, of any format and mode.
        channels: 3 (RGB) or 1 (gray).
        size: Width and height of the result.
        box: The part of the upright image.
        draft: Whether a JPEG is decoded at 1/2, 1/4 or 1/8 of its size (Pillow's ``draft``) where the box still has twice the width
            and height of the result: two to three times as fast, and less than half a gray level from the exact pixels on average.
            Never with "nearest", which takes single pixels of the file.
        interpolation: "bilinear", "bicubic" or "lanczos", all antialiased, or "nearest".
    """
    ratio = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
    scale = max(s for s in (1, 2, 4, 8) if s == 1 or ratio >= 2 * s)
    resampling = Image.Resampling[interpolation.upper()]
    if not (draft and scale > 1 and interpolation != "nearest" and image.format in _SCALABLE):
        return _plain(image, channels).resize(size, resampling, box=box)
    (width, height), orientation = upright_size(image), _orientation(image)
    drafted = image.draft("L" if channels == 1 else None, (image.width // scale, image.height // scale))
    assert drafted is not None  # the box would be another one
    plain = _plain(image, channels)
    # The last column and row stand for fewer pixels of the file than the others; turned, they may be the first ones.
    left = plain.width - width / scale if orientation in (2, 3, 6, 7) else 0.0
    top = plain.height - height / scale if orientation in (3, 4, 7, 8) else 0.0
    scaled = (left + box[0] / scale, top + box[1] / scale, left + box[2] / scale, top + box[3] / scale)
    return plain.resize(size, resampling, box=scaled)


def upright_size(image: Image.Image) -> Size:
    """Return width and height of an image from :func:`open_image`, rotated as its EXIF orientation says.

    The header of a JPEG tells them; images of other formats are read.
    """
    if image.format not in _SCALABLE:
        ImageOps.exif_transpose(image, in_place=True)
    return (image.height, image.width) if _orientation(image) in (5, 6, 7, 8) else image.size


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Read an image, and return it upright, as 8-bit RGB or gray."""
    ImageOps.exif_transpose(image, in_place=True)
    eight, mode = _eight_bits(image), "RGB" if channels == 3 else "L"
    return eight if eight.mode == mode else eight.convert(mode)  # Pillow would copy it


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
