"""What ``zoo predict`` warns of: inputs far from those of training, images that shrink to little, frames, files left out."""

import json
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from cli_kit import RECIPE, SHORT, Zoo
from PIL import Image
from sklearn.datasets import load_digits, load_wine

import zoo as package
from datamodules import CSVDataModule, DigitsDataModule, ImageFolderDataModule
from recipes.cli.console import Console
from recipes.cli.verbs.notes import Notes, is_shrunk


def digit(index: int, inverted: bool = False) -> Image.Image:
    pixels = (load_digits().images[index] * 255 / 16).round().astype(np.uint8)
    return Image.fromarray(255 - pixels if inverted else pixels)


def warnings_of(model: package.Model, x: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    notes = Notes(model)
    notes.look_at(x, [{"file": f"{i}.png"} for i in range(len(x))])
    notes.print(Console())
    return capsys.readouterr().err


# Far from training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("lenet5_digits", 32), ("resnet20_digits", 8)])
def test_inverted_digits_are_far_and_no_digit_of_the_test_part_is(
    name: str, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DigitsDataModule(size=size)
    data.setup("test")
    x = data._parts["test"].x.float() / 255
    model = package.load(name)
    assert warnings_of(model, x, capsys) == ""
    assert warnings_of(model, 1 - x, capsys).startswith("warning: 360 of 360 images are far from all that the model")
    assert warnings_of(model, torch.zeros_like(x[:1]), capsys).startswith(
        "warning: 1 of 1 image is far"
    )  # a blank page


def test_bundled_weights_know_what_their_data_module_says() -> None:
    for name in ("lenet5_digits", "resnet20_digits"):
        model = package.load(name)
        data = DigitsDataModule(size=model.example_shape[-1])
        data.setup("fit")
        assert data.seen is not None
        x = data._parts["train"].x.double() / 255  # an independent sum over each image
        means = x.flatten(1).sum(1) / x[0].numel()
        assert data.seen[0][0].item() == pytest.approx(means.min().item(), abs=1e-6)
        assert data.seen[1][0].item() == pytest.approx(means.max().item(), abs=1e-6)
        assert data.seen[1][1].item() == pytest.approx(float(np.std(x.numpy(), (1, 2, 3)).max()), abs=1e-6)
        assert model.preparation is not None
        for known, now in zip(model.preparation["seen"], data.seen, strict=True):
            assert known == pytest.approx(now.tolist(), abs=1e-5)


def test_a_black_digit_on_white_is_warned_of_in_one_line(zoo: Zoo) -> None:
    digit(13).save("good.png")
    digit(13, inverted=True).save("bad.png")
    assert zoo("predict", "lenet5_digits", "good.png").err == ""
    result = zoo("predict", "lenet5_digits", "good.png", "bad.png", "--json")
    assert [row["file"] for row in json.loads(result.out)] == ["good.png", "bad.png"]
    (line,) = result.err.splitlines()
    mean = np.asarray(Image.open("bad.png").resize((32, 32), Image.Resampling.BILINEAR)).mean() / 255
    assert line == (
        f"warning: 1 of 2 images is far from all that the model was trained on, such as bad.png with a mean of {mean:.4g} (in "
        "training 0.2206 to 0.4229), which would fit in inverted colors: do not trust its prediction"
    )


def test_a_run_of_ones_own_knows_its_data(zoo: Zoo, trained: Path) -> None:
    digit(13).save("good.png")
    digit(13, inverted=True).save("bad.png")
    assert zoo("predict", trained, "good.png").err == ""
    assert "bad.png with a mean of" in zoo("predict", trained, "bad.png").err
    package.load(trained / "checkpoints/best.ckpt").save_pretrained("folder")
    assert "bad.png with a mean of" in zoo("predict", "folder", "bad.png").err


def test_photos_whose_brightness_differs_are_no_cause(zoo: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """What is ordinary depends on the training images: of bright and dark ones, no brightness is far, but a color is."""
    rng = np.random.default_rng(0)
    for name in ("day", "night"):
        Path("photos", name).mkdir(parents=True)
        for i in range(20):
            level = rng.uniform(0, 0.7) if name == "night" else rng.uniform(0.3, 1)
            pixels = (rng.random((8, 8, 1)) * 255 * level).astype(np.uint8).repeat(3, 2)
            Image.fromarray(pixels).save(f"photos/{name}/{i}.png")
    data = ImageFolderDataModule("photos", size=8, num_workers=0)
    model = package.create_model("mlp", in_features=192, num_classes=2)
    trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, datamodule=data)
    gray = torch.linspace(0, 1, 50).view(50, 1, 1, 1) * torch.rand(50, 1, 8, 8).expand(50, 3, 8, 8)
    assert warnings_of(model, gray, capsys) == ""
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert "a mean red of 1 (in training" in warnings_of(model, red, capsys)


def test_a_row_far_from_the_training_rows_is_warned_of(zoo: Zoo) -> None:
    x, y = load_wine(return_X_y=True)
    rows = [
        [*map(str, values), "rare" if i == 5 else "usual", f"c{label}"]
        for i, (values, label) in enumerate(zip(x, y, strict=True))
    ]
    header = ",".join([*(f"f{j}" for j in range(13)), "kind", "target"])
    Path("wines.csv").write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    data = ("--data", "datamodules.CSVDataModule", "--data.path=wines.csv", "--data.target=target")
    assert zoo("fit", "-c", "linear/mlp_wine", *data, "--trainer.max_epochs=1").code == 0
    run = "runs/linear/mlp_wine/version_0"
    assert "far from" not in zoo("predict", run, "wines.csv").err  # a category of one row is no matter of distance
    rows[2][0] = str(100 * float(rows[2][0]))
    Path("new.csv").write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    line = next(line for line in zoo("predict", run, "new.csv").err.splitlines() if "far from" in line)
    assert line.startswith(
        "warning: 1 of 178 rows is far from all that the model was trained on, such as new.csv, row 3 with"
    )
    assert f"f0 of {float(rows[2][0]):.4g} (in training " in line
    table = CSVDataModule("wines.csv", "target")
    table.setup("fit")
    seen, known = table.preparation["seen"], table._parts["train"].x.double()
    assert seen[0] == pytest.approx(known.amin(0).tolist(), rel=1e-5)
    assert seen[1] == pytest.approx(known.amax(0).tolist(), rel=1e-5)


def test_a_model_that_does_not_know_its_data_says_nothing(zoo: Zoo) -> None:
    model = package.create_model("lenet5")
    model.input_shape = (1, 32, 32)
    model.save_pretrained("mine")
    digit(13, inverted=True).save("bad.png")
    assert zoo("predict", "mine", "bad.png").err == ""


# Sizes, frames, files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shape", "shrunk"),
    [
        ((640, 480), (1, 8, 8), True),
        ((32, 31), (1, 8, 8), False),
        ((32, 32), (1, 8, 8), True),
        ((640, 30), (1, 8, 8), False),
        ((4000, 3000), (3, 224, 224), False),
        ((300, 300), (1, 32, 32), True),
        ((16, 16), (1, 8, 8), False),
    ],
)
def test_what_shrinks_to_little(size: tuple[int, int], shape: tuple[int, ...], shrunk: bool) -> None:
    assert is_shrunk(*size, shape) == shrunk


def test_images_much_larger_than_a_small_model_sees_are_warned_of(zoo: Zoo) -> None:
    digit(13).resize((320, 300)).save("big.png")
    digit(13).save("small.png")
    assert zoo("predict", "resnet20_digits", "small.png").err == ""
    assert zoo("predict", "resnet20_digits", "big.png", "small.png").err == (
        "warning: 1 of 2 images is shrunk to the model's 8x8 pixels, such as big.png with 320x300: only coarse features are "
        "left\n"
    )


def test_frames_and_files_left_out_are_told(zoo: Zoo) -> None:
    Path("img").mkdir()
    digit(13).save("img/a.gif", save_all=True, append_images=[digit(3)])
    digit(13).save("img/b.png")
    for name in ("c.heic", "d.HEIC", "notes.txt", ".hidden"):
        Path("img", name).write_text("no image")
    result = zoo("predict", "resnet20_digits", "img", "--json")
    assert [(row["file"], row["label"]) for row in json.loads(result.out)] == [("img/a.gif", "3"), ("img/b.png", "3")]
    assert result.err.splitlines() == [
        "warning: 3 files in img left out, in no format that is read: 2 .heic, 1 .txt (such as img/c.heic)",
        "warning: 1 of 2 images is of several frames, such as img/a.gif: the first is read",
    ]


@pytest.mark.filterwarnings("default")
def test_the_run_says_once_what_is_left_out(zoo: Zoo) -> None:
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for i in range(10):
            digit(i).save(f"photos/{name}/{i}.png")
    Path("photos/cat/a.heic").write_text("no image")
    args = ("--model", "resnet20", "--model.depth=8", "--model.width=4", "--weights=none", "--epochs=1", "--size=8")
    result = zoo("finetune", "photos", *args, "--data.num_workers=0", *SHORT)
    assert result.code == 0, result.err
    assert result.err.count("left out") == 1
    assert "1 file in photos left out, in no format that is read: 1 .heic (such as photos/cat/a.heic)" in result.err
    assert RECIPE not in result.out
