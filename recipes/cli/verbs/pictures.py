"""The pictures that ``zoo predict`` and ``zoo sample`` write: overlays, index masks, reconstructions."""

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
from zoo import Task
from zoo.drawing.masks import overlay, palette
from zoo.spelling import suggest

_KINDS = ("overlay", "mask", "reconstruction")


class Pictures:
    """Tells of what a model makes of image files, and writes it into a folder.

    Pictures are called by their image: ``a.png`` gives ``a_mask.png``. Images of one name keep the folders that tell them apart.

    Args:
        folder: made with the first picture; None writes nothing.
        files: all images.

    Raises:
        UserError: a picture would take the place of one of the images.
    """

    def __init__(self, folder: Path | None, files: Sequence[Path]) -> None:
        self.folder = folder
        self._names = dict(zip(files, _apart(files), strict=True))
        if folder is None:
            return
        given = {path.resolve() for path in files}
        for path in files:
            for kind in _KINDS:
                if (place := self._place(path, kind)).resolve() in given:
                    raise UserError(f"-o {folder}: {place} is one of the images and would be lost: give another folder")

    def _place(self, file: Path, kind: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{self._names[file]}_{kind}.png"

    def rows(self, model: Task, found: dict[str, Any], files: Sequence[Path]) -> list[dict[str, Any]]:
        """What to tell of each image, plain data: shares of the classes or errors, and the pictures that were written."""
        if "mask" in found:
            return [self._segmented(model, mask.cpu(), file) for mask, file in zip(found["mask"], files, strict=True)]
        rows = []
        for i, file in enumerate(files):
            row: dict[str, Any] = {key: float(value[i]) for key, value in found.items() if value.ndim == 1}
            if self.folder is not None:
                image = (found["reconstruction"][i].float().cpu().clamp(0, 1) * 255).round().byte()
                row["reconstruction"] = self._save(file, "reconstruction", as_image(image))
            rows.append(row)
        return rows

    def _segmented(self, model: Task, mask: Tensor, file: Path) -> dict[str, Any]:
        names = model.class_names or [str(k) for k in range(model.hparams["num_classes"])]
        shares = torch.bincount(mask.flatten().long(), minlength=len(names)).double() / mask.numel()
        row: dict[str, Any] = {"shares": dict(zip(names, shares.tolist(), strict=True))}
        if self.folder is None:
            return row
        image = read_image(file, 3)
        own = nearest(mask, (image.height, image.width))
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        row["overlay"] = self._save(file, "overlay", as_image(overlay(pixels.float() / 255, own, names)))
        index = Image.fromarray(own.numpy() if own.dtype == torch.uint8 else own.numpy().astype(np.uint16))
        if own.dtype == torch.uint8:
            index.putpalette(palette(len(names)).flatten().tolist())  # what was "L" becomes "P"
        row["mask"] = self._save(file, "mask", index)
        return row

    def _save(self, file: Path, kind: str, image: Image.Image) -> str:
        place = self._place(file, kind)
        with writing(place):
            image.save(place, "PNG")
        return str(place)


def as_image(pixels: Tensor) -> Image.Image:
    """uint8 ``(1 or 3, H, W)`` as an image."""
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).contiguous().numpy())


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Make the folder of a file that is to be written.

    Raises:
        UserError: the folder cannot be made, or the file not be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"cannot write {place}: {error.strerror}; give another place with -o") from error


def class_of(model: Task, label: str) -> int:
    """The number of a class, told by its name or as a number.

    Raises:
        UserError: no such class, or a model that is told none.
    """
    if not getattr(model, "conditional", False):
        raise UserError(f"--label is for conditional models, and {type(model).__name__} is told no class")
    count = int(model.net.num_classes)
    names = model.class_names or []
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < count:
        return int(label)
    known = ", ".join(names) if names else f"0..{count - 1}"
    raise UserError(f"--label {label!r} is no class of the model: {known}{suggest(label, names)}")


def _apart(files: Sequence[Path]) -> list[str]:
    """A name for each file, without its suffix; all different for different files."""
    stems = [path.stem for path in files]
    if len(set(stems)) == len(stems):
        return stems
    whole = [path.resolve() for path in files]
    top = Path(os.path.commonpath([path.parent for path in whole]))
    short = [path.relative_to(top).with_suffix("").as_posix() for path in whole]
    often = Counter({name: len({p for p, n in zip(whole, short, strict=True) if n == name}) for name in set(short)})
    return [p.relative_to(top).as_posix() if often[name] > 1 else name for p, name in zip(whole, short, strict=True)]
