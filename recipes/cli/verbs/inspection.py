"""A folder of images, looked at before anything is trained on it: every file is decoded once."""

import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from PIL import Image

from datamodules import ImageFolderDataModule
from datamodules.decode import BadImageError, decode
from datamodules.image_folder import files_in
from recipes.cli.errors import UserError

_NAMED = 5  # files and classes that are named


@dataclass
class Inspection:
    """What a folder of images holds.

    Attributes:
        root: the folder.
        counts: images of each class, all parts together.
        parts: images of each part.
        made: whether the parts were split off here.
        sizes: width and height of each image.
        modes: how many images have which mode of Pillow's.
    """

    root: Path
    counts: dict[str, int]
    parts: dict[str, int]
    made: bool
    sizes: list[tuple[int, int]]
    modes: Counter[str]

    @property
    def short_side(self) -> int:
        """The shorter side in pixels that the middle one of the images has."""
        return median_low(min(size) for size in self.sizes)

    def lines(self) -> list[tuple[str, str]]:
        """What was found, in words."""
        parts = ", ".join(f"{count:,} {name}" for name, count in self.parts.items())
        split = "split off here, by class" if self.made else "as the folders say"
        classes = [f"{name} {count:,}" for name, count in self.counts.items()]
        if len(classes) > 2 * _NAMED:
            most, least = max(self.counts.values()), min(self.counts.values())
            classes = [*classes[:_NAMED], f"... ({least:,} to {most:,} images each)"]
        low, *_, high = sorted([*self.sizes, self.sizes[0]], key=lambda size: size[0] * size[1])
        sizes = f"{low[0]}x{low[1]}" + (f" to {high[0]}x{high[1]}" if low != high else "")
        modes = ", ".join(f"{count:,} {mode}" for mode, count in self.modes.most_common())
        return [
            ("images", f"{len(self.sizes):,} in {self.root}: {parts} ({split})"),
            ("classes", f"{len(self.counts)}: {', '.join(classes)}"),
            ("sizes", f"{sizes} pixels; {modes}"),
        ]


def inspect(root: str, **options: Any) -> Inspection:
    """Look at a folder.

    Args:
        root: the folder.
        options: of :class:`datamodules.ImageFolderDataModule`, which splits it.

    Raises:
        UserError: damaged files; they are named.
        FileNotFoundError, ValueError: what the datamodule refuses: no folder, no images, one class.
    """
    data: Any = ImageFolderDataModule(root, **{**options, "size": 8, "num_workers": 0})
    counts = {
        name: sum(len(files_in(folder / name)) for folder in data.folders.values() if (folder / name).is_dir())
        for name in data.class_names
    }
    found = {part: data.examples(part) for part in ("train", "test")[: 1 + data.has_test]}
    names = [os.fsdecode(name) for examples in found.values() for name in examples.names]
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        warnings.simplefilter("ignore")  # threads share the filters, so decode() cannot set its own
        looks = list(pool.map(_look, names))
    if bad := [str(look) for look in looks if isinstance(look, BadImageError)]:
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise UserError(f"{len(bad)} of {len(names)} images in {root} are of no use: {'; '.join(bad[:_NAMED])}{more}")
    data.setup("fit")
    parts = {"train": len(data.train_dataloader().dataset)}
    if loader := data.val_dataloader():
        parts["val"] = len(loader.dataset)
    if data.has_test:
        parts["test"] = len(found["test"])
    good = [look for look in looks if not isinstance(look, BadImageError)]
    return Inspection(
        Path(root),
        counts,
        parts,
        data.folders["train"] == data.root,
        [size for size, _ in good],
        Counter(mode for _, mode in good),
    )


def _look(path: str) -> tuple[tuple[int, int], str] | BadImageError:
    """Size and mode of an image that can be decoded."""
    try:
        decode(path, 3, 8)
        with Image.open(path) as image:
            return image.size, image.mode
    except BadImageError as error:
        return error
