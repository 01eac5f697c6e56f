"""Your own images with captions, listed in a file: a CSV table, or the JSON of COCO or of Karpathy's splits."""

import copy
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor
from typing_extensions import override

from datamodules.captions import Captioned, Pictures, TextCaptionDataModule
from datamodules.decode import Box, Interpolation, Size, check_interpolation, open_image, read_part, upright_size
from datamodules.sheet import Sheet
from datamodules.texts import decoded
from datamodules.written import Form

Missing = Literal["leave_out", "refuse"]
Listed = dict[str, list[str]]  # by the path of an image, its captions
_SHOWN = 3  # missing images that a message names
_PARTS = {"train": "train", "restval": "train", "val": "val", "test": "test"}  # of Karpathy's splits
# What the columns are often called.
_IMAGES = ("image", "file_name", "filename", "file", "path", "image_path", "image_name", "image_id", "photo", "img")
_CAPTIONS = ("caption", "text", "description", "sentence", "comment", "raw", "captions", "title", "alt")


class ListedCaptions(TextCaptionDataModule):
    """Image files with captions that are listed in another file. A subclass lists them.

    Args:
        missing_images: What is done about images that are listed and do not exist: "leave_out" warns, with their number and the
            first of them, "refuse" raises an error.
        color: "rgb" or "gray"; all images are converted to it.
        num_workers: Number of reading processes; None takes one for each CPU core, at most 8.
        draft: Whether JPEG images are decoded at a fraction of their size where they are large, see
            :class:`~datamodules.ImageFolderDataModule`.
        interpolation: How images are resized, see there.
        **captions: Arguments of :class:`~datamodules.TextCaptionDataModule`.

    Raises:
        FileNotFoundError: An image that is listed does not exist.
        ValueError: An argument is out of its range; later, an image cannot be read.
    """

    def __init__(
        self,
        missing_images: Missing = "leave_out",
        color: Literal["rgb", "gray"] = "rgb",
        num_workers: int | None = None,
        draft: bool = True,
        interpolation: Interpolation = "bilinear",
        **captions: Any,
    ) -> None:
        check_interpolation(interpolation)
        if color not in ("rgb", "gray"):
            raise ValueError(f'color must be "rgb" or "gray", got {color!r}')
        if missing_images not in get_args(Missing):
            raise ValueError(f'missing_images must be "leave_out" or "refuse", got {missing_images!r}')
        workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        super().__init__(num_workers=workers, **captions)
        self.channels = 3 if color == "rgb" else 1
        self.draft = draft
        self.interpolation = interpolation
        self.missing_images = missing_images

    @property
    @override
    def preparation(self) -> dict[str, Any]:
        return super().preparation | {"draft": self.draft, "interpolation": self.interpolation}

    @property
    @override
    def input_file(self) -> str | None:
        rows = self._loaded.rows
        pictures = rows["test" if "test" in rows else "train"].pictures
        return pictures.paths()[0] if isinstance(pictures, FilePictures) else None

    def from_files(self, listed: Listed, root: Path, path: Path) -> Captioned:
        """Return the images that exist, with their captions; for the arguments see :func:`existing`."""
        there = existing(listed, root, path, self.missing_images)
        return Captioned(FilePictures(root, [*there], self.channels, self.draft, self.interpolation), [*there.values()])


