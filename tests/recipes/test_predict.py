"""``zoo predict`` for images: predictions, reading of files, errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from cli_kit import Zoo, assert_one_line
from PIL import Image
from sklearn.datasets import load_digits

import zoo as package
from datamodules import DigitsDataModule, ImageFolderDataModule
from datamodules.decode import decode


@pytest.fixture
def images(tmp_cwd: Path) -> Path:
    """Write six digits as files named after their label."""
    Path("img/deep").mkdir(parents=True)
    digits = load_digits()
    for i in range(6):
        pixels = (digits.images[i] * 255 / 16).round().astype(np.uint8)
        Image.fromarray(pixels).save(f"img/{'deep/' if i % 2 else ''}{digits.target[i]}.png")
    Path("img/notes.txt").write_text("no image")
    return Path("img")


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    return trained / "checkpoints/best.ckpt"


def expected(checkpoint: Path, paths: list[str]) -> torch.Tensor:
    """Compute the probabilities directly."""
    model = package.load(checkpoint).eval()
    x = torch.stack([torch.tensor(np.asarray(Image.open(path).copy()) / 255).float()[None] for path in paths])
    with torch.no_grad():
        return model(x).softmax(dim=1)


def test_table_of_files_labels_and_probabilities(zoo: Zoo, images: Path, trained: Path) -> None:
    paths = [str(path) for path in sorted(images.rglob("*.png"))]
    p = expected(trained / "checkpoints/best.ckpt", paths)
    lines = zoo("predict", trained, images).out.splitlines()
    assert lines[0].split() == ["file", "label", "probability"]
    cells = [line.split() for line in lines[2:]]
    assert cells == [[path, str(int(row.argmax())), f"{row.max():.4f}"] for path, row in zip(paths, p, strict=True)]


def test_json_holds_the_top_k(zoo: Zoo, images: Path, checkpoint: Path) -> None:
    rows = json.loads(
        zoo("predict", checkpoint, images / "0.png", images / "deep", "--json", "--top", "3", "--batch-size", "2").out
    )
    assert [row["file"] for row in rows] == ["img/0.png", "img/deep/1.png", "img/deep/3.png", "img/deep/5.png"]
    p = expected(checkpoint, [row["file"] for row in rows])
    for row, mine in zip(rows, p, strict=True):
        top = mine.topk(3)
        assert [pair["label"] for pair in row["top"]] == [str(k) for k in top.indices.tolist()]
        assert [pair["probability"] for pair in row["top"]] == pytest.approx(top.values.tolist(), rel=1e-5)
        assert row["label"] == row["top"][0]["label"]


def test_top_k_beyond_the_classes_gives_them_all(zoo: Zoo, images: Path, checkpoint: Path) -> None:
    rows = json.loads(zoo("predict", checkpoint, images / "0.png", "--json", "--top", "99").out)
    assert len(rows[0]["top"]) == 10
    assert "most probable" in zoo("predict", checkpoint, images, "--top", "2").out.splitlines()[0]


def test_features_are_pooled_features_of_the_net(zoo: Zoo, images: Path) -> None:
    model = package.create_model("lenet5").eval()
    model.input_shape = (1, 32, 32)
    model.mean.fill_(0.25)
    model.std.fill_(0.5)
    model.save_pretrained("mine")
    x = decode(images / "0.png", 1, 32) / 255
    model.net.reset_head(0)
    with torch.no_grad():
        wanted = model(x[None])[0].tolist()
    rows = json.loads(zoo("predict", "mine", images / "0.png", "--features", "--json").out)
    assert rows[0]["features"] == pytest.approx(wanted, abs=1e-6)
    line = zoo("predict", "mine", images / "0.png", "--features").out.rstrip("\n").split("\t")
    assert line[0] == "img/0.png"
    assert [float(v) for v in line[1:]] == pytest.approx(wanted, abs=1e-5)


def test_a_folder_of_save_pretrained_and_a_run_folder_predict_the_same(zoo: Zoo, images: Path, trained: Path) -> None:
    package.load(trained / "checkpoints/best.ckpt").save_pretrained("folder")
    assert zoo("predict", "folder", images).out == zoo("predict", trained, images).out


# Images: read as the data modules read them -----------------------------------------------------------------------------


def save_every_kind(folder: Path) -> list[Path]:
    """Write images of all kinds: gray, color, transparent, with a palette, 16-bit, rotated, upright, wide, large."""
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6  # turn by 90 degrees to see it upright
    folder.mkdir(parents=True)
    color.convert("L").save(folder / "gray.png")
    color.convert("RGB").save(folder / "color.jpg")
    color.save(folder / "transparent.png")
    color.convert("P").save(folder / "palette.png")
    color.convert("1").save(folder / "bit.png")
    color.convert("CMYK").save(folder / "ink.jpg")
    color.convert("RGB").save(folder / "turned.jpg", exif=turned)
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(folder / "large.jpg", exif=turned)
    Image.fromarray(rng.integers(0, 65536, (31, 20), dtype=np.uint16)).save(folder / "sixteen.png")
    return sorted(folder.iterdir())


class Echo(package.ClassificationTask):
    """Keep the batch that it predicts for."""

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        self.shown = batch
        return super().predict_step(batch, batch_idx)


@pytest.mark.parametrize(("color", "center", "draft"), [("rgb", 1.0, True), ("rgb", 1.0, False), ("gray", 0.75, True)])
def test_predict_reads_images_as_validation_does(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, color: Any, center: float, draft: bool
) -> None:
    for part in ("train", "val"):
        paths = save_every_kind(Path("photos", part, "one"))
        save_every_kind(Path("photos", part, "two"))
    reading = {"color": color, "center": center, "draft": draft}
    data = ImageFolderDataModule("photos", size=12, num_workers=0, crop=2, flip=True, **reading)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    net(torch.zeros(1, *data.input_shape))
    model = Echo(net, 2)
    trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, datamodule=data)
    trainer.validating = True
    (pixels, _) = next(iter(data.val_dataloader()))
    wanted, _ = data.on_after_batch_transfer((pixels, None), 0)
    monkeypatch.setattr(package, "load", lambda path: model)
    Path("any.ckpt").touch()
    rows = json.loads(zoo("predict", "any.ckpt", "photos/val/one", "--json").out)
    assert [row["file"] for row in rows] == [str(path) for path in paths]
    assert torch.equal(model.shown.cpu(), wanted[: len(paths)])
    model.preparation = {"center": center}  # of a model from before JPEGs were drafted
    zoo("predict", "any.ckpt", "photos/val/one")
    exact = torch.stack([decode(path, data.input_shape[0], 12, center) for path in paths]) / 255
    assert torch.equal(model.shown.cpu(), exact)
    assert torch.equal(model.shown.cpu(), wanted[: len(paths)]) != draft


def test_images_of_another_shape_are_cropped(tmp_cwd: Path) -> None:
    """For a model of images that are not square, the center of that shape is kept."""
    pixels = np.arange(40, dtype=np.uint8).reshape(4, 10)
    Image.fromarray(pixels).save("wide.png")
    assert decode("wide.png", 1, (4, 6))[0].tolist() == pixels[:, 2:8].tolist()
    assert decode("wide.png", 1, (2, 10))[0].shape == (2, 10)


def test_resizing_equals_that_of_images_in_memory(tmp_cwd: Path) -> None:
    data = DigitsDataModule(size=20)
    data.setup("test")
    native = DigitsDataModule()
    native.setup("test")
    Image.fromarray(native._parts["test"].x[0, 0].numpy()).save("x.png")
    assert (decode("x.png", 1, 20).int() - data._parts["test"].x[0].int()).abs().max() <= 1


def test_a_regression_of_images_predicts_values(zoo: Zoo, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = package.RegressionTask(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1)))
    model.input_shape = (1, 8, 8)
    model.target_mean, model.target_std = torch.tensor([50.0]), torch.tensor([10.0])
    monkeypatch.setattr(package, "load", lambda path: model)
    Path("any.ckpt").touch()
    rows = json.loads(zoo("predict", "any.ckpt", images / "0.png", "--json").out)
    x = torch.tensor(np.asarray(Image.open(images / "0.png").copy()) / 255).float()[None, None]
    assert rows == [{"file": "img/0.png", "value": pytest.approx(model(x).item(), abs=1e-4)}]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["MODEL and INPUT must be given"]),
        (["nothing.ckpt", "img"], ["no such checkpoint", "nothing.ckpt"]),
        (["img", "img"], ["neither a run folder", "save_pretrained"]),
        (["CKPT"], ["INPUT must be given"]),
        (["CKPT", "nothing.png"], ["no such file or folder", "nothing.png"]),
        (["CKPT", "runs"], ["no image in the folder runs"]),
        (["CKPT", "img/notes.txt"], ["img/notes.txt cannot be read as an image"]),
        (["CKPT", "img", "--top", "0"], ["1 or more"]),
        (["CKPT", "img", "--top", "x"], ["--top must be a whole number, got x"]),
        (["CKPT", "img", "--tpo", "1"], ["--tpo"]),
        (["CKPT", "img", "--top", "3", "--featuers"], ["--featuers"]),
        (["CKPT", "cut.png"], ["cut.png cannot be read as an image"]),
    ],
)
def test_predict_refuses(zoo: Zoo, images: Path, checkpoint: Path, args: list[str], words: list[str]) -> None:
    Path("runs/other").mkdir()
    (checkpoint.parents[1] / "curves.png").unlink()
    shutil.rmtree(checkpoint.parents[1] / "samples")
    content = (images / "0.png").read_bytes()
    Path("cut.png").write_bytes(content[: len(content) - 30])
    assert_one_line(zoo("predict", *(checkpoint if arg == "CKPT" else arg for arg in args)), *words)
