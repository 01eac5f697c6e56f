"""The bundled weights: complete, small, and as good as their cards say."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer

import zoo
from callbacks import NearestNeighbors
from datamodules import (
    AustenDataModule,
    CO2DataModule,
    DataModule,
    DatesDataModule,
    DigitsDataModule,
    MNIST1DDataModule,
    ShapeCaptionsDataModule,
    ShapesDataModule,
)
from recipes.cli import bundle, catalog
from zoo.pretrained import bundled, list_weights

NAMES = bundled.names()
# the data as in the recipe; how far a metric may be from the card on another machine; and what it must reach
DIGITS = 1.5 / 360, 0.97  # an image may tip over
DATES = {
    "test/exact": (1.5e-3, 0.99),
    "test/bleu4": (1e-3, 0.99),
    "test/chrf": (1e-3, 0.99),
    "test/loss": (1e-3, -0.02),
}
PROOFS: dict[str, tuple[Callable[[], DataModule], dict[str, tuple[float, float]]]] = {
    "lenet5_digits": (lambda: DigitsDataModule(size=32, batch_size=64), {"test/acc": DIGITS}),
    "resnet20_digits": (lambda: DigitsDataModule(batch_size=64), {"test/acc": DIGITS}),
    "char_lm": (
        lambda: AustenDataModule(context=64, order="lanes", batch_size=12),
        {
            "test/loss": (1e-3, -1.37),
            "test/perplexity": (4e-3, -3.94),
            "test/acc": (1e-3, 0.58),
            "test/bpc": (2e-3, -1.98),
        },
    ),
    "unet_shapes": (
        lambda: ShapesDataModule(batch_size=8),
        {"test/miou": (1e-3, 0.89), "test/acc": (1e-3, 0.97), "test/loss": (2e-3, -0.2)},
    ),
    "vae_digits": (
        lambda: DigitsDataModule(batch_size=64, binarize=0.5),
        {"test/elbo": (5e-3, -17.9), "test/iwae": (5e-3, -17.3), "test/kl": (5e-3, 4.0)},
    ),
    "dcgan_digits": (
        lambda: DigitsDataModule(batch_size=64),
        {"test/judged_acc": (2e-3, 0.95), "test/frechet": (5e-3, -0.65), "test/copy_ratio": (5e-3, 1.0)},
    ),
    "mnist1d_fcn": (
        lambda: MNIST1DDataModule(batch_size=64),
        {"test/acc": (1.5e-3, 0.97), "test/loss": (1e-3, -0.09)},
    ),
    "co2_gru": (
        lambda: CO2DataModule(batch_size=32),
        {"test/relative_mae": (1e-3, -0.34), "test/mae": (2e-3, -0.6), "test/rmse": (2e-3, -0.8)},
    ),
    "captioner_shapes": (
        lambda: ShapeCaptionsDataModule(count=10000, size=32, batch_size=100),  # the test part does not depend on count
        {
            "test/exact": (2.5e-3, 0.945),
            "test/color": (2.5e-3, 0.96),
            "test/shape": (2.5e-3, 0.95),
            "test/relation": (2.5e-3, 0.98),
        },
    ),
    "dates_gru": (lambda: DatesDataModule(batch_size=64), DATES),
    "dates_transformer": (lambda: DatesDataModule(batch_size=64), DATES),
}
# what a test of them needs besides the data: arguments of zoo.load, callbacks
JUDGED: dict[str, dict[str, Any]] = {"dcgan_digits": {"judge": "resnet20_digits"}}
WATCHED: dict[str, list[Any]] = {"dcgan_digits": [NearestNeighbors()]}


def card(name: str) -> dict[str, Any]:
    """What the config of a bundled net says of its training."""
    training: dict[str, Any] = json.loads((bundled.HERE / name / "config.json").read_text(encoding="utf-8"))["training"]
    return training


@pytest.mark.parametrize(
    "name",
    # a part of the dates is in test_date_translators.py
    [pytest.param(name, marks=[pytest.mark.slow] if PROOFS[name][1] is DATES else []) for name in NAMES],
)
def test_the_test_metrics_are_those_of_the_card(name: str) -> None:
    data, metrics = PROOFS[name]
    assert card(name)["metric"].keys() == metrics.keys() == set(bundle.NETS[name].metrics)
    trainer = quiet_trainer(*WATCHED.get(name, []))
    (logged,) = trainer.test(zoo.load(name, **JUDGED.get(name, {})), data(), verbose=False)
    for metric, (near, bound) in metrics.items():
        expected = card(name)["metric"][metric]
        assert logged[metric] == pytest.approx(expected, abs=near)
        assert expected * math.copysign(1, bound) >= bound  # of a loss, the largest, with a minus


@pytest.mark.parametrize("name", NAMES)
def test_the_card_describes_the_training(name: str) -> None:
    net = bundle.NETS[name]
    config = json.loads((bundled.HERE / name / "config.json").read_text(encoding="utf-8"))
    training = config["training"]
    assert training["data"] == net.data
    assert training["recipe"] == catalog.find(net.recipe).name
    assert training["command"] == f"zoo fit -c {' '.join([net.recipe, *net.options])} --seed_everything=0"
    assert sorted(training["seeds"]) == ["0", "1", "2"]
    assert training["seeds"]["0"] == training["metric"][net.metrics[0]]
    assert set(training["versions"]) == {"python", *bundle.PACKAGES}
    text = (bundled.HERE / name / "README.md").read_text(encoding="utf-8")
    for word in (
        training["command"],
        *(f"{metric} {training['metric'][metric]}" for metric in net.metrics),
        f"torch {training['versions']['torch']}",
        training["data"],
    ):
        assert word in text
    assert name in list_weights(config["model"])


@pytest.mark.parametrize("name", [name for name in NAMES if bundle.NETS[name].texts])
def test_the_card_of_a_model_of_texts_shows_what_it_writes_and_what_it_reads(name: str) -> None:
    model = zoo.load(name)
    written = bundle.example(name, model)
    assert written == card(name)["example"]
    text = (bundled.HERE / name / "README.md").read_text(encoding="utf-8")
    assert all(f"\n  {line}".rstrip() in text for line in written.split("\n"))
    assert f"- Vocabulary: {model.vocab_size} characters" in text
    assert "standardized" not in text
    assert bundle.NETS[name].data


def test_every_bundled_net_has_a_small_folder() -> None:
    folders = sorted(path.parent.name for path in bundled.HERE.glob("*/config.json"))
    assert folders == NAMES == sorted(bundle.NETS)
    sizes = {name: sum(path.stat().st_size for path in (bundled.HERE / name).iterdir()) for name in NAMES}
    assert sizes["lenet5_digits"] + sizes["resnet20_digits"] < 2e6
    assert sum(size for name, size in sizes.items() if bundle.NETS[name].texts) <= 3e6
    assert all(size < 2.1e6 for size in sizes.values())
    for name in NAMES:
        assert bundled.size(name) == len((bundled.HERE / name / "model.safetensors").read_bytes())


def test_the_package_is_small() -> None:
    """The wheel packs these files, and may have 12 MB in all; `make slow` builds it."""
    root = Path(zoo.__file__).parents[1]
    packages = ("zoo", "datamodules", "callbacks", "recipes")
    files = [path for package in packages for path in (root / package).rglob("*") if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 14e6  # not packed
    tensors = [path.stat().st_size for path in files if path.suffix == ".safetensors"]
    assert sum(tensors) < 10e6  # which packing makes hardly smaller


def test_a_bundled_net_starts_another(tmp_path: Path) -> None:
    task = zoo.create_model("resnet20", weights="resnet20_digits", num_classes=5)
    assert task.load_report is not None
    assert task.load_report.reinitialized == ["net.fc.weight", "net.fc.bias"]
    assert task.input_shape == (1, 8, 8)
    with pytest.raises(
        ValueError, match="'lenet5_digits' cannot be the weights of this CIFARResNet: they are of lenet5"
    ):
        zoo.create_model("resnet20", weights="lenet5_digits")


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (
            lambda: zoo.load("unet_shape"),
            FileNotFoundError,
            "there is no checkpoint or folder unet_shape, did you mean 'unet_shapes'?",
        ),
        (lambda: zoo.load("nothing_like_it"), FileNotFoundError, "folder nothing_like_it; by name there are "),
        (
            lambda: zoo.create_model("resnet20", weights="resnet20_digit"),
            ValueError,
            "resnet20 has no weights 'resnet20_digit', did you mean 'resnet20_digits'?",
        ),
        (
            lambda: zoo.ClassificationTask(torch.nn.Linear(4, 2), 2, weights="resnet20_digit"),
            ValueError,
            "there are no weights 'resnet20_digit', did you mean 'resnet20_digits'?; by name there are ",
        ),
        (
            lambda: zoo.create_model("resnet20_digits"),
            ValueError,
            "'resnet20_digits' names weights of the model 'resnet20': zoo.load('resnet20_digits'), or "
            "zoo.create_model('resnet20', weights='resnet20_digits')",
        ),
        (
            lambda: zoo.create_model("resnet20_digit"),
            ValueError,
            "unknown model 'resnet20_digit', did you mean 'resnet20'?",
        ),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(
    use: Callable[[], Any], error: type[Exception], words: str, tmp_cwd: Path
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        use()


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


def test_two_that_are_trained_again_differ_if_the_first_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code says whether a file is another than before."""
    monkeypatch.setattr(bundled, "HERE", tmp_path / "before")
    shutil.copytree(Path(bundle.__file__).parents[2] / "zoo/pretrained/char_lm", tmp_path / "before/char_lm")

    def train(name: str, target: Path) -> Path:
        model = (
            zoo.create_model("lenet5", width=1) if name == "lenet5_digits" else zoo.load(tmp_path / "before/char_lm")
        )
        return model.save_pretrained(target / name)

    monkeypatch.setattr(bundle, "train", train)
    threads = torch.get_num_threads()
    assert bundle.run(["lenet5_digits", "char_lm"], tmp_path) == 1
    assert bundle.run(["char_lm"], tmp_path) == 0
    torch.set_num_threads(threads)