class CaptionFileDataModule(ListedCaptions):
    """Your own images, whose captions are in a file. An image may have any number of captions.

    The file is one of these; paths of images are relative to the folder ``images``, or to the file's own:

    - A CSV table with a header. A row has an image and one caption of it; further captions are in further rows. So are Flickr8k's
      ``captions.txt`` and, with ``delimiter: "|"`` and its columns' names, Flickr30k's ``results.csv``.
    - A JSON in the form of COCO's captions: ``images`` with ``id`` and ``file_name``, ``annotations`` with ``image_id`` and
      ``caption``.
    - A JSON in the form of Karpathy's splits (``dataset_coco.json``, ``dataset_flickr8k.json``): images with ``filename``,
      ``sentences`` and ``split``, which decides the parts ("restval" trains).

    Images may be of any kind that a folder of images may hold, see :class:`~datamodules.ImageFolderDataModule`. For captions as
    tokens, their words, and parts where there are none, see :class:`~datamodules.TextCaptionDataModule`.

    Args:
        path: The file.
        images: Folder that the paths of images are relative to; None takes that of the file.
        val: Another file of this form as the validation part; without it, ``val_fraction`` of the images is split off.
        test: Another file of this form as the test part; without it, ``test_fraction`` of the images is split off.
        image: Name of the column of images, of a CSV table.
        caption: Name of the column of captions.
        delimiter: Character between values of a table; "\\t" for tabs.
        encoding: Encoding of the file, by Python's name.
        **captions: ``missing_images`` ("leave_out" warns of images that are listed and do not exist, "refuse" raises an error),
            ``color``, ``num_workers``, ``draft``, ``interpolation``: see :class:`~datamodules.caption_file.ListedCaptions`; and the
            arguments of :class:`~datamodules.TextCaptionDataModule`.

    Raises:
        FileNotFoundError: There is no such file, or an image that is listed does not exist.
        ValueError: The file cannot be read; the message names the line, or the place. Later, an image cannot be read.

    Example:
        >>> rows = ["image,caption"]
        >>> for i in range(10):
        ...     Image.new("RGB", (40, 30), (200, 20 * i, 0)).save(f"{i}.png")
        ...     rows += [f"{i}.png,A red field.", f'{i}.png,"a field, all red"']
        >>> _ = Path("captions.csv").write_text("\\n".join(rows))
        >>> data = CaptionFileDataModule("captions.csv", size=32)
        >>> data.vocabulary["tokens"], data.caption_length, data.input_shape
        (['<pad>', '<end>', '<unk>', 'a', 'all', 'field', 'red'], 5, (3, 32, 32))
    """

    def __init__(
        self,
        path: str,
        images: str | None = None,
        val: str | None = None,
        test: str | None = None,
        image: str = "image",
        caption: str = "caption",
        delimiter: str = ",",
        encoding: str = "utf-8",
        **captions: Any,
    ) -> None:
        if image == caption:
            raise ValueError(f"image and caption must be different columns, got {image!r} for both")
        super().__init__(**captions)
        self._files = {
            name: Path(given).expanduser() for name, given in (("train", path), ("val", val), ("test", test)) if given
        }
        self._folder = None if images is None else Path(images).expanduser()
        self._columns, self._form = (image, caption), Form(delimiter, encoding, missing=())
        self._loaded  # noqa: B018 (read the files now, so that they are refused before anything else is done)

    @override
    def captioned(self) -> dict[str, Captioned]:
        parts: dict[str, Captioned] = {}
        for name, path in self._files.items():
            listed = self._listed(path)
            if len(self._files) > 1 and listed.keys() != {"train"}:
                raise ValueError(
                    f"{path} has parts of its own ({', '.join(listed)}): give no other files for val and test"
                )
            root = self._folder or path.parent
            for part, of_part in listed.items():
                parts[name if part == "train" else part] = self.from_files(of_part, root, path)
        if "train" not in parts:
            raise ValueError(f"{self._files['train']} has no image to train on, only the parts {', '.join(parts)}")
        _tell_same(parts)
        return parts

    def _listed(self, path: Path) -> dict[str, Listed]:
        """Return the captions of each image of a file, by part."""
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder: give the file in it that lists images and captions, a CSV table or a JSON"
            )
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            raise ValueError(
                f"{path} has a JSON in each line: give a CSV table of image and caption, or one JSON as COCO's"
            )
        if path.suffix.lower() == ".json":
            return read_json(path, self._form.encoding)
        return {"train": read_table(path, *self._columns, self._form)}


