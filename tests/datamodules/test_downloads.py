"""MNIST, FashionMNIST, CIFAR-10 and -100, on tiny files in their real formats; their checksums are checked as ever."""

import gzip
import hashlib
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST

from datamodules import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule, MNISTDataModule

MNISTS = [(MNISTDataModule, MNIST), (FashionMNISTDataModule, FashionMNIST)]
CIFARS = [(CIFAR10DataModule, CIFAR10), (CIFAR100DataModule, CIFAR100)]
ALL = MNISTS + CIFARS


def md5(path: Path) -> str:
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
        folder.mkdir()
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
        self.meta(dict(zip([CIFAR10, CIFAR100], [c.class_names for c, _ in CIFARS], strict=True))[self.source])

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


@pytest.mark.parametrize(("cls", "source"), ALL)
def test_the_files_become_the_images_and_labels(
    cls: Any, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path, source, monkeypatch)
    if source in (CIFAR10, CIFAR100):
        fake.pack()
    data = cls(root=str(tmp_path), val_fraction=0.25 if source is not CIFAR100 else 0.5)
    data.prepare_data()
    for part in ("train", "test"):
        x, y = data.read(part)
        assert (x.dtype, y.dtype, x.is_contiguous()) == (torch.uint8, torch.int64, True)
        assert (x.numpy() == fake.wanted[part][0]).all()
        assert (y.numpy() == fake.wanted[part][1]).all()
    data.setup()
    assert len(data._parts["test"]) == 20
    assert len(data._parts["train"]) + len(data._parts["val"]) == 40
    assert data.input_shape == data._parts["train"][0][0].shape
    assert data.num_classes == (100 if source is CIFAR100 else 10) == len(set(data.class_names))


@pytest.mark.parametrize(("cls", "source"), ALL)
def test_without_network_the_folder_and_the_cure_are_named(
    cls: Any, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    data = cls(root=str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=rf"{source.__name__} is not complete in {data._place()} .*unreachable.*copy"
    ):
        data.prepare_data()
    with pytest.raises(FileNotFoundError, match=rf"{source.__name__} is not in {data._place()}: .*prepare_data"):
        data.setup("fit")


@pytest.mark.parametrize(("cls", "source"), ALL)
def test_download_false_never_tries(cls: Any, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("the network was used"))
    data = cls(root=str(tmp_path / "empty"), download=False)
    data.prepare_data()
    assert not (tmp_path / "empty").exists()
    with pytest.raises(FileNotFoundError):
        data.setup("test")


@pytest.mark.parametrize(("cls", "source"), MNISTS)
def test_a_file_cut_off_is_called_damaged(
    cls: Any, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path, source, monkeypatch)
    data = cls(root=str(tmp_path))
    data.prepare_data()
    path = fake.folder / "train-images-idx3-ubyte"
    for count in (2000, 2):
        path.write_bytes(path.read_bytes()[:count])
        for act in (data.prepare_data, lambda: data.read("train")):
            with pytest.raises(ValueError, match=rf"{fake.folder} are damaged .*delete that folder"):
                act()


@pytest.mark.parametrize(("cls", "source"), MNISTS)
def test_a_bad_checksum_of_a_download_is_refused(
    cls: Any, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path, source, monkeypatch)
    archive = fake.folder / "train-labels-idx1-ubyte.gz"
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):  # it fetches again, in vain
        cls(root=str(tmp_path)).prepare_data()


@pytest.mark.parametrize(("cls", "source"), CIFARS)
def test_a_changed_file_is_refused_unread(
    cls: Any, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle can run code: it must not be opened unless its checksum is right."""
    fake = Fake(tmp_path, source, monkeypatch)
    path = fake.folder / source.train_list[0][0]
    path.write_bytes(pickle.dumps({"data": fake.wanted["train"][0], "labels": [0] * 40}))
    monkeypatch.setattr(pickle, "load", lambda *a, **k: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=rf"{fake.folder} are damaged"):
        cls(root=str(tmp_path), download=False).read("train")


def test_other_class_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(tmp_path, CIFAR10, monkeypatch)
    fake.meta(list("abcdefghij"))
    with pytest.raises(ValueError, match="are damaged"):
        CIFAR10DataModule(root=str(tmp_path)).read("train")
