"""``zoo finetune``: its output, its files, the head first and then the whole net, resuming, and errors."""

import csv
import json
import os
import shutil
import signal
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import Result, Zoo, assert_one_line
from lightning.pytorch import Callback, Trainer
from PIL import Image

import zoo as library
from callbacks import LayerFreezing
from recipes.cli.__main__ import main

RUN = Path("runs/transfer/image_folder/version_0")
SMALL = ("--model", "resnet20", "--model.depth=8", "--model.width=4", "--size", "16", "--data.num_workers=0")
SCRATCH = (*SMALL, "--weights", "none")


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


def paint(root: Path, counts: dict[str, int], mode: str = "RGB") -> Path:
    """Write images of noise for each "part/class", dark or bright by class."""
    rng = np.random.default_rng(0)
    for k, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(100 * (k % 2), 100 * (k % 2) + 120, (20, 24 + i, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, ``start`` (weights of a model), and a run with these initial weights."""
    folder = tmp_path_factory.mktemp("finetuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["zoo"])
        paint(Path("photos"), {"cat": 20, "dog": 20})
        torch.manual_seed(0)
        library.create_model("resnet20", depth=8, width=4, num_classes=5).save_pretrained("start")
        assert main(["finetune", "photos", *SMALL, "--weights", "start", "--epochs", "3", "--batch-size", "8"]) == 0
    return folder


@pytest.fixture
def finetuned(template: Path, tmp_cwd: Path) -> Path:
    """A copy of the run folder and of the images in the test's current folder."""
    shutil.copytree(template, tmp_cwd, dirs_exist_ok=True)
    return RUN


# What it leaves ---------------------------------------------------------------------------------------------------------


def test_a_run_leaves_the_files_that_the_help_lists(finetuned: Path, zoo: Zoo) -> None:
    for name in ("curves.png", "confusion.png", "config.yaml", "metrics.csv", "log.txt", "wrong_examples.csv"):
        assert (finetuned / name).is_file(), name
    for name in ("best.ckpt", "last.ckpt"):
        assert (finetuned / "checkpoints" / name).is_file(), name
    card = (finetuned / "model/README.md").read_text()
    for words in ("# resnet20", "- Classes: cat, dog", "- Epochs: `3`", "- Metric: test/", "(28 train / 4 val)"):
        assert words in card
    config = json.loads((finetuned / "model/config.json").read_text())
    assert config["hparams"]["num_classes"] == 2
    assert config["input_shape"] == [3, 16, 16]
    best = library.load(finetuned / "checkpoints/best.ckpt").state_dict()
    folder = library.load(finetuned / "model").state_dict()
    assert all(torch.equal(value, best[name]) for name, value in folder.items())
    rows = json.loads(zoo("predict", finetuned / "model", "photos/cat", "--json").out)
    assert len(rows) == 20
    assert {row["label"] for row in rows} <= {"cat", "dog"}


def test_wrong_examples_are_those_that_predict_gets_wrong(finetuned: Path, zoo: Zoo) -> None:
    with (finetuned / "wrong_examples.csv").open(newline="") as file:
        written = {row["file"]: row for row in csv.DictReader(file)}
    log = (finetuned / "log.txt").read_text()
    assert f"{len(written)} of 8 wrong: {finetuned / 'wrong_examples.csv'}" in log
    rows = json.loads(zoo("predict", finetuned, "photos", "--json").out)
    predicted = {str(Path(row["file"]).relative_to("photos")): row for row in rows}
    wrong = {name for name, row in predicted.items() if row["label"] != name.split("/")[0]}
    assert written.keys() <= wrong
    assert written or (finetuned / "wrong_examples.png").is_file() is False
    for name, row in written.items():
        assert row["true"] == name.split("/")[0]
        assert row["predicted"] == predicted[name]["label"]
        assert float(row["probability"]) == pytest.approx(predicted[name]["probability"], abs=1e-3)


def test_the_inspection_is_printed(zoo: Zoo, tmp_cwd: Path) -> None:
    paint(Path("photos"), {"cat": 20, "dog": 10})
    paint(Path("photos"), {"dog": 2}, mode="L")
    result = zoo("finetune", "photos", *SCRATCH, "--epochs", "1")
    assert (result.code, result.err) == (0, "")
    for words in (
        "images   30 in photos: 21 train, 3 val, 6 test (split off here, by class)",
        "classes  2: cat 20, dog 10",
        "sizes    24x20 to 43x20 pixels; 28 RGB, 2 L",
        "model    resnet20 at 16x16, from scratch, the whole net from the first epoch",
    ):
        assert words in result.out
        assert words in (RUN / "log.txt").read_text()
    assert "layer groups frozen" not in result.out


def test_given_parts_are_kept_and_validation_replaces_a_missing_test_part(zoo: Zoo, tmp_cwd: Path) -> None:
    paint(Path("photos"), {"train/cat": 9, "train/dog": 9, "val/cat": 3, "val/dog": 3})
    result = zoo("finetune", "photos", *SCRATCH, "--epochs", "1", "--trainer.limit_train_batches=1")
    assert (result.code, result.err) == (0, "")
    assert "24 in photos: 18 train, 6 val (as in the folders)" in result.out
    assert "of 6 wrong: " in result.out
    assert "val/acc" in result.out
    with (RUN / "wrong_examples.csv").open(newline="") as file:
        assert all(row["file"].startswith("val/") for row in csv.DictReader(file))
    assert "- Metric: val/" in (RUN / "model/README.md").read_text()


def test_without_validation_and_test_images_nothing_is_measured(zoo: Zoo, tmp_cwd: Path) -> None:
    paint(Path("photos"), {"train/cat": 9, "train/dog": 9})
    result = zoo("finetune", "photos", *SCRATCH, "--epochs", "1", "--data.val_fraction=0")
    assert (result.code, result.err) == (0, "")
    assert "18 in photos: 18 train (as in the folders)" in result.out
    assert "test/" not in result.out
    assert not (RUN / "wrong_examples.csv").exists()


# Head first, then all ---------------------------------------------------------------------------------------------------


class Record(Callback):
    """Record the number of frozen layer groups in each epoch and the rates of the parameter groups."""

    frozen: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if args[-1] == 0:
            self.frozen.append(pl_module.frozen)


def test_the_head_is_trained_first(finetuned: Path, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Record, "frozen", [])
    more = ("--batch-size", "8", "--trainer.callbacks+=test_finetune.Record")
    result = zoo("finetune", "photos", *SMALL, "--weights", "start", "--epochs", "7", *more)
    assert result.code == 0, result.err
    assert Record.frozen == [4, 4, 0, 0, 0, 0, 0]
    assert "start weights; epochs 1 to 2 train the head, the others the whole net" in result.out
    assert "epoch 3: trained from conv1 on, 0 layer groups frozen" in result.out


def test_the_initial_weights_are_used(finetuned: Path, zoo: Zoo) -> None:
    zoo("finetune", "photos", *SMALL, "--weights", "start", "--epochs", "2", "--trainer.limit_train_batches=1")
    start, one = library.load("start").net, library.load("runs/transfer/image_folder/version_1/checkpoints/best.ckpt")
    moved = (one.net.state_dict()["conv1.weight"] - start.state_dict()["conv1.weight"]).abs().max()
    assert moved < 2e-3  # two steps at most; fresh weights would differ by 0.1
    assert "layer_decay: 0.7" in (RUN / "config.yaml").read_text()


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_ends_with_the_same_bits(
    finetuned: Path, zoo: Zoo, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop in the middle of an epoch, before and after unfreezing."""
    original = LayerFreezing.on_train_batch_start

    def stopping(self: LayerFreezing, trainer: Trainer, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.current_epoch == epoch and args[-1] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(LayerFreezing, "on_train_batch_start", stopping)
        options = ("--weights", "start", "--epochs", "3", "--batch-size", "8")
        assert zoo("finetune", "photos", *SMALL, *options).code == 143
    second = finetuned.with_name("version_1")
    assert not (second / "model").exists()
    result = zoo("fit", "--resume", second)
    assert result.code == 0, result.err
    one, other = (library.load(run / "model").state_dict() for run in (finetuned, second))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    for name in ("wrong_examples.csv", "confusion.png"):
        assert (finetuned / name).read_bytes() == (second / name).read_bytes()


def test_resuming_needs_no_initial_weights(finetuned: Path, zoo: Zoo) -> None:
    shutil.rmtree("start")
    result = zoo("fit", "--resume", finetuned, "--trainer.max_epochs=4")
    assert result.code == 0, result.err


# What the size is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "short", "size"),
    [("resnet18", 20, 64), ("resnet18", 100, 128), ("resnet18", 500, 224), ("lenet5", 500, 32), ("vit_b_16", 20, 224)],
)
def test_the_default_size_is_the_nets_or_less_for_small_images(model: str, short: int, size: int) -> None:
    from recipes.cli.verbs.finetune import Start, default_size
    from zoo.registry import get

    assert default_size(get(model), Start(None), short) == size


def test_the_default_size_is_that_of_the_weights(finetuned: Path, zoo: Zoo) -> None:
    small = [word for word in SMALL if word not in ("--size", "16")]
    result = zoo("finetune", "photos", *small, "--weights", finetuned / "model", "--epochs", "2")
    assert f"resnet20 at 16x16, {finetuned / 'model'} weights" in result.out


def test_weights_of_a_run_bring_their_model(finetuned: Path, zoo: Zoo) -> None:
    """The best checkpoint of a run, and a net of its depth and width, which no option tells."""
    short = ("--epochs", "2", "--data.num_workers=0", "--trainer.limit_train_batches=1")
    result = zoo("finetune", "photos", "--weights", finetuned, *short)
    assert result.code == 0, result.err
    assert f"resnet20 at 16x16, {finetuned / 'checkpoints/best.ckpt'} weights" in result.out
    best = library.load("runs/transfer/image_folder/version_1/checkpoints/best.ckpt")
    assert (best.hparams["depth"], best.hparams["width"], best.hparams["label_smoothing"]) == (8, 4, 0.1)
    start = library.load(finetuned / "checkpoints/best.ckpt")
    assert (best.net.conv1.weight - start.net.conv1.weight).abs().max() < 2e-3


# Bad input --------------------------------------------------------------------------------------------------------------


def refused(result: Result, *words: str) -> None:
    assert_one_line(result, *words, started=True)  # the inspection is printed first
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ["the first argument must be a folder or a CSV file"]),
        (("--model", "resnet18"), ["the first argument must be a folder or a CSV file"]),
        (("nowhere",), ["nowhere is neither a folder nor a file", "<class>/*.jpg", "images/ and masks/", "CSV"]),
        (("empty",), ["has no folders in it: it must have one for each class"]),
        (("one",), ["one has only one class, 'cat'"]),
        (("hollow",), ["hollow/dog has no images", "add some, or remove the folder"]),
        (("photos", "--model", "resnet81"), ["unknown model 'resnet81'", "did you mean 'resnet"]),
        (("photos", "--model", "softmax_regression"), ["is not an image classifier", "resnet18"]),
        (("photos", "--model", "linear_regression"), ["is not an image classifier"]),
        (("photos", *SMALL), ["resnet20 has no ImageNet weights", "resnet20_digits", "--weights none"]),
        (("photos", *SMALL, "--weights", "imagnet"), ["no weights 'imagnet'", "by name it has"]),
        (("photos", *SMALL, "--weights", "nowhere.ckpt"), ["no file or folder nowhere.ckpt"]),
        (("photos", *SMALL, "--weights", "lenet.pt"), ["lenet.pt cannot be the weights of this CIFARResNet"]),
        (("photos", *SCRATCH, "--epochs", "0"), ["--epochs must be 1 or more, got 0"]),
        (("photos", *SMALL, "--weights", "lenet.pt", "--epochs", "1"), ["--epochs must be 2 or more"]),
        (("photos", *SCRATCH, "--size", "0"), ["--size must be 1 or more, got 0"]),
        (("photos", *SCRATCH, "--logger", "cvs"), ["--logger must be one of", "did you mean 'csv'?"]),
        (("photos", *SCRATCH, "--model.lrr", "1"), ["'lrr'", "did you mean 'lr'?"]),
        (("photos", *SCRATCH, "--resume"), ["zoo fit --resume RUN"]),
        (("photos", *SCRATCH, "--data.root=x"), ["--data.root is filled in by `zoo finetune`"]),
        (("photos", "--model", "lenet5", "--weights", "none", "--size", "20"), ["LeNet", "20"]),
    ],
)
def test_bad_input(zoo: Zoo, tmp_cwd: Path, args: tuple[str, ...], words: list[str]) -> None:
    paint(Path("photos"), {"cat": 10, "dog": 10})
    paint(Path("one"), {"cat": 2})
    paint(Path("hollow"), {"cat": 2, "dog": 0})
    Path("empty").mkdir()
    torch.save(library.create_model("lenet5").net.state_dict(), "lenet.pt")
    refused(zoo("finetune", *args), *words)


def test_damaged_files_are_named(zoo: Zoo, tmp_cwd: Path) -> None:
    paint(Path("photos"), {"cat": 10, "dog": 10})
    for name in ("cat/03.png", "dog/04.png"):
        path = Path("photos", name)
        path.write_bytes(path.read_bytes()[:200])
    refused(
        zoo("finetune", "photos", *SCRATCH),
        "2 of 20 images in photos cannot be used: ",
        "photos/cat/03.png cannot be read",
        "photos/dog/04.png",
        "replace or remove it",
    )


def test_no_network_names_the_cure(zoo: Zoo, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_cwd / "cache"))
    paint(Path("photos"), {"cat": 10, "dog": 10})
    words = ("cannot download https://", "no route to host", "--weights PATH, or --weights none")
    refused(zoo("finetune", "photos", "--size", "32"), *words)


def test_what_is_trained_is_in_training_mode_and_the_frozen_body_is_not(finetuned: Path) -> None:
    """The norms keep the statistics of the start while the head trains, and follow the photos afterwards."""
    state = {name: library.load(path).state_dict() for name, path in (("start", "start"), ("end", finetuned / "model"))}
    first = torch.load(finetuned / "checkpoints/last.ckpt", weights_only=True)
    assert first["zoo"]["frozen"] == 0
    norms = [name for name in state["start"] if name.endswith("running_mean")]
    assert norms
    for name in norms:
        assert not torch.equal(state["start"][name], state["end"][name]), name
    batches = {int(state["end"][name]) for name in state["end"] if name.endswith("num_batches_tracked")}
    assert batches == {2 * 3}  # epochs with a free body, 28 images in batches of 8