def read_table(path: Path, image: str, caption: str, form: Form) -> Listed:
    """Return the captions of each image of a CSV table, in the order of their rows; a caption that an image has twice counts once.

    Args:
        path: The file.
        image: Name of the column of images.
        caption: Name of the column of captions.
        form: How its values are written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, lacks a column, or a row has no image; the message names line and column.
    """
    sheet = Sheet.read(path, form, [image, caption], only=[image, caption])
    for option, name, usual in (("image", image, _IMAGES), ("caption", caption, _CAPTIONS)):
        try:
            sheet.index(name)
        except ValueError as error:
            lower = {column.strip().lower(): column for column in sheet.header if column not in (image, caption)}
            close = [word for word in usual if word in lower] or get_close_matches(name.lower(), lower, n=1)
            hint = (
                f": is {option}={lower[close[0]]!r} meant?" if close else f": give the name of the column as {option}"
            )
            raise ValueError(f"{error}{hint}") from None
    images, captions = sheet.words(image), sheet.words(caption)
    empty = images.are_in([""])
    if empty.any():
        raise ValueError(f"{sheet.at(int(empty.argmax()), image)}: there is no image: fill it in, or remove the row")
    listed: Listed = {}
    twice = 0
    for place, text in zip(images.index.tolist(), captions.index.tolist(), strict=True):
        of_image = listed.setdefault(os.path.normpath(images.texts[place]), [])
        if captions.texts[text] in of_image:
            twice += 1
        else:
            of_image.append(captions.texts[text])
    if twice:
        rank_zero_warn(
            f"{path}: {twice} of {len(sheet)} rows have a caption that the image has already: they are left out"
        )
    return listed


