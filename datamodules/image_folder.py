"""Your own images, with a folder for each class."""

import copy
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from typing_extensions import override

from datamodules.checks import is_number
from datamodules.decode import SUFFIXES, Interpolation, check_interpolation, decode, random_part
from datamodules.examples import Examples
from datamodules.images import ImageDataModule, statistics
from datamodules.parts import PartsInFolders
from datamodules.splits import digest

_PARTS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")  # usual names of parts
_OF_WINDOWS = ("Thumbs.db", "desktop.ini")  # written into folders of images
_SAMPLE = 512  # number of training images that mean and std are estimated from, to about half a percent


class ImageFolderDataModule(PartsInFolders, ImageDataModule):
    """A folder of image files with a folder for each class, in ``train``, ``val`` and ``test``, or all together.

    With ``root/train/<class>/...``, ``root/val`` is the validation part, or without it ``val_fraction`` of the training images;
    ``root/test`` is the test part. With ``root/<class>/...``, ``test_fraction`` of the images are the test part (stratified,
    always chosen with seed 0), and ``val_fraction`` of the others the validation part. Files in subfolders count too. Files that
    do not count, without the suffix of an image or in no folder of a class, are named in a warning. Of a file with several frames
    (GIF, MPO, TIFF) the first is read.

    Workers decode the files and resize their center square (gray, RGB, RGBA, CMYK, palettes, 16 bits, EXIF orientation: see
    :func:`~datamodules.decode.decode`); the rest is done with the whole batch on the device, as for every
    :class:`~datamodules.ImageDataModule`. With ``resized_crop``, they crop a random part of a training image instead, a function
    of (run seed, epoch, image), whatever the number of workers and processes. ``mean`` and ``std`` are those of up to 512 training
    images, evenly spread. The ``fingerprint`` is that of the files' names, sizes in bytes, classes and split, not of their pixels.

    Args:
        root: The folder.
        size: Height and width of an image.
        color: "rgb" or "gray"; all files are converted to it.
        resized_crop: Smallest share of a training image's area that is cropped at random, at an aspect ratio of 3/4 to 4/3, and
            resized (torchvision's ``RandomResizedCrop``; 0.08 is usual, with ``flip``); 0 takes the center, as in evaluation.
        center: Share of the center square's side that is kept; 0.875 is usually written "resize to 256, center crop 224".
        test_fraction: Share of all images for the test part where there are no folders train and test, in [0, 1).
        num_workers: Number of decoding processes; None takes one for each CPU core, at most 8.
        draft: Whether a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the part that is kept, also that of a random crop,
            still has twice the ``size``. This is two to three times as fast on large photographs, and changes their pixels by
            0.2 to 0.5 of 255 gray levels on average (``benchmarks/RESULTS.md``). A trained model reads files in the same way.
            False decodes exactly.
        interpolation: How images are resized: "bilinear", "bicubic" or "lanczos", antialiased, or "nearest". Pretrained weights
            tell theirs, and `zoo finetune` sets it.
        **images: Other arguments of :class:`~datamodules.ImageDataModule`.

    Raises:
        FileNotFoundError: There is no such folder, or no classes in it.
        ValueError: A class has no images, ``val`` or ``test`` has other classes, or a part has another name (``valid``); later, a
            file cannot be decoded.

    Example:
        >>> from PIL import Image
        >>> for i in range(40):
        ...     path = Path("flowers", ("daisy", "rose")[i % 2], f"{i}.png")
        ...     path.parent.mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (40, 30)).save(path)
        >>> (data := ImageFolderDataModule("flowers", size=32, flip=True)).class_names, data.input_shape
        (['daisy', 'rose'], (3, 32, 32))
    """

    def __init__(
        self,
        root: str,
        size: int = 224,
        color: Literal["rgb", "gray"] = "rgb",
        resized_crop: float = 0.0,
        center: float = 1.0,
        test_fraction: float = 0.2,
        num_workers: int | None = None,
        draft: bool = True,
        interpolation: Interpolation = "bilinear",
        **images: Any,
    ) -> None:
        if color not in ("rgb", "gray"):
            raise ValueError(f'color must be "rgb" or "gray", got {color!r}')
        if not (is_number(resized_crop) and 0 <= resized_crop <= 1):
            raise ValueError(
                f"resized_crop must be the smallest share of the area to keep, in [0, 1], got {resized_crop}"
            )
        if not (is_number(center) and 0 < center <= 1):
            raise ValueError(f"center must be a share of the center square's side in (0, 1], got {center}")
        check_interpolation(interpolation)
        self.native_shape = (3 if color == "rgb" else 1, 0, 0)  # type: ignore[misc]
        workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        super().__init__(size=size, num_workers=workers, **images)
        if self.binarize is not None:
            raise ValueError("binarize works for images in memory only: binarize the files, or leave it out")
        self.resized_crop = resized_crop
        self.center = center
        self.draft = draft
        self.interpolation = interpolation
        self.look_into(root, test_fraction)
        self.class_names = classes_in(self.folders["train"])
        if len(self.class_names) < 2:
            raise ValueError(
                f"{self.folders['train']} has only one class, {self.class_names[0]!r}: two or more are needed"
            )
        for name in self.class_names:
            if any("\ud800" <= letter <= "\udfff" for letter in name):  # what Python makes of bytes that are no text
                raise ValueError(f"the name of the folder {self.folders['train'] / name} is not valid UTF-8: rename it")

    @override
    def _find_folders(self) -> dict[str, Path]:
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root.absolute()} is not a folder: give the one with train/<class>/ or <class>/ in it"
            )
        has_train = (self.root / "train").is_dir()
        for name in classes_in(self.root):
            if has_train and name in ("train", "val", "test"):
                continue
            if name.lower() in _PARTS and any(entry.is_dir() for entry in (self.root / name).iterdir()):
                raise ValueError(
                    f"{self.root / name} has folders in it, like a part of the data, not a class: rename it to train (which must "
                    "exist), val or test"
                )
        if not has_train:
            return {"train": self.root}
        return {part: self.root / part for part in ("train", "val", "test") if (self.root / part).is_dir()}

    @property
    def preparation(self) -> dict[str, Any]:
        """How an image file becomes x in evaluation, as plain data for a model to save."""
        how = {"center": self.center, "draft": self.draft, "interpolation": self.interpolation}
        return how | self.seen_in_training

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def ready(self, examples: Examples) -> Examples:
        return examples

    @override
    def describe(self, train: Examples) -> None:
        indices = torch.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).round().long()
        self.mean, self.std, self.seen = statistics(train.inputs(some) for some in indices.split(32))

    @override
    def files(self, part: str) -> "ImageFiles":
        folder = self.folders[part]
        other = [name for name in classes_in(folder) if name not in self.class_names]
        if other:
            raise ValueError(
                f"{folder / other[0]} is a class that {self.folders['train']} does not have, only {self.class_names}: remove or "
                "rename it"
            )
        paths, labels, others = [], [], []
        for label, name in enumerate(self.class_names):
            files, more = images_and_others(folder / name)
            others += more
            if not files and part == "train":
                raise ValueError(
                    f"{folder / name} has no images ({', '.join(SUFFIXES)}): add some, or remove the folder"
                )
            paths += files
            labels += [label] * len(files)
        if not paths:
            raise ValueError(f"{folder} has no images ({', '.join(SUFFIXES)}): add some, or remove the folder")
        self.leave_out(others)
        self.leave_out(self._misplaced(), why="in no folder of a class")
        names = np.array([os.fsencode(path) for path in paths])
        y = torch.tensor(labels)
        read = (self.center, self.resized_crop, self.draft, self.interpolation)
        return ImageFiles(self.root, names, y, self.input_shape, *read)

    def _misplaced(self) -> list[str]:
        """Return the images beside the folders of classes, and those in folders beside ``train``."""
        parts = list(self.folders.values())
        names = [] if parts == [self.root] else [n for n in classes_in(self.root) if n not in ("train", "val", "test")]
        files = [f"{folder}/{e.name}" for folder in {self.root, *parts} for e in os.scandir(folder) if e.is_file()]
        images = [
            file for file in files if file.lower().endswith(SUFFIXES) and not os.path.basename(file).startswith(".")
        ]
        return images + [file for name in names for file in files_in(self.root / name)]