def test_a_folder_is_made_of_three_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the first seed, and the metrics of all."""
    for seed, loss in enumerate((1.00004, 2.0, 3.0)):
        (tmp_path / f"version_{seed}/checkpoints").mkdir(parents=True)
        rows = f"epoch,val/loss,test/loss,test/acc\n0,5,,\n1,,{loss},0.{seed}\n"
        (tmp_path / f"version_{seed}/metrics.csv").write_text(rows)
    monkeypatch.setattr(bundle, "load", lambda path: zoo.load(path.parents[2] / path.parts[-3]))
    monkeypatch.setitem(bundle.NETS, "small", bundle.Net("a/b", ("test/loss", "test/acc"), ("--x=1",), texts=("a",)))
    for seed in range(3):
        model = zoo.RecurrentLanguageModel(vocab_size=2, width=2)
        model.describe_data({"vocabulary": {"kind": "characters", "tokens": ["a", "b"]}})
        model.save_pretrained(tmp_path / f"version_{seed}")
    folder = bundle.pack("small", [tmp_path / f"version_{seed}" for seed in range(3)], tmp_path)
    made = json.loads((folder / "config.json").read_text())["training"]
    assert made["metric"] == {"test/loss": 1.0, "test/acc": 0.0}
    assert made["seeds"] == {"0": 1.0, "1": 2.0, "2": 3.0}
    assert made["command"] == "zoo fit -c a/b --x=1 --seed_everything=0"
    assert made["example"].startswith('zoo sample small --prompt "a" --seed 0 --temperature 0.5 --tokens 400\n\na')
    assert "data" not in made
    for key, value in zoo.load(tmp_path / "version_0").state_dict().items():
        assert torch.equal(zoo.load(folder).state_dict()[key], value)


def test_making_them_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert bundle.run(["lenet6"]) == 2
    assert "no bundled net lenet6: the bundled nets are lenet5_digits, resnet20_digits, " in capsys.readouterr().err


@pytest.mark.slow
def test_training_lenet_again_gives_the_same_weights(tmp_path: Path) -> None:
    trained = zoo.load(bundle.train("lenet5_digits", tmp_path))
    for key, value in zoo.load("lenet5_digits").state_dict().items():
        torch.testing.assert_close(trained.state_dict()[key], value, rtol=1e-3, atol=1e-3)
