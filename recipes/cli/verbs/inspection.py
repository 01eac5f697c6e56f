"""Inspection of the user's data before training on them: every file is read once."""

import os
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datamodules import CSVDataModule, ImageFolderDataModule, MaskFolderDataModule
from datamodules.decode import BadImageError, decode, open_image, read_part, upright_size, whole
from datamodules.image_folder import files_in
from datamodules.mask_folder import MaskCode, values_in
from datamodules.segmentation import IGNORED
from datamodules.sheet import Sheet
from datamodules.written import Form
from recipes.cli.errors import UserError

Value = int | tuple[int, int, int]  # of a pixel in a mask
_MAX_LISTED = 5  # files and classes listed by name
_MAX_CLASSES = 50  # values in masks that are taken for classes without asking
_MAX_NUMBERED = 20  # different whole numbers in a target that are taken for classes


@dataclass
class Inspection:
    """What ``zoo finetune`` finds in a folder or file.

    Attributes:
        rows: The findings, rows of a table.
        parts: Number of examples of each part.
        sizes: Width and height of each image in pixels; empty for a table.
        data: Arguments of the datamodule that follow from the findings.
    """

    rows: list[tuple[str, str]]
    parts: dict[str, int]
    sizes: list[tuple[int, int]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def median_size(self) -> tuple[int, int]:
        """Return width and height of the image whose shorter side is the median."""
        return sorted(self.sizes, key=min)[(len(self.sizes) - 1) // 2]


def inspect_images(root: str, options: Mapping[str, Any]) -> Inspection:
    """Inspect a folder with a folder of images for each class.

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
    good = _usable(results, root, "images")
    sizes = [size for size, _ in good]
    modes = ", ".join(f"{count:,} {mode}" for mode, count in Counter(mode for _, mode in good).most_common())
    parts = _parts(data, examples)
    rows = [
        _found("images", len(names), root, parts, data),
        (
            "classes",
            f"{len(counts)}: " + _classes([f"{name} {count:,}" for name, count in counts.items()], counts.values()),
        ),
        ("sizes", f"{_range(sizes)} pixels; {modes}"),
    ]
    return Inspection(rows, parts, sizes)


def _size_and_mode(path: str) -> tuple[tuple[int, int], str] | BadImageError:
    try:
        decode(path, 3, 8, draft=True)
        with open_image(path) as image:
            return image.size, image.mode
    except BadImageError as error:
        return error


def inspect_masks(root: str, options: Mapping[str, Any]) -> Inspection:
    """Inspect a folder with ``images`` and ``masks``, and find the classes in the masks' values.

    Args:
        root: The folder.
        options: Arguments of :class:`datamodules.MaskFolderDataModule`; its ``class_names`` and ``mask_values`` win over those
            that are found.

    Raises:
        UserError: Some files cannot be used, or the masks hold one value alone, or too many.
        FileNotFoundError: There is no such folder, or an image has no mask.
    """
    given = {"class_names": ["0", "1"], **options, "num_workers": 0}
    known = "class_names" in options
    data: Any = MaskFolderDataModule(root, **(given if known else given | {"mask_values": None}))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* left out, ")  # the run will say so
        examples = {part: data.examples(part) for part in ("train", "test")[: 1 + data.has_test]}
    pairs = [
        (os.fsdecode(i), os.fsdecode(m))
        for part in examples.values()
        for i, m in zip(part.images, part.masks, strict=True)
    ]
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        warnings.simplefilter("ignore")
        results = list(pool.map(partial(_size_and_values, code=data.code if known else None), pairs))
    good = _usable(results, root, "pairs of image and mask")
    colored = any(isinstance(value, tuple) for _, values in good for value in values)
    counts: Counter[Any] = Counter()
    for _, values in good:
        for value, count in values.items():
            counts[(value, value, value) if colored and isinstance(value, int) else value] += count
    found = {} if known else _classes_of(counts, root)
    chosen = {**found, **options}
    names = [str(name) for name in chosen["class_names"]]
    values = [tuple(v) if isinstance(v, list) else v for v in chosen.get("mask_values") or range(len(names))]
    by_value: dict[Any, str] = dict(zip(values, names, strict=True))
    total = sum(counts.values())
    named = [(by_value.get(value, "ignored"), _shown(value), count / total) for value, count in sorted(counts.items())]
    shares = [f"{name}{f' ({text})' * (name != text)} {share:.1%}" for name, text, share in named]
    hint = "" if known else "; to name them: --data.class_names"
    parts = _parts(data, examples)
    sizes = [size for size, _ in good]
    rows = [
        _found("images", len(pairs), root, parts, data),
        ("masks", f"{len(names)} classes by their values: {', '.join(shares)} of the pixels{hint}"),
        ("sizes", f"{_range(sizes)} pixels"),
    ]
    return Inspection(rows, parts, sizes, found)


def _size_and_values(
    pair: tuple[str, str], code: MaskCode | None
) -> tuple[tuple[int, int], dict[Value, int]] | BadImageError:
    image, mask = pair
    try:
        with open_image(image) as opened:
            size = upright_size(opened)
            read_part(opened, 3, (8, 8), whole(size), draft=True)
        if code is not None:
            code.read(mask, size, image)  # refuses values of no class
        return size, dict(values_in(mask, size, image))
    except BadImageError as error:
        return error


def _classes_of(counts: Counter[Any], root: str) -> dict[str, Any]:
    """Return names and values of the classes in masks."""
    values = sorted(counts)
    if len(values) > _MAX_CLASSES:
        raise UserError(
            f"the masks in {root} hold {len(values):,} different values, such as {', '.join(map(_shown, values[:5]))}: the "
            "value of a pixel must be its class (no smooth edges, no JPEG); give --data.class_names if they are classes"
        )
    numbered = [value for value in values if value != IGNORED]
    ignores = IGNORED in values and len(numbered) > 1 and numbered == list(range(len(numbered)))
    values = numbered if ignores else values
    if len(values) < 2:
        raise UserError(f"all masks in {root} hold the one value {_shown(values[0])}: there is nothing to tell apart")
    names = ["background", "object"] if len(values) == 2 else [_shown(value) for value in values]
    plain = [_plain(value) for value in values]
    return {"class_names": names, **({} if plain == list(range(len(plain))) else {"mask_values": plain})}


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Value) -> str:
    return "#{:02x}{:02x}{:02x}".format(*value) if isinstance(value, tuple) else str(value)


def inspect_table(path: str, target: str | None, options: Mapping[str, Any]) -> Inspection:
    """Inspect a CSV file, and find whether its target is a class or a number.

    Args:
        path: The file.
        target: Name of the target's column.
        options: Arguments of :class:`datamodules.CSVDataModule`; its ``kind`` wins over the one that is found.

    Raises:
        UserError: No target is given.
        ValueError: The datamodule refuses the file; the message names line and column.
    """
    if target is None:
        with open(path, encoding=options.get("encoding", "utf-8"), errors="replace") as file:
            first = file.readline().strip()[:300]
        pairs = (
            f"; if its lines are pairs of texts, zoo fit -c seq2seq/pairs --data.path {path} trains a translator, with "
            "--model.weights from another one's checkpoint"
        )
        captions = f"; if these are images and captions, zoo fit -c captioning/caption_file --data.path {path} trains a captioner"
        raise UserError(
            f"give the column to predict, --target NAME, one of {path}: {first}"
            + pairs * (first.count("\t") == 1)
            + captions * ("caption" in first.lower())
        )
    kind = options.get("kind") or _kind_of_target(path, target, options)
    data: Any = CSVDataModule(path, target=target, **{**options, "kind": kind})
    data.setup("fit")
    examples = {part: data.examples(part) for part in ("train", "test")[: 1 + data.has_test]}
    parts = _parts(data, examples)
    columns = data.columns
    names = [column.name for column in columns]
    shown = ", ".join(names[: 2 * _MAX_LISTED]) + " ..." * (len(names) > 2 * _MAX_LISTED)
    if kind == "regression":
        y = data.table()[1]
        about = f"{target}, a number from {y.min():.6g} to {y.max():.6g} (classes: --data.kind classification)"
    else:
        counts = data.class_counts
        listed = [f"{name} {count:,}" for name, count in zip(data.class_names, counts, strict=True)]
        classes = f"{len(counts)} classes, {_classes(listed, counts)}"
        about = f"{target}, one of {classes} in training (a number: --data.kind regression)"
    features = f"{data.input_shape[0]} from {len(columns)} column{'s' * (len(columns) > 1)}: {shown}"
    rows = [_found("rows", sum(parts.values()), path, parts, data), ("target", about), ("features", features)]
    return Inspection(rows, parts, data={"kind": kind})


def _kind_of_target(path: str, target: str, options: Mapping[str, Any]) -> str:
    """Return "regression" for numbers that are not whole, or of many different values.

    Raises:
        UserError: They look like numbers, and are not read as such.
    """
    try:
        _, y = CSVDataModule(path, target=target, **{**options, "kind": "regression"}).table()
    except ValueError as error:  # texts; or whatever else is wrong, which is raised again
        form = Form.of(options)
        counts = Sheet.read(Path(path), form, [target], only=[target]).words(target).counts()
        if form.hint({text: count for text, count in counts.items() if text not in form.missing}):
            raise UserError(f"{error}, or --data.kind classification if these are classes") from error
        return "classification"
    values = set(y.flatten().tolist())
    return "classification" if len(values) <= _MAX_NUMBERED and all(v == int(v) for v in values) else "regression"


def _usable(results: Sequence[Any], root: str, what: str) -> list[Any]:
    """Return the results that are no errors.

    Raises:
        UserError: Some are; they are listed.
    """
    bad = [str(result) for result in results if isinstance(result, BadImageError)]
    if bad:
        more = f"; and {len(bad) - _MAX_LISTED} more" if len(bad) > _MAX_LISTED else ""
        raise UserError(
            f"{len(bad)} of {len(results)} {what} in {root} cannot be used: {'; '.join(bad[:_MAX_LISTED])}{more}"
        )
    return list(results)


def _parts(data: Any, examples: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of examples of each part that has any."""
    validates = int(data.validation_mask(examples["train"]).sum())
    parts = {"train": len(examples["train"]) - validates, "val": validates, "test": len(examples.get("test", []))}
    return {name: count for name, count in parts.items() if count}


def _found(what: str, count: int, root: str, parts: Mapping[str, int], data: Any) -> tuple[str, str]:
    folders = getattr(data, "folders", {})
    split = "as in the folders" if folders and folders["train"] != data.root else "split off here"
    split += ", by class" * (
        data.class_names is not None and data.kind == "classification" and split == "split off here"
    )
    return what, f"{count:,} in {root}: {', '.join(f'{count:,} {name}' for name, count in parts.items())} ({split})"


def _classes(texts: list[str], counts: Collection[int]) -> str:
    if len(texts) > 2 * _MAX_LISTED:
        texts = [*texts[:_MAX_LISTED], f"... ({min(counts):,} to {max(counts):,} each)"]
    return ", ".join(texts)


def _range(sizes: Sequence[tuple[int, int]]) -> str:
    low, *_, high = sorted([*sizes, sizes[0]], key=lambda size: size[0] * size[1])
    return f"{low[0]}x{low[1]}" + (f" to {high[0]}x{high[1]}" if low != high else "")
