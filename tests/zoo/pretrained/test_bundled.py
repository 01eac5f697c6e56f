"""The bundled weights: complete, small, and as good as their cards say."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from kit import quiet_trainer

import zoo
from datamodules import DigitsDataModule
from recipes.cli import bundle, catalog
from zoo.pretrained import bundled, list_weights

NAMES = bundled.names()


@pytest.mark.parametrize("name", NAMES)
def test_the_test_metric_is_that_of_the_card(name: str) -> None:
    model = zoo.load(name)
    assert model.input_shape is not None
    trainer = quiet_trainer()
    (logged,) = trainer.test(model, DigitsDataModule(size=model.input_shape[1], batch_size=64), verbose=False)
    expected = json.loads((bundled.HERE / name / "config.json").read_text())["training"]["metric"]["test/acc"]
    assert logged["test/acc"] == pytest.approx(expected, abs=1.5 / 360)  # an image may tip over on another machine
    assert expected >= 0.97


@pytest.mark.parametrize("name", NAMES)
def test_the_card_describes_the_training(name: str) -> None:
    recipe, options, _ = bundle.NETS[name]
    config = json.loads((bundled.HERE / name / "config.json").read_text())
    training = config["training"]
    assert training["recipe"] == catalog.find(recipe).name
    assert training["command"] == f"zoo fit -c {' '.join([recipe, *options])} --seed_everything=0"
    assert sorted(training["seeds"]) == ["0", "1", "2"]
    assert training["seeds"]["0"] == training["metric"]["test/acc"]
    assert set(training["versions"]) == {"python", *bundle.PACKAGES}
    card = (bundled.HERE / name / "README.md").read_text()
    for word in (
        training["command"],
        f"test/acc {training['metric']['test/acc']}",
        f"torch {training['versions']['torch']}",
    ):
        assert word in card
    assert name in list_weights(config["model"])


def test_every_bundled_net_has_a_small_folder() -> None:
    folders = sorted(path.parent.name for path in bundled.HERE.glob("*/config.json"))
    assert folders == NAMES == sorted(bundle.NETS)
    assert sum(path.stat().st_size for name in NAMES for path in (bundled.HERE / name).iterdir()) < 2e6


def test_a_bundled_net_starts_another(tmp_path: Path) -> None:
    task = zoo.create_model("resnet20", weights="resnet20_digits", num_classes=5)
    assert task.load_report is not None
    assert task.load_report.reinitialized == ["net.fc.weight", "net.fc.bias"]
    assert task.input_shape == (1, 8, 8)
    with pytest.raises(
        ValueError, match="'lenet5_digits' cannot be the weights of this CIFARResNet: they are of lenet5"
    ):
        zoo.create_model("resnet20", weights="lenet5_digits")


def test_a_wrong_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(bundled.HERE / "lenet5_digits", tmp_path / "lenet5_digits")
    monkeypatch.setattr(bundled, "HERE", tmp_path)
    path = tmp_path / "lenet5_digits" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for use in (zoo.load, lambda name: zoo.create_model("lenet5", weights=name)):
        with pytest.raises(
            ValueError,
            match=r"model\.safetensors is damaged: its sha256 is .*, expected 1751e3ddd608572147b9d2c6c496d4ac",
        ):
            use("lenet5_digits")


def test_making_them_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert bundle.run(["lenet6"]) == 2
    assert "no bundled net lenet6: the bundled nets are lenet5_digits, resnet20_digits" in capsys.readouterr().err


@pytest.mark.slow
def test_training_lenet_again_gives_the_same_weights(tmp_path: Path) -> None:
    trained = zoo.load(bundle.train("lenet5_digits", tmp_path))
    for key, value in zoo.load("lenet5_digits").state_dict().items():
        torch.testing.assert_close(trained.state_dict()[key], value, rtol=1e-3, atol=1e-3)
