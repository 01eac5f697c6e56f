"""Data sets that are not bundled, tiny and in their real formats on the disk."""

import gzip
import hashlib
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, MNIST

from datamodules import CIFAR10DataModule, CIFAR100DataModule


def md5(path: Path) -> str:
    """The checksum that torchvision asks for."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    """The format of the MNIST files: two zeros, 8 for bytes, the number of axes, their sizes, the bytes."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


class Fake:
    """Files of one of the datasets in ``root``: 40 (training) or 20 (test) images; image i is of class i % classes."""

    def __init__(self, root: Path, source: Any, patch: pytest.MonkeyPatch) -> None:
        self.root, self.source, self.patch = root, source, patch
        self.wanted: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        rng = np.random.default_rng(0)
        for part, count in (("train", 40), ("test", 20)):
            shape = (count, 1, 28, 28) if issubclass(source, MNIST) else (count, 3, 32, 32)
            self.wanted[part] = rng.integers(0, 256, shape, dtype=np.uint8), np.arange(count) % 10
        (self.mnist if issubclass(source, MNIST) else self.cifar)()

    def mnist(self) -> None:
        self.folder = self.root / self.source.__name__ / "raw"
        self.folder.mkdir(parents=True)
        sums = []
        for name, _ in self.source.resources:
            images, labels = self.wanted["train" if name.startswith("train") else "test"]
            array = images[:, 0] if "images" in name else labels.astype(np.uint8)
            (self.folder / name).write_bytes(gzip.compress(idx(array)))
            sums.append((name, md5(self.folder / name)))
        self.patch.setattr(self.source, "resources", sums)

    def cifar(self) -> None:
        folder = self.folder = self.root / self.source.base_folder
        folder.mkdir(parents=True)
        key = {CIFAR10: "labels", CIFAR100: "fine_labels"}[self.source]

        def write(names: list[str], part: str) -> list[list[str]]:
            images, labels = self.wanted[part]
            pieces = zip(names, np.array_split(images, len(names)), np.array_split(labels, len(names)), strict=True)
            for name, x, y in pieces:
                (folder / name).write_bytes(pickle.dumps({"data": x.reshape(len(x), -1), key: y.tolist()}, protocol=2))
            return [[name, md5(folder / name)] for name in names]

        for attribute, part in (("train_list", "train"), ("test_list", "test")):
            names = [name for name, _ in getattr(self.source, attribute)]
            self.patch.setattr(self.source, attribute, write(names, part))
        self.meta({CIFAR10: CIFAR10DataModule, CIFAR100: CIFAR100DataModule}[self.source].class_names)

    def meta(self, names: list[str]) -> None:
        path = self.folder / self.source.meta["filename"]
        path.write_bytes(pickle.dumps({self.source.meta["key"]: names}, protocol=2))
        self.patch.setattr(self.source, "meta", {**self.source.meta, "md5": md5(path)})

    def pack(self) -> None:
        """Only the archive, as it is after a download."""
        archive = self.root / self.source.filename
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(self.folder, self.source.base_folder)
        for path in self.folder.iterdir():
            path.unlink()
        self.patch.setattr(self.source, "tgz_md5", md5(archive))


def save(path: Path, pixels: Any = (200, 100, 50), mode: str = "RGB", side: int = 16, **kwargs: Any) -> Path:
    """An image file, of one color or as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.new(mode, (side, side), pixels)
    image.save(path, **kwargs)
    return path


def tree(root: Path, counts: dict[str, int]) -> Path:
    """So many gray files for each "part/class"; each file's gray level tells which it is."""
    level = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            save(root / name / f"{i:02}.png", level, "L", 4)
            level += 1
    return root


def photo_and_mask(
    root: Path, name: str, k: int = 0, values: tuple[Any, ...] = (0, 1), size: tuple[int, int] = (12, 10)
) -> None:
    """``images/<name>.png``, gray level ``k``, and its mask: the first value, in a corner of 4 x 5 pixels the others by turns."""
    corner = values[1 + k % (len(values) - 1)]
    mode = "L" if isinstance(corner, int) else "RGB"
    mask = Image.new(mode, size, values[0])
    mask.paste(corner, (0, 0, 4, 5))
    save(root / "images" / f"{name}.png", Image.new("RGB", size, (k, k, k)))
    save(root / "masks" / f"{name}.png", mask)


