"""Your own images with mask files, which hold the class of each pixel."""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from datamodules.decode import (
    FORMATS,
    SUFFIXES,
    BadImageError,
    Box,
    Interpolation,
    Size,
    check_interpolation,
    open_image,
    read_part,
    read_upright,
    upright_size,
)
from datamodules.examples import Examples
from datamodules.image_folder import images_and_others
from datamodules.parts import PartsInFolders
from datamodules.segmentation import IGNORED, Pairs, SegmentationDataModule, nearest, slices
from datamodules.splits import digest

Value = int | Sequence[int]  # of a pixel in a mask file: a number, or red, green and blue


class MaskFolderDataModule(PartsInFolders, SegmentationDataModule):
    """Images in ``root/images`` and masks of the same names in ``root/masks``, or both in ``root/train``, ``val`` and ``test``.

    The mask of ``root/train/images/a.jpg`` is ``root/train/masks/a.png``. With ``root/train``, ``root/val`` is the validation part,
    or without it ``val_fraction`` of the training images; ``root/test`` is the test part. With all images together,
    ``test_fraction`` of them are the test part (always chosen with seed 0), and ``val_fraction`` of the others the validation
    part. Files in subfolders count too. Files that do not count, without the suffix of an image or masks without one, are named
    in a warning.

    A mask has the size of its image (both rotated as their EXIF orientation says). The value of a pixel is its class: gray of 8 or
    16 bits, black and white, or the index of a palette; a color only if ``mask_values`` are colors.

    Args:
        root: The folder.
        class_names: Names of the K >= 2 classes, including the background.
        mask_values: Pixel value of each class in the files, such as ``[0, 255]``, or its color, such as
            ``[[0, 0, 0], [255, 0, 0]]``. Default: 0..K-1.
        ignore_values: Pixel values to ignore, unless they are those of a class.
        size: Height and width of an image, as one number or two.
        color: "rgb" or "gray"; all images are converted to it.
        test_fraction: Share of all images for the test part where there are no folders train and test, in [0, 1).
        num_workers: Number of reading processes; None takes one for each CPU core, at most 8.
        draft: Whether JPEG images are decoded at a fraction of their size where they are large, see
            :class:`~datamodules.ImageFolderDataModule`. Masks are always read exactly.
        interpolation: How images are resized, see there. Masks are always resized by their nearest pixels.
        **segmentation: Other arguments of :class:`~datamodules.SegmentationDataModule`.

    Raises:
        FileNotFoundError: There is no such folder, no images in it, or an image has no mask.
        ValueError: The values do not fit the classes; later, a file cannot be read, a mask has another size than its image or a
            value of no class, or the masks hold one class and ignored pixels alone although ``mask_values`` are not given.

    Example:
        >>> for i in range(10):
        ...     for folder, mode in (("images", "RGB"), ("masks", "L")):
        ...         path = Path("cells", folder, f"{i}.png")
        ...         path.parent.mkdir(parents=True, exist_ok=True)
        ...         Image.new(mode, (40, 30)).save(path)
        >>> data = MaskFolderDataModule("cells", class_names=["ground", "cell"], mask_values=[0, 255], size=32, flip=True)
        >>> data.num_classes, data.input_shape
        (2, (3, 32, 32))
    """

    layout = "with images/ and masks/"

    def __init__(
        self,
        root: str,
        class_names: list[str],
        mask_values: list[int] | list[list[int]] | None = None,
        ignore_values: list[int] | list[list[int]] = [IGNORED],  # noqa: B006 (never changed)
        size: int | list[int] = 256,
        color: Literal["rgb", "gray"] = "rgb",
        test_fraction: float = 0.2,
        num_workers: int | None = None,
        draft: bool = True,
        interpolation: Interpolation = "bilinear",
        **segmentation: Any,
    ) -> None:
        check_interpolation(interpolation)
        if color not in ("rgb", "gray"):
            raise ValueError(f'color must be "rgb" or "gray", got {color!r}')
        workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        super().__init__(size=size, num_workers=workers, **segmentation)
        self.channels = 3 if color == "rgb" else 1
        self.class_names = [str(name) for name in class_names]
        self.code = MaskCode(self.class_names, mask_values, ignore_values)
        self.draft = draft
        self.interpolation = interpolation
        self._values_given = mask_values is not None
        self.look_into(root, test_fraction)

    @override
    def _find_folders(self) -> dict[str, Path]:
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root.absolute()} is not a folder: give the one with images/ and masks/ in it"
            )
        parts = {part: self.root / part for part in ("train", "val", "test") if (self.root / part).is_dir()}
        if "train" not in parts:
            parts = {"train": self.root}
        for folder in parts.values():
            for name in ("images", "masks"):
                if not (folder / name).is_dir():
                    raise FileNotFoundError(
                        f"{folder} has no folder {name}: it must have images/ and masks/, with a mask of the same name for each "
                        "image"
                    )
        return parts

    @override
    def files(self, part: str) -> "MaskFiles":
        images, masks, others = pairs_in(self.folders[part])
        self.leave_out(file for file in others if not file.lower().endswith(SUFFIXES))
        self.leave_out((file for file in others if file.lower().endswith(SUFFIXES)), why="masks without an image")
        return MaskFiles(self.root, images, masks, self.code, self.channels, self.draft, self.interpolation)

    @property
    @override
    def preparation(self) -> dict[str, Any]:
        return super().preparation | {"draft": self.draft, "interpolation": self.interpolation}

    @override
    def describe(self, train: Examples) -> None:
        super().describe(train)
        there = [name for name, count in zip(self.class_names, self.class_counts or [], strict=True) if count]
        if self.ignored_count and not self._values_given and len(there) < 2:
            raise ValueError(
                f"the masks in {self.root} hold only {' and '.join([*there, 'ignored pixels'])} (such as {IGNORED}): if these are "
                "a class, give mask_values, such as [0, 255]"
            )