class ImageFiles(Examples):
    """Image files and their labels, decoded when they are needed.

    Args:
        root: Folder that names in messages are relative to.
        names: Encoded paths, in one array, which workers share instead of copying a list.
        y: int64 labels ``(N,)``.
        shape: ``(C, H, W)`` of an image.
        center: Share of the center square's side that is kept.
        resized_crop: Smallest share of the area that is kept in training; 0 takes the center.
        draft: Whether large JPEGs are decoded at a fraction of their size, see :func:`~datamodules.decode.read_part`.
        interpolation: How they are resized, see there.
    """

    def __init__(
        self,
        root: Path,
        names: np.ndarray,
        y: Tensor,
        shape: Sequence[int],
        center: float = 1.0,
        resized_crop: float = 0.0,
        draft: bool = False,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__(torch.empty(0), y)
        self.root = root
        self.names = names
        self.shape = tuple(shape)
        self.center = center
        self.resized_crop = resized_crop
        self.draft = draft
        self.interpolation = interpolation

    @override
    def inputs(self, index: Tensor) -> Tensor:
        with isolate_rng(include_cuda=False):  # torchvision draws from the global generator
            return torch.stack([self._input(i) for i in index.tolist()])

    def _input(self, index: int) -> Tensor:
        channels, size, _ = self.shape
        crop = None
        if self.resized_crop > 0 and self.training is not None:
            self.seed(index)
            crop = partial(random_part, least=self.resized_crop)
        path = os.fsdecode(self.names[index])
        return decode(path, channels, size, self.center, crop, self.draft, self.interpolation)

    @override
    def subset(self, chosen: Tensor) -> "ImageFiles":
        return self._like(self.names[chosen.numpy()], self.y[chosen])

    def joined(self, other: "ImageFiles") -> "ImageFiles":
        """Return these files, then the others."""
        return self._like(np.concatenate([self.names, other.names]), torch.cat([self.y, other.y]))

    def _like(self, names: np.ndarray, y: Tensor) -> "ImageFiles":
        other = copy.copy(self)
        other.names, other.y = names, y
        return other

    @override
    def name_of(self, index: int) -> str:
        return os.path.relpath(os.fsdecode(self.names[index]), self.root)

    @override
    def fingerprint(self, validates: Tensor) -> str:
        paths = [os.fsdecode(name) for name in self.names]
        sizes = torch.tensor([os.stat(path).st_size for path in paths])
        start = len(str(self.root / "x")) - 1
        return digest("\n".join(path[start:] for path in paths), sizes, self.y, validates)


def classes_in(folder: Path) -> list[str]:
    """Return the sorted names of the class folders in a folder.

    Raises:
        FileNotFoundError: There are none.
    """
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith((".", "__")))
    if not names:
        raise FileNotFoundError(f"{folder.absolute()} has no folders in it: it must have one for each class")
    return names


def files_in(folder: Path) -> list[str]:
    """Return all image files below a folder, sorted by code points, which does not depend on the locale."""
    return images_and_others(folder)[0]


def images_and_others(folder: Path) -> tuple[list[str], list[str]]:
    """Return the image files below a folder, by their suffix, and all other files that are not hidden, both sorted."""
    paths: tuple[list[str], list[str]] = [], []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in names:
            if not name.startswith(".") and name not in _OF_WINDOWS:
                paths[not name.lower().endswith(SUFFIXES)].append(f"{parent}/{name}")
    return sorted(paths[0]), sorted(paths[1])
