"""Torchvision's weights, from a stand-in for its server on this machine."""

import hashlib
import os
import re
from functools import partial
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torchvision.models import Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

import zoo
from zoo.pretrained import list_weights, vision

CATEGORIES = [f"class {k}" for k in range(12)]
REAL = [name for name in zoo.list_models() if vision.members(name)]


def make(**kwargs: Any) -> zoo.Task:
    return zoo.create_model("resnet18", width=4, **kwargs)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a narrow resnet18 of torchvision seems to be downloaded from; the cache is empty."""
    folder = tmp_path / "server"
    folder.mkdir()
    net = make(num_classes=12).net
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.01)
    torch.save(net.state_dict(), folder / "net.pth")
    digest = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    path = folder / f"resnet18-{digest[:8]}.pth"
    (folder / "net.pth").rename(path)

    class Small(WeightsEnum):
        IMAGENET1K_V1 = Weights(
            path.as_uri(),
            partial(ImageClassification, crop_size=64, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125)),
            {"categories": CATEGORIES},
        )
        FEATURES = Weights(path.as_uri(), partial(ImageClassification, crop_size=64), {"categories": None})
        DEFAULT = IMAGENET1K_V1

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: Small)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return path


def cached(server: Path) -> Path:
    return Path(os.environ["TORCH_HOME"], "hub", "checkpoints", server.name)


@pytest.mark.parametrize("name", ["imagenet", "IMAGENET1K_V1", "imagenet1k_v1", "DEFAULT"])
def test_weights_by_torchvisions_names(name: str, server: Path) -> None:
    task = make(weights=name, num_classes=12).eval()
    net = make(num_classes=12).net
    net.load_state_dict(torch.load(server, weights_only=True))
    x = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 0.125])
    with torch.no_grad():
        standardized = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        assert torch.equal(task(x), net.eval()(standardized.contiguous(memory_format=torch.channels_last)))
    assert task.load_report is not None
    assert task.load_report.complete
    assert task.class_names == CATEGORIES
    assert task.input_shape == (3, 64, 64)
    assert cached(server).is_file()


def test_a_second_time_nothing_is_fetched(server: Path) -> None:
    make(weights="imagenet", num_classes=12)
    server.unlink()
    task = make(weights="imagenet", num_classes=7, in_channels=1)
    assert task.load_report is not None
    assert task.load_report.adapted == ["net.conv1.weight"]
    assert task.load_report.reinitialized == ["net.fc.weight", "net.fc.bias"]
    assert task.class_names is None
    assert task.input_shape == (1, 64, 64)
    assert task.mean.tolist() == pytest.approx([0.2])


def test_weights_without_a_classifier_are_not_offered(server: Path) -> None:
    with pytest.raises(ValueError, match="resnet18 has no weights 'FEATURES'; by name it has imagenet, IMAGENET1K_V1"):
        make(weights="FEATURES")


def test_a_wrong_hash(server: Path) -> None:
    make(weights="imagenet", num_classes=12)
    data = bytearray(cached(server).read_bytes())
    data[len(data) // 2] ^= 1
    cached(server).write_bytes(data)
    actual = hashlib.sha256(data).hexdigest()[:8]
    expected = server.stem.rpartition("-")[2]
    with pytest.raises(
        ValueError, match=rf"sha256 begins with {actual}, expected {expected} as in its name: delete it"
    ):
        make(weights="imagenet", num_classes=12)


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError("timed out"), IncompleteRead(b"", 9)])
def test_a_connection_that_breaks(error: Exception, server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", broken)
    with pytest.raises(ConnectionError, match=rf"cannot download .* \({re.escape(str(error))}\): download it where"):
        make(weights="imagenet", num_classes=12)


def test_no_network(server: Path) -> None:
    server.unlink()
    with pytest.raises(
        ConnectionError, match=rf"cannot download {server.as_uri()} .*put it at {cached(server)}, or give"
    ):
        make(weights="imagenet")
    assert not cached(server).exists()


@pytest.mark.parametrize("name", REAL)
def test_all_weights_of_torchvision_are_understood(name: str) -> None:
    assert list_weights(name)[:2] == ["imagenet", next(iter(vision.members(name)))]
    for entry in vision.members(name).values():
        assert vision.HASH.search(entry.url), entry
        mean, std, size = vision.preprocessing(entry)
        assert len(mean) == len(std) == 3
        assert size >= 224
        assert len(entry.meta["categories"]) == 1000


def test_googlenets_own_standardization() -> None:
    entry = vision.members("googlenet")["IMAGENET1K_V1"]
    mean, std, _ = vision.preprocessing(entry)
    net = torchvision.models.GoogLeNet(transform_input=True, aux_logits=False, init_weights=False)
    x, preset = torch.rand(2, 3, 8, 8), entry.transforms()
    theirs = net._transform_input(torchvision.transforms.functional.normalize(x, preset.mean, preset.std))
    ours = torchvision.transforms.functional.normalize(x, mean, std)
    torch.testing.assert_close(ours, theirs)


def test_densenets_old_names() -> None:
    key = "features.denseblock1.denselayer12.{}1.running_mean"
    assert vision.new_name(key.format("norm.")) == key.format("norm")
    assert vision.new_name("features.norm0.weight") == "features.norm0.weight"