def pairs_in(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the sorted images in ``folder/images``, the mask of each in ``folder/masks``, and all other files in the two.

    Raises:
        FileNotFoundError: There are no images, or one has no mask.
        ValueError: Two files have the same name, or a mask has a format that changes its values.
    """
    (images, others), (masks, more) = _by_stem(folder / "images"), _by_stem(folder / "masks")
    if not images:
        raise FileNotFoundError(f"{folder / 'images'} has no images ({', '.join(SUFFIXES)}): add some")
    missing = [stem for stem in images if stem not in masks]
    if missing:
        raise FileNotFoundError(
            f"{images[missing[0]]} has no mask {folder / 'masks' / missing[0]}.png ({len(missing)} of {len(images)} images have "
            f"none): add it, or remove the image"
        )
    chosen = [masks[stem] for stem in images]
    for path in chosen:
        if FORMATS[os.path.splitext(path)[1].lower()] in ("JPEG", "MPO"):
            raise ValueError(f"{path} is a JPEG, which changes pixel values: save masks as PNG")
    return list(images.values()), chosen, [*others, *more, *(masks[stem] for stem in masks if stem not in images)]


def _by_stem(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return image files by their path below a folder, without the suffix, and the other files."""
    files: dict[str, str] = {}
    images, others = images_and_others(folder)
    for path in images:
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in files:
            raise ValueError(
                f"{files[stem]} and {path} differ in their suffix only: rename one, since an image and its mask share a name"
            )
        files[stem] = path
    return files, others


def values_in(path: str, size: tuple[int, int], image: str) -> list[tuple[Any, int]]:
    """Return the values in a mask file, numbers or colors (red, green, blue), and the number of pixels of each.

    Args:
        path, size, image: See :meth:`MaskCode.read`.

    Raises:
        BadImageError: The file cannot be read, or has another size than its image.
    """
    mask = _read_mask(path, size, image)
    code = _numbers(mask, path)
    colored = code is None
    values, counts = np.unique(_colors(mask) if code is None else code, return_counts=True)
    plain = [(v >> 16, v >> 8 & 255, v & 255) if colored else v for v in values.tolist()]
    return list(zip(plain, counts.tolist(), strict=True))


def _read_mask(path: str, size: tuple[int, int], image: str) -> Image.Image:
    mask = read_upright(path)
    if mask.size != size:
        rotated = " (rotated as its EXIF orientation says)" if mask.size == size[::-1] else ""
        raise BadImageError(
            f"{path} has {mask.width} x {mask.height} pixels, its image {image} {size[0]} x {size[1]}{rotated}: they must agree"
        )
    return mask


def _colors(mask: Image.Image) -> np.ndarray:
    """Return colors as one number: int64 ``(H, W)``."""
    red, green, blue = np.moveaxis(np.asarray(mask.convert("RGB"), np.int64), 2, 0)
    return red << 16 | green << 8 | blue


def _numbers(mask: Image.Image, path: str) -> np.ndarray | None:
    """Return the numbers in a mask, int64 ``(H, W)``; None if it is in color."""
    if mask.mode in ("1", "L", "P") or mask.mode.startswith("I"):
        return np.asarray(mask).astype(np.int64)
    if mask.mode == "F":
        raise BadImageError(
            f"{path} holds floats: save masks as PNG files of 8 or 16 bits, whose pixels are class numbers"
        )
    pixels = np.asarray(mask.convert("RGB"), np.int64)
    return None if (pixels != pixels[..., :1]).any() else pixels[..., 0]


class MaskCode:
    """Classes of the values in mask files.

    Args:
        class_names: Names of the K classes.
        values: Value of each class, numbers or colors. Default: 0..K-1.
        ignored: Values to ignore, unless they are those of a class.

    Raises:
        ValueError: There are fewer than 2 or more than 255 classes, or not one value for each class.
    """

    def __init__(self, class_names: list[str], values: Sequence[Value] | None, ignored: Sequence[Value]) -> None:
        names = class_names
        if not 2 <= len(names) <= IGNORED or len(set(names)) != len(names):
            raise ValueError(
                f"class_names must be 2 to {IGNORED} different names, including the background's, got {names}"
            )
        values = list(range(len(names))) if values is None else list(values)
        codes = [_code(value) for value in values]
        if len(codes) != len(names) or len(set(codes)) != len(codes):
            raise ValueError(
                f"mask_values must be {len(names)} different values, one for each of {names}, got {values}"
            )
        self.colored = any(not isinstance(value, int) for value in values)
        if self.colored and any(isinstance(value, int) for value in values):
            raise ValueError(f"mask_values must be all numbers or all colors, got {values}")
        known = {_code(value): IGNORED for value in ignored if isinstance(value, int) != self.colored}
        known |= {code: k for k, code in enumerate(codes)}
        self.values = np.array(sorted(known), np.int64)
        self.classes = np.array([known[code] for code in sorted(known)], np.uint8)
        self.known = ", ".join(str(value) for value in values[:8]) + " ..." * (len(values) > 8)

    def read(self, path: str, size: tuple[int, int], image: str) -> Tensor:
        """Return the classes in a mask file, uint8 ``(H, W)``.

        Args:
            path: The mask.
            size: Width and height of its image.
            image: Path of its image, for errors.

        Raises:
            BadImageError: The file cannot be read, or has another size or a value of no class.
        """
        mask = _read_mask(path, size, image)
        codes = self._codes(mask, path)
        place = np.searchsorted(self.values, codes).clip(max=len(self.values) - 1)
        wrong = np.argwhere(self.values[place] != codes)
        if len(wrong):
            row, column = wrong[0].tolist()
            code = int(codes[row, column])
            shown = [code >> 16, code >> 8 & 255, code & 255] if self.colored else code
            raise BadImageError(
                f"{path} has the value {shown} in row {row}, column {column} ({len(wrong)} such pixels), which is not a class: the "
                f"values of the classes are {self.known}; give mask_values or more class_names, or list it in ignore_values"
            )
        return torch.from_numpy(self.classes[place])

    def _codes(self, mask: Image.Image, path: str) -> np.ndarray:
        """Return pixel values, colors as one number: int64 ``(H, W)``."""
        if self.colored:
            return _colors(mask)
        numbers = _numbers(mask, path)
        if numbers is None:
            raise BadImageError(
                f"{path} is in color (mode {mask.mode}): give the color of each class as mask_values [[r, g, b], ...], or save "
                f"masks whose pixels are class numbers"
            )
        return numbers

    def __str__(self) -> str:
        return f"{self.values.tolist()} {self.classes.tolist()}"


def _code(value: Value) -> int:
    if isinstance(value, int):
        return value
    if len(value) != 3 or not all(0 <= part <= 255 for part in value):
        raise ValueError(f"a color must be red, green and blue, three numbers in 0..255, got {list(value)}")
    red, green, blue = value
    return red << 16 | green << 8 | blue


class MaskFiles(Pairs):
    """Image files and their mask files, read when they are needed.

    Args:
        root: Folder that names in messages are relative to.
        images, masks: Paths, one mask for each image.
        code: Classes of the masks' values.
        channels: 3 (RGB) or 1 (gray).
        draft: Whether large JPEG images are decoded at a fraction of their size, see :func:`~datamodules.decode.read_part`.
        interpolation: How images are resized, see there.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[str],
        masks: Sequence[str],
        code: MaskCode,
        channels: int = 3,
        draft: bool = False,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__(torch.empty(0), torch.empty(len(images), 0))  # the classes are not known before they are read
        self.root = root
        self.images = np.array([os.fsencode(path) for path in images])  # an array, which workers share
        self.masks = np.array([os.fsencode(path) for path in masks])
        self.code = code
        self.channels = channels
        self.draft = draft
        self.interpolation = interpolation

    @override
    def pair(self, index: int, crop: Callable[[Size], Box]) -> tuple[Image.Image, Tensor]:
        path, (height, width) = os.fsdecode(self.images[index]), self.size
        with open_image(path) as image:
            own = upright_size(image)
            box = crop(own)
            part = read_part(image, self.channels, (width, height), box, self.draft, self.interpolation)
        mask = self.code.read(os.fsdecode(self.masks[index]), own, path)
        return part, nearest(mask[slices(box)], self.size)

    @override
    def subset(self, chosen: Tensor) -> "MaskFiles":
        return self._like(self.images[chosen.numpy()], self.masks[chosen.numpy()])

    def joined(self, other: "MaskFiles") -> "MaskFiles":
        """Return these files, then the others."""
        return self._like(np.concatenate([self.images, other.images]), np.concatenate([self.masks, other.masks]))

    def _like(self, images: np.ndarray, masks: np.ndarray) -> "MaskFiles":
        other = copy.copy(self)
        other.images, other.masks, other.y = images, masks, torch.empty(len(images), 0)
        return other

    @override
    def name_of(self, index: int) -> str:
        return os.path.relpath(os.fsdecode(self.images[index]), self.root)

    @override
    def fingerprint(self, validates: Tensor) -> str:
        paths = [os.fsdecode(name) for names in (self.images, self.masks) for name in names]
        sizes = torch.tensor([os.stat(path).st_size for path in paths])
        start = len(str(self.root / "x")) - 1
        return digest("\n".join(path[start:] for path in paths), sizes, str(self.code), validates)
