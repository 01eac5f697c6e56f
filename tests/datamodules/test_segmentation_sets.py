"""Oxford-IIIT Pet, Pascal VOC and Cityscapes, on tiny trees in their real layouts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import cityscapes, pets, voc
from torchvision.datasets import Cityscapes

from datamodules import CityscapesDataModule, OxfordIIITPetDataModule, VOCSegmentationDataModule

SETS: list[tuple[Any, Callable[..., Path], tuple[int, int]]] = [
    (OxfordIIITPetDataModule, pets, (10, 12)),
    (VOCSegmentationDataModule, voc, (10, 12)),
    (CityscapesDataModule, cityscapes, (8, 16)),
]
every_set = pytest.mark.parametrize(("cls", "fake", "size"), SETS)


def set_up(cls: Any, root: Path, size: tuple[int, int]) -> Any:
    data = cls(root=str(root), size=list(size), num_workers=0, val_fraction=0.5)
    data.prepare_data()
    data.setup()
    return data


def read(part: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return part.batch(torch.arange(len(part)))


@every_set
def test_parts(cls: Any, fake: Callable[..., Path], size: tuple[int, int], tmp_path: Path) -> None:
    data = set_up(cls, fake(tmp_path), size)
    assert {name: len(part) for name, part in data._parts.items()} == {"train": 3, "val": 3, "test": 4}
    names = {name: {part.name_of(i) for i in range(len(part))} for name, part in data._parts.items()}
    assert len(set.union(*names.values())) == 10
    x, y = read(data._parts["train"])
    assert (x.shape, y.shape) == ((3, *data.input_shape), (3, *size))
    assert data.class_counts == [int((y == k).sum()) for k in range(data.num_classes)]
    assert len(data.class_names) == data.num_classes == len(set(data.class_names))
    assert (data.preparation["draft"], data.examples("train").draft) == (True, True)
    exact = cls(root=str(data.root), draft=False)
    assert (exact.preparation["draft"], exact.examples("train").draft) == (False, False)


def test_a_trimap_is_background_pet_and_a_border_that_is_ignored(tmp_path: Path) -> None:
    x, y = read(set_up(OxfordIIITPetDataModule, pets(tmp_path), (10, 12))._parts["test"])
    assert (x[:, 0, 0, 0] - torch.arange(6, 10)).abs().max() <= 1  # the test list's, in its order
    assert (y[:, 1:5, 1:5] == 1).all()
    assert (y[:, 0, :6] == 255).all()
    assert (y[:, :, 6:] == 0).all()


def test_voc_tests_on_its_validation_part_and_ignores_borders(tmp_path: Path) -> None:
    data = set_up(VOCSegmentationDataModule, voc(tmp_path), (10, 12))
    assert all("2009_" in data._parts["test"].name_of(i) for i in range(4))
    assert all("2008_" in data._parts[part].name_of(i) for part in ("train", "val") for i in range(3))
    _, y = read(data._parts["test"])
    assert y[:, 1, 1].tolist() == [20, 19, 18, 17]
    assert data.class_names[20] == "tvmonitor"
    assert data.class_names[15] == "person"
    assert (y[:, 0, :6] == 255).all()
    assert (y[:, 6:] == 0).all()


def test_cityscapes_has_its_nineteen_classes(tmp_path: Path) -> None:
    data = set_up(CityscapesDataModule, cityscapes(tmp_path), (8, 16))
    part = data._parts["test"]
    assert [part.name_of(i).split("/")[2] for i in range(4)] == ["aachen", "aachen", "zurich", "zurich"]
    assert all(part.name_of(i).startswith("leftImg8bit/val/") for i in range(4))
    x, y = read(part)
    assert x[:, 0, 0, 0].tolist() == [1, 3, 0, 2]  # and the masks are those of their images
    wanted = [next(c.train_id for c in Cityscapes.classes if c.id == k) for k in range(34)]
    assert y[0].flatten()[:34].tolist() == wanted
    assert data.class_names[0] == "road"
    assert data.class_names[18] == "bicycle"
    assert CityscapesDataModule().input_shape == (3, 512, 1024)


def test_cityscapes_unpacks_its_archives(tmp_path: Path) -> None:
    cityscapes(tmp_path / "whole")
    (tmp_path / "root").mkdir()
    for kind in ("leftImg8bit", "gtFine"):
        shutil.make_archive(str(tmp_path / "root" / f"{kind}_trainvaltest"), "zip", tmp_path / "whole", kind)
    assert len(set_up(CityscapesDataModule, tmp_path / "root", (8, 16))._parts["test"]) == 4


@every_set
def test_without_network_the_place_and_the_cure_are_named(
    cls: Any, fake: Callable[..., Path], size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    data = cls(root=str(tmp_path / "none"))
    cure = "registration" if cls is CityscapesDataModule else r"unreachable.*copy the files there"
    with pytest.raises(FileNotFoundError, match=rf"none/.* does not exist and could not be downloaded .*{cure}"):
        data.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"none/.* does not exist: call prepare_data"):
        data.setup("fit")


@every_set
def test_what_is_there_is_not_fetched_again(
    cls: Any, fake: Callable[..., Path], size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cls(root=str(fake(tmp_path)), size=list(size), num_workers=0)
    fetched: list[Any] = []
    monkeypatch.setattr(cls, "fetch", lambda self: fetched.append(self))
    data.prepare_data()
    cls(root=str(tmp_path / "none"), download=False).prepare_data()
    assert fetched == []
    cls(root=str(tmp_path / "none")).prepare_data()
    assert len(fetched) == 1


@every_set
def test_a_file_that_is_listed_but_missing_is_named(
    cls: Any, fake: Callable[..., Path], size: tuple[int, int], tmp_path: Path
) -> None:
    data = cls(root=str(fake(tmp_path)), size=list(size), num_workers=0)
    _, masks = data.listed("train")
    Path(masks[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{masks[1]} is listed, but does not exist: the data are incomplete"):
        data.setup("fit")
