"""Image files of the user's as tensors."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from recipes.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The image files among files and folders; a folder is searched to its depth, by suffix and in order.

    Raises:
        UserError: no such file or folder, or a folder without an image.
    """
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise UserError(f"no image in the folder {path} ({', '.join(sorted(SUFFIXES))})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"no such image or folder: {path}")
    return found


def read_image(path: Path, shape: tuple[int, ...]) -> "Tensor":
    """An image file as a model takes it.

    Gray and color are turned into each other, the size is changed as our data modules do it (bilinear, antialiased, the
    aspect ratio is not kept), 16 bits stay 16 bits, a photo is turned upright, transparency is dropped.

    Args:
        path: the file.
        shape: (C, H, W), C = 1 (gray) or 3 (RGB).

    Returns:
        Float in [0, 1], ``(C, H, W)``.

    Raises:
        UserError: the file cannot be read as an image, or the model wants other channels; the message names the file.
    """
    import torch
    import torch.nn.functional as F

    channels, *size = shape
    if channels not in (1, 3):
        raise UserError(f"the model takes {channels} channels: images have 1 or 3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                pixels = _pixels(ImageOps.exif_transpose(image), channels)
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ) as e:
        raise UserError(f"cannot read the image {path}: {one_line(str(e)) or type(e).__name__}") from e
    x = torch.from_numpy(pixels).permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
    if list(x.shape[1:]) != size:
        x = F.interpolate(x.unsqueeze(0), size, mode="bilinear", antialias=True).squeeze(0)
    return x.clamp(0, 1)


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Float32 in [0, 1], ``(H, W, C)``."""
    if image.mode.startswith("I"):  # 16 bits (some formats hand them over as 32): PIL's convert would clip them at 255
        gray = np.asarray(image).astype(np.float32) / 65535
        return np.repeat(gray[:, :, None], channels, axis=2)
    if image.mode == "F":
        gray = np.asarray(image, dtype=np.float32)
        if not (gray.min() >= 0 and gray.max() <= 1):
            raise ValueError(f"floating-point values must lie in [0, 1], got {gray.min():g}..{gray.max():g}")
        return np.repeat(gray[:, :, None], channels, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    return array.reshape(*array.shape[:2], channels)
