"""Pictures written by ``zoo predict`` and ``zoo sample``: overlays, index masks, reconstructions."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.decode import read_image
from datamodules.segmentation import nearest
from recipes.cli.errors import UserError
from zoo import Model
from zoo.drawing import overlay, palette
from zoo.spelling import suggest

_KINDS = ("overlay", "mask", "reconstruction")


class PictureWriter:
    """Write what a model predicts for image files into a folder.

    A picture is named after its image: ``a_mask.png`` for ``a.png``. Images of the same name keep the folders that differ.

    Args:
        folder: Created with the first picture; None to write nothing.
        files: All images.

    Raises:
        UserError: A picture would overwrite one of the images.
    """

    def __init__(self, folder: Path | None, files: Sequence[Path]) -> None:
        self.folder = folder
        self._names = dict(zip(files, _unique_names(files), strict=True))
        if folder is None:
            return
        images = {path.resolve() for path in files}
        for path in files:
            for kind in _KINDS:
                if (target := self._path(path, kind)).resolve() in images:
                    raise UserError(
                        f"-o {folder}: {target} is one of the images and would be overwritten: give another folder"
                    )

    def _path(self, file: Path, kind: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{self._names[file]}_{kind}.png"

    def rows(self, model: Model, predictions: dict[str, Any], files: Sequence[Path]) -> list[dict[str, Any]]:
        """Write the pictures of a batch.

        Returns:
            Plain data for each image: shares of the classes or errors, and the paths of its pictures.
        """
        if "mask" in predictions:
            masks = zip(predictions["mask"], files, strict=True)
            return [self._segmentation_row(model, mask.cpu(), file) for mask, file in masks]
        rows = []
        for i, file in enumerate(files):
            row: dict[str, Any] = {key: float(value[i]) for key, value in predictions.items() if value.ndim == 1}
            if self.folder is not None:
                image = (predictions["reconstruction"][i].float().cpu().clamp(0, 1) * 255).round().byte()
                row["reconstruction"] = self._save(file, "reconstruction", as_image(image))
            rows.append(row)
        return rows

    def _segmentation_row(self, model: Model, mask: Tensor, file: Path) -> dict[str, Any]:
        names = model.class_names or [str(k) for k in range(model.hparams["num_classes"])]
        shares = torch.bincount(mask.flatten().long(), minlength=len(names)).double() / mask.numel()
        row: dict[str, Any] = {"shares": dict(zip(names, shares.tolist(), strict=True))}
        if self.folder is None:
            return row
        image = read_image(file, 3)
        resized = nearest(mask, (image.height, image.width))
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        row["overlay"] = self._save(file, "overlay", as_image(overlay(pixels.float() / 255, resized, names)))
        small = resized.dtype == torch.uint8
        index = Image.fromarray(resized.numpy() if small else resized.numpy().astype(np.uint16))
        if small:
            # changes the mode from "L" to "P"
            index.putpalette(palette(len(names), background=True).flatten().tolist())
        row["mask"] = self._save(file, "mask", index)
        return row

    def _save(self, file: Path, kind: str, image: Image.Image) -> str:
        target = self._path(file, kind)
        with writing(target):
            image.save(target, "PNG")
        return str(target)


def as_image(pixels: Tensor) -> Image.Image:
    """Convert uint8 ``(1 or 3, H, W)`` to an image."""
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).contiguous().numpy())


@contextlib.contextmanager
def writing(path: Path, option: str = "-o") -> Iterator[None]:
    """Create the folder of a file that the block writes.

    Args:
        path: The file.
        option: The option that names it.

    Raises:
        UserError: The folder cannot be created or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give another place with {option}") from error


def class_index(model: Model, label: str) -> int:
    """Return the index of a class given by its name or index.

    Raises:
        UserError: There is no such class, or the model is not conditional.
    """
    if "label" not in (*model.predict_options, *model.sample_options):
        raise UserError(f"--label is for conditional models, and {type(model).__name__} takes no class")
    net: Any = model.net
    count = int(net.num_classes)
    names = model.class_names or []
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < count:
        return int(label)
    known = ", ".join(names) if names else f"0..{count - 1}"
    raise UserError(f"--label {label!r} is not a class of the model: {known}{suggest(label, names)}")


def _unique_names(files: Sequence[Path]) -> list[str]:
    """Return a name without suffix for each file, different for different files."""
    stems = [path.stem for path in files]
    if len(set(stems)) == len(stems):
        return stems
    whole = [path.resolve() for path in files]
    top = Path(os.path.commonpath([path.parent for path in whole]))
    short = [path.relative_to(top).with_suffix("").as_posix() for path in whole]
    often = Counter({name: len({p for p, n in zip(whole, short, strict=True) if n == name}) for name in set(short)})
    return [p.relative_to(top).as_posix() if often[name] > 1 else name for p, name in zip(whole, short, strict=True)]