def read_json(path: Path, encoding: str = "utf-8") -> dict[str, Listed]:
    """Return the captions of each image of a JSON in the form of COCO's captions ("train" alone) or of Karpathy's splits, by part.

    Args:
        path: The file.
        encoding: Encoding of the file, by Python's name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, or has another form; the message names the place.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is not a file: give the path of a JSON of captions")
    try:
        content = json.loads(decoded(path.read_bytes(), encoding, str(path)))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: not a JSON ({error.msg}): it is damaged or incomplete"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(  # noqa: TRY004 (of the file, not of an argument)
            f"{path} has no list of images: captions are in the form of COCO, "
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}'
        )
    images = content["images"]
    if "annotations" not in content and any("sentences" in image for image in images if isinstance(image, dict)):
        return _karpathy(path, images)
    if not isinstance(content.get("annotations"), list):
        raise ValueError(  # noqa: TRY004
            f"{path} has no list of annotations, which hold the captions: is it one of COCO's captions_*.json?"
        )
    listed: dict[Any, list[str]] = {}
    files: dict[Any, str] = {}
    for i, image in enumerate(images):
        number, name = _fields(path, f"image {i}", image, "id", "file_name")
        if number in files:
            raise ValueError(
                f"{path}: images {list(files).index(number)} and {i} have the same id {number!r}: give each its own"
            )
        files[number], listed[number] = os.path.normpath(name), []
    for i, annotation in enumerate(content["annotations"]):
        number, text = _fields(path, f"annotation {i}", annotation, "image_id", "caption")
        if number not in listed:
            raise ValueError(
                f"{path}: annotation {i} is of the image {number!r}, which is not in the list of images: remove it"
            )
        listed[number].append(text)
    found: Listed = {}
    for number, texts in listed.items():
        found.setdefault(files[number], []).extend(texts)
    return {"train": found}


def _karpathy(path: Path, images: Iterable[Any]) -> dict[str, Listed]:
    parts: dict[str, Listed] = {}
    for i, image in enumerate(images):
        split, name, sentences = _fields(path, f"image {i}", image, "split", "filename", "sentences")
        if split not in _PARTS:
            raise ValueError(f"{path}: image {i} has the split {split!r}: it must be one of {', '.join(_PARTS)}")
        folder = _fields(path, f"image {i}", image, "filepath")[0] if "filepath" in image else ""
        file = os.path.normpath(os.path.join(folder, name))
        texts = [_fields(path, f"image {i}, sentence {k}", sentence, "raw")[0] for k, sentence in enumerate(sentences)]
        parts.setdefault(_PARTS[split], {}).setdefault(file, []).extend(texts)
    return parts


def _fields(path: Path, place: str, entry: Any, *names: str) -> list[Any]:
    """Return values of an entry of a JSON; all but ids, and the list of sentences, are texts."""
    missing = [name for name in names if not isinstance(entry, dict) or name not in entry]
    if missing:
        keys = ", ".join(map(repr, entry)) if isinstance(entry, dict) else f"a {type(entry).__name__}"
        raise ValueError(f"{path}: {place} has no {missing[0]!r}, got {keys}")
    for name in names:
        wanted = list if name == "sentences" else int | str if name.endswith("id") else str
        if not isinstance(entry[name], wanted):
            raise ValueError(  # noqa: TRY004
                f"{path}: {place}: {name!r} must be a {'list' if wanted is list else 'text'}, got {entry[name]!r}"
            )
    return [entry[name] for name in names]


def existing(listed: Listed, root: Path, path: Path, missing: Missing) -> Listed:
    """Return the images that exist, with their captions.

    Args:
        listed: The captions of each image.
        root: Folder that their paths are relative to.
        path: The file that lists them, for messages.
        missing: What is done about images that do not exist.

    Raises:
        FileNotFoundError: There is no image, or ``missing`` is "refuse" and one does not exist.
    """
    gone = {name: None for name in listed if not os.path.isfile(os.path.join(root, name))}  # in order
    if not gone:
        return listed
    first = ", ".join([*gone][:_SHOWN]) + " ..." * (len(gone) > _SHOWN)
    what = f"{len(gone):,} of the {len(listed):,} images that {path} lists are not in {root.absolute()} ({first})"
    turned = [name for name in gone if "\\" in name and os.path.isfile(os.path.join(root, name.replace("\\", "/")))]
    if turned:
        raise FileNotFoundError(f"{what}: {turned[0]} is there as {turned[0].replace(chr(92), '/')}: write / in paths")
    if len(gone) == len(listed):
        raise FileNotFoundError(f"{what}: give the folder that their paths are relative to as images")
    if missing == "refuse":
        raise FileNotFoundError(f"{what}: add them, remove their captions, or give missing_images=leave_out")
    rank_zero_warn(f"{what}: they are left out")
    return {name: texts for name, texts in listed.items() if name not in gone}


def _tell_same(parts: Mapping[str, Captioned]) -> None:
    """Warn of images that are in two parts."""
    known = {os.path.abspath(path) for path in parts["train"].pictures.paths()}  # type: ignore[attr-defined]
    for name in parts.keys() - {"train"}:
        paths = parts[name].pictures.paths()  # type: ignore[attr-defined]
        if same := sum(os.path.abspath(path) in known for path in paths):
            rank_zero_warn(
                f"{same} of the {len(paths)} images of the {name} part are in the training part, too: it does not measure what is "
                "learned of them"
            )


class FilePictures(Pictures):
    """Image files, read when they are needed.

    Args:
        root: Folder that the names are relative to.
        names: Paths.
        channels: 3 (RGB) or 1 (gray).
        draft: Whether large JPEG images are decoded at a fraction of their size, see :func:`~datamodules.decode.read_part`.
        interpolation: How they are resized, see there.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        channels: int = 3,
        draft: bool = False,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__(torch.empty(0))
        self.root = root
        self.names = np.array([os.fsencode(name) for name in names])  # an array, which workers share
        self.channels = channels
        self.draft = draft
        self.interpolation = interpolation

    def __len__(self) -> int:
        return len(self.names)

    @override
    def part(self, index: int, crop: Callable[[Size], Box], size: Sequence[int]) -> Image.Image:
        height, width = size
        with open_image(os.path.join(self.root, self.name_of(index))) as image:
            box = crop(upright_size(image))
            return read_part(image, self.channels, (width, height), box, self.draft, self.interpolation)

    @override
    def wholes(self, index: Tensor, size: Sequence[int]) -> None:
        return None

    @override
    def subset(self, chosen: Tensor) -> "FilePictures":
        return self._like(self.names[chosen.numpy()])

    @override
    def joined(self, other: "FilePictures") -> "FilePictures":
        theirs = (
            [os.path.relpath(path, self.root) for path in other.paths()] if other.root != self.root else other.names
        )
        return self._like([*self.names, *map(os.fsencode, theirs)])

    def _like(self, names: Any) -> "FilePictures":
        other = copy.copy(self)
        other.names = np.array(names)
        return other

    @override
    def name_of(self, index: int) -> str:
        return os.fsdecode(self.names[index])

    def paths(self) -> list[str]:
        """Return the path of each file."""
        return [os.path.normpath(os.path.join(self.root, os.fsdecode(name))) for name in self.names]

    @override
    def content(self) -> list[Tensor | str]:
        """Return the names and sizes in bytes of the files, not their pixels."""
        sizes = torch.tensor([os.stat(path).st_size for path in self.paths()])
        return ["\n".join(os.fsdecode(name) for name in self.names), sizes]