def masked(root: Path, parts: dict[str, int], **kwargs: Any) -> Path:
    """So many images with masks in each part's folder ("" for the root itself); gray levels count on."""
    k = 0
    for part, count in parts.items():
        for i in range(count):
            photo_and_mask(root / part, f"{i:02}", k, **kwargs)
            k += 1
    return root


def pets(root: Path, train: int = 6, test: int = 4) -> Path:
    """Oxford-IIIT Pet as its archives unpack: trimaps of 1 (pet), 2 (background), 3 (border); lists with four columns."""
    folder = root / "oxford-iiit-pet"
    k = 0
    for part, count in (("trainval", train), ("test", test)):
        lines = []
        for i in range(count):
            name = f"{('Abyssinian', 'beagle')[i % 2]}_{k + 1}"
            lines.append(f"{name} {i % 2 + 1} {i % 2 + 1} 1\n")
            save(folder / "images" / f"{name}.jpg", Image.new("RGB", (12, 10), (k, k, k)))
            mask = Image.new("L", (12, 10), 2)
            mask.paste(3, (0, 0, 6, 6))
            mask.paste(1, (1, 1, 5, 5))
            save(folder / "annotations/trimaps" / f"{name}.png", mask)
            k += 1
        (folder / "annotations" / f"{part}.txt").write_text("".join(lines))
    return root


def voc(root: Path, train: int = 6, val: int = 4) -> Path:
    """Pascal VOC 2012 as its archive unpacks: palette masks, 255 around each object; images without masks beside the others."""
    folder = root / "VOCdevkit/VOC2012"
    save(folder / "JPEGImages/2007_000001.jpg", (9, 9, 9), side=12)
    for part, count, year in (("train", train, 2008), ("val", val, 2009)):
        names = [f"{year}_{i:06}" for i in range(count)]
        for k, name in enumerate(names):
            save(folder / "JPEGImages" / f"{name}.jpg", Image.new("RGB", (12, 10), (k, k, k)))
            mask = Image.new("P", (12, 10), 0)
            mask.putpalette([part for k in range(256) for part in (k, 255 - k, k // 2)])
            mask.paste(255, (0, 0, 6, 6))
            mask.paste(20 - k, (1, 1, 5, 5))
            save(folder / "SegmentationClass" / f"{name}.png", mask)
        lists = folder / "ImageSets/Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def cityscapes(root: Path, train: int = 6, val: int = 4) -> Path:
    """Cityscapes as its two archives unpack: a folder a city, names with the kind of file; label ids 0..33."""
    for part, count in (("train", train), ("val", val), ("test", 1)):
        for i in range(count):
            city = ("zurich", "aachen")[i % 2]
            stem = f"{part}/{city}/{city}_{i:06}_000019"
            save(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", Image.new("RGB", (16, 8), (i, i, i)))
            mask = Image.new("L", (16, 8), 0 if part == "test" else 7)
            if part != "test":
                mask.putdata(list(range(34)) + [7] * 94)
            for kind in ("labelIds", "instanceIds", "color"):
                save(root / "gtFine" / f"{stem}_gtFine_{kind}.png", mask)
    return root


def coco(root: Path) -> None:
    """COCO captions of 2017 as its archives unpack: 40 images to train and 6 to validate, each with two captions."""
    number = 0
    for part, count in (("train2017", 40), ("val2017", 6)):
        images, annotations = [], []
        for i in range(count):
            number += 1
            name, word = f"{number:012}.jpg", ("red", "blue")[i % 2]
            save(root / part / name, Image.new("RGB", (12, 10), word))
            images.append({"id": number, "file_name": name, "height": 10, "width": 12, "license": 1})
            for text in (f"A {word} wall.", f"The wall is all {word}"):
                annotations.append({"image_id": number, "id": len(annotations), "caption": text})
        path = root / "annotations" / f"captions_{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"info": {}, "images": images, "licenses": [], "annotations": annotations}))


def sentences(root: Path) -> Path:
    """A tiny tree of Multi30k: 80 sentences to train, 6 to validate and to test, in German and English."""
    root.mkdir(parents=True)
    words = {"de": ("Zwei Hunde", "Ein Mann"), "en": ("Two dogs", "A man")}
    for stem, count in (("train", 80), ("val", 6), ("test_2016_flickr", 6)):
        for language, beginnings in words.items():
            text = "".join(f"{beginnings[i % 2]} {stem} {i}.\n" for i in range(count))
            (root / f"{stem}.{language}.gz").write_bytes(gzip.compress(text.encode()))
    return root
