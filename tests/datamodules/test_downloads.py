"""MNIST, FashionMNIST, CIFAR-10 and -100, on tiny files in their real formats; their checksums are checked as ever."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import Fake
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST

from datamodules import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule, MNISTDataModule

MNISTS = [(MNISTDataModule, MNIST), (FashionMNISTDataModule, FashionMNIST)]
CIFARS = [(CIFAR10DataModule, CIFAR10), (CIFAR100DataModule, CIFAR100)]
ALL = MNISTS + CIFARS


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
        FileNotFoundError, match=rf"{source.__name__} is incomplete in {data._folder()} .*unreachable.*copy"
    ):
        data.prepare_data()
    with pytest.raises(FileNotFoundError, match=rf"{source.__name__} is not in {data._folder()}: .*prepare_data"):
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
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("the network was used"))
    before = path.read_bytes()
    data = cls(root=str(tmp_path))
    for act in (data.prepare_data, lambda: data.read("train")):
        with pytest.raises(
            ValueError, match=rf"{fake.folder} are not the published ones, or damaged: published=False takes"
        ):
            act()
    assert path.read_bytes() == before


@pytest.mark.parametrize(("cls", "source"), CIFARS)
def test_own_files_of_the_layout_are_taken_when_asked(
    cls: Any, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # the published sums are others
        fake = Fake(tmp_path, source, patch)
        fake.meta([f"own {k}" for k in range(10)])
    if len(source.train_list) > 1:
        (fake.folder / source.train_list[-1][0]).unlink()
    data = cls(root=str(tmp_path), published=False, val_fraction=0.5)
    data.prepare_data()
    data.setup()
    assert data.class_names == [f"own {k}" for k in range(10)]
    for part, count in (("train", 32 if source is CIFAR10 else 40), ("test", 20)):
        x, y = data.read(part)
        assert (x.numpy() == fake.wanted[part][0][:count]).all()
        assert (y.numpy() == fake.wanted[part][1][:count]).all()


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("open('owned', 'w').close()",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "it asks to import builtins.exec, which is refused"),
        ([1], "it holds a list"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}, "images of torch.float32"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, r"labels \(1,\)"),
        ({"data": np.zeros((2, 5), np.uint8), "labels": [0, 1]}, "invalid for input of size 10"),
        ({"labels": [0, 1]}, "object"),
    ],
)
def test_own_files_of_another_layout_run_nothing_and_are_named(tmp_cwd: Path, content: Any, message: str) -> None:
    path = Path("data/cifar-10-batches-py/data_batch_1")
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(
        ValueError, match=rf"data_batch_1 is no file of CIFAR's layout \(.*{message}.*\): it must be a pickled"
    ):
        CIFAR10DataModule(published=False).read("train")
    with pytest.raises(FileNotFoundError, match="has no test_batch: put files of that layout there"):
        CIFAR10DataModule(published=False).read("test")
    assert not Path("owned").exists()


def test_other_class_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(tmp_path, CIFAR10, monkeypatch)
    fake.meta(list("abcdefghij"))
    with pytest.raises(ValueError, match="are not the published ones"):
        CIFAR10DataModule(root=str(tmp_path)).read("train")
