"""Inspection of a folder of images before training on it: every file is decoded once."""

import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from datamodules import ImageFolderDataModule
from datamodules.decode import BadImageError, decode, open_image
from datamodules.image_folder import files_in
from recipes.cli.errors import UserError

_MAX_LISTED = 5  # files and classes listed by name


@dataclass
class Inspection:
    """The contents of a folder of images.

    Attributes:
        root: The folder.
        counts: Number of images of each class over all parts.
        parts: Number of images of each part.
        split: Whether the parts were split off here.
        sizes: Width and height of each image in pixels.
        modes: Number of images with each of Pillow's modes.
    """

    root: Path
    counts: dict[str, int]
    parts: dict[str, int]
    split: bool
    sizes: list[tuple[int, int]]
    modes: Counter[str]

    @property
    def short_side(self) -> int:
        """Return the median of the images' shorter sides in pixels."""
        return median_low(min(size) for size in self.sizes)

    def lines(self) -> list[tuple[str, str]]:
        """Return the contents as rows of a table."""
        parts = ", ".join(f"{count:,} {name}" for name, count in self.parts.items())
        split = "split off here, by class" if self.split else "as in the folders"
        classes = [f"{name} {count:,}" for name, count in self.counts.items()]
        if len(classes) > 2 * _MAX_LISTED:
            most, least = max(self.counts.values()), min(self.counts.values())
            classes = [*classes[:_MAX_LISTED], f"... ({least:,} to {most:,} images each)"]
        low, *_, high = sorted([*self.sizes, self.sizes[0]], key=lambda size: size[0] * size[1])
        sizes = f"{low[0]}x{low[1]}" + (f" to {high[0]}x{high[1]}" if low != high else "")
        modes = ", ".join(f"{count:,} {mode}" for mode, count in self.modes.most_common())
        return [
            ("images", f"{len(self.sizes):,} in {self.root}: {parts} ({split})"),
            ("classes", f"{len(self.counts)}: {', '.join(classes)}"),
            ("sizes", f"{sizes} pixels; {modes}"),
        ]


def inspect(root: str, **options: Any) -> Inspection:
    """Inspect a folder.

    Args:
        root: The folder.
        options: Arguments of :class:`datamodules.ImageFolderDataModule`, which splits it.

    Raises:
        UserError: Some files cannot be decoded; they are named.
        FileNotFoundError: There is no such folder, or no images in it.
        ValueError: The datamodule refuses the folder, for instance because it has one class only.
    """
    data: Any = ImageFolderDataModule(root, **{**options, "size": 8, "num_workers": 0})
    counts = {
        name: sum(len(files_in(folder / name)) for folder in data.folders.values() if (folder / name).is_dir())
        for name in data.class_names
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* left out, ")  # the run will say so
        examples = {part: data.examples(part) for part in ("train", "test")[: 1 + data.has_test]}
    names = [os.fsdecode(name) for part in examples.values() for name in part.names]
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        warnings.simplefilter("ignore")  # threads share the filters, so decode() cannot set its own
        results = list(pool.map(_size_and_mode, names))
    if bad := [str(result) for result in results if isinstance(result, BadImageError)]:
        more = f"; and {len(bad) - _MAX_LISTED} more" if len(bad) > _MAX_LISTED else ""
        listed = "; ".join(bad[:_MAX_LISTED])
        raise UserError(f"{len(bad)} of {len(names)} images in {root} cannot be used: {listed}{more}")
    data.setup("fit")
    parts = {"train": len(data.train_dataloader().dataset)}
    if loader := data.val_dataloader():
        parts["val"] = len(loader.dataset)
    if data.has_test:
        parts["test"] = len(examples["test"])
    good = [result for result in results if not isinstance(result, BadImageError)]
    return Inspection(
        Path(root),
        counts,
        parts,
        data.folders["train"] == data.root,
        [size for size, _ in good],
        Counter(mode for _, mode in good),
    )


def _size_and_mode(path: str) -> tuple[tuple[int, int], str] | BadImageError:
    try:
        decode(path, 3, 8)
        with open_image(path) as image:
            return image.size, image.mode
    except BadImageError as error:
        return error
