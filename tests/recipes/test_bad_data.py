"""Bad data on the command line: a one-line error with the cause and the cure, and no files left behind."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from cli_kit import Zoo, assert_one_line
from fakes import masked
from PIL import Image

TABLE = ("fit", "-c", "linear/mlp_wine", "--trainer.max_epochs=1", "--data=datamodules.CSVDataModule")
PHOTOS = (
    *("fit", "-c", "linear/mlp_digits", "--trainer.max_epochs=1", "--model.widths=[4]"),
    *("--data=datamodules.ImageFolderDataModule", "--data.size=8", "--data.color=gray", "--data.root=photos"),
)
MASKS = (
    *("fit", "-c", "masks.yaml", "--data.class_names=[ground, thing]", "--data.root=photos", "--data.num_workers=0"),
    *("--model.encoder_args={width: 4, depth: 1}",),
)
MASKS_YAML = """
model: {class_path: zoo.UNetSegmenter}
data: {class_path: datamodules.MaskFolderDataModule, init_args: {size: 8, batch_size: 4, val_fraction: 0}}
trainer: {max_epochs: 1}
"""
GOOD = "a,b,y\n" + "1,2,p\n3,4,q\n" * 20


@pytest.mark.parametrize(
    ("text", "args", "words"),
    [
        (None, [], ["mine.csv is not a file", "give the path of a CSV file"]),
        ("", [], ["mine.csv is empty: it must have a header and rows"]),
        ("a,b,y\n", [], ["mine.csv has a header but no rows"]),
        (GOOD, ["--data.target=z"], ["mine.csv has no column 'z', only 'a', 'b', 'y'"]),
        (GOOD + "seven,2,p\n", [], ["line 42, column 'a'", "must be a finite number, got 'seven'", "categorical"]),
        (GOOD, ["--data.kind=regression"], ["line 2, column 'y' must be a finite number, got 'p'"]),
        ("a,b,y\n" + ",2,p\n,4,q\n" * 20, [], ["column 'a' has no value in any training row: drop it"]),
        ("a,b,y\n" + ",,\n" * 20, [], ["line 2, column 'y': the target is missing in 20 of 20 rows", "remove"]),
        ("a,b,y\n" + "1,2,p\n" * 20, [], ["'y' has only one class, 'p'"]),
        (GOOD.replace("a,b", "a,a", 1), [], ["line 1: columns 1 and 2 are both named 'a': rename one"]),
        (
            GOOD.encode() + "5,Köln,p".encode("latin-1"),
            [],
            ["line 42, column 2: byte 0xf6 is not valid utf-8", "latin-1"],
        ),
        (GOOD.replace(",", ";"), [], ["line 1: 'a;b;y' is one column: is the delimiter ';' instead of ','?"]),
        (GOOD + "1,2,p,4\n", [], ["line 42: 4 columns, but the header has 3"]),
        (
            "a;y\n" + "1,5;2,5\n" * 20,
            ["--data.delimiter=;", "--data.kind=regression"],
            ["line 2, column 'y'", "got '2,5'", "give decimal=','"],
        ),
    ],
)
def test_a_bad_table(zoo: Zoo, text: str | bytes | None, args: list[str], words: list[str]) -> None:
    if text is not None:
        Path("mine.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    result = zoo(*TABLE, "--data.path=mine.csv", *(["--data.target=y", *args]))
    assert_one_line(result, *words)
    assert result.out == ""
    assert os.listdir() == ["mine.csv"] * (text is not None)


def test_a_target_of_the_wrong_kind_for_the_model(zoo: Zoo) -> None:
    Path("mine.csv").write_text("a,y\n" + "1,5\n2,6\n" * 20)
    args = ("--data.path=mine.csv", "--data.target=y")
    result = zoo(*TABLE, *args, "--data.kind=regression")
    assert_one_line(result, "MLPClassifier predicts classes", "is a number", "--model zoo.MLPRegressor")
    result = zoo(*TABLE, *args, "--model=zoo.MLPRegressor")
    assert_one_line(
        result, "MLPRegressor predicts numbers", "is a class", "zoo.MLPClassifier", "--data.kind regression"
    )
    assert os.listdir() == ["mine.csv"]


# Folders of images --------------------------------------------------------------------------------------------------


def photos(*folders: str, count: int = 10) -> None:
    rng = np.random.default_rng(0)
    for folder in folders:
        Path("photos", folder).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{folder}/{i}.png")


def spoil(path: str, kind: str) -> None:
    """Truncate a file, or replace it by a few bytes whose header claims 40,000 x 40,000 pixels."""
    if kind == "cut":
        Path(path).write_bytes(Path(path).read_bytes()[:200])
        return

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


BAD = {
    "cut": "cannot be read as an image (",
    "huge": "has more than 89,478,485 pixels: make it smaller, remove it, or set PIL.Image.MAX_IMAGE_PIXELS in Python",
}


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ((), ["photos is not a folder: give the one with train/<class>/ or <class>/ in it"]),
        (("",), ["photos has no folders in it: it must have one for each class"]),
        (("train",), ["photos/train has no folders in it: it must have one for each class"]),
        (("cat",), ["photos has only one class, 'cat'"]),
        (("cat", "dog", "cow/empty"), ["photos/cow has no images", "add some, or remove the folder"]),
        (("train/cat", "train/dog", "val/cow"), ["photos/val/cow is a class that photos/train does not have"]),
    ],
)
def test_a_bad_folder(zoo: Zoo, folders: tuple[str, ...], words: list[str]) -> None:
    photos(*(folder for folder in folders if "empty" not in folder))
    if "cow/empty" in folders:
        Path("photos/cow").mkdir()
    result = zoo(*PHOTOS, "--data.num_workers=0")
    assert_one_line(result, *words, started=True)
    assert os.listdir() == ["photos"] * bool(folders)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_named_before_anything_is_trained(zoo: Zoo, kind: str, workers: int) -> None:
    photos("train/cat", "train/dog", "val/cat", "val/dog", count=4)
    spoil("photos/val/dog/2.png", kind)
    result = zoo(*PHOTOS, f"--data.num_workers={workers}")
    assert_one_line(result, f"zoo: error: photos/val/dog/2.png {BAD[kind]}", started=True)
    assert os.listdir() == ["photos"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_met_during_training_is_named(zoo: Zoo, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkpoint the run folder is removed; a checkpoint is named and kept."""
    monkeypatch.setattr("datamodules.image_folder._SAMPLE", 1)  # so that mean and std do not meet it
    photos("train/cat", "train/dog", "test/cat", "test/dog", count=8)
    content = Path("photos/train/dog/2.png").read_bytes()
    spoil("photos/train/dog/2.png", "cut")
    args = (*PHOTOS, f"--data.num_workers={workers}", "--data.val_fraction=0", "--data.batch_size=4")
    result = zoo(*args)
    assert_one_line(result, f"zoo: error: photos/train/dog/2.png {BAD['cut']}", started=True)
    assert os.listdir() == ["photos"]
    Path("photos/train/dog/2.png").write_bytes(content)
    spoil("photos/test/cat/2.png", "huge")
    result = zoo(*args)
    kept = Path("runs/linear/mlp_digits/version_0/checkpoints/last.ckpt")
    assert_one_line(result, f"photos/test/cat/2.png {BAD['huge']}; the last good checkpoint is {kept}", started=True)
    assert kept.is_file()
    assert result.err.strip() in (kept.parents[1] / "log.txt").read_text()


@pytest.mark.parametrize("kind", BAD)
def test_predict_names_a_bad_image(zoo: Zoo, trained: Path, kind: str) -> None:
    photos("cat/deep", count=3)
    spoil("photos/cat/deep/1.png", kind)
    result = zoo("predict", trained, "photos")
    assert_one_line(result, f"photos/cat/deep/1.png {BAD[kind]}")
    assert result.out == ""


def test_training_stops_at_a_loss_that_is_not_finite(zoo: Zoo) -> None:
    args = ("--model.optimizer=SGD", "--model.lr=1e-2", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2")
    assert zoo("fit", "-c", "linear/mlp_digits", *args).code == 0
    run = Path("runs/linear/mlp_digits/version_0")
    good = (run / "checkpoints/last.ckpt").read_bytes()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 2", "max_epochs: 4").replace("lr: 0.01", "lr: 1.0e+30"))
    fresh = zoo("fit", "-c", str(config))
    assert_one_line(fresh, "is nan after step", "lower lr (it is 1e+30)", "there is no checkpoint yet", started=True)
    assert (run / "checkpoints/last.ckpt").read_bytes() == good


# Folders of images and masks ----------------------------------------------------------------------------------------


def photos_and_masks() -> None:
    masked(Path("photos"), {"train": 8, "test": 2})
    Path("masks.yaml").write_text(MASKS_YAML)


def spoil_mask(part: str, kind: str) -> None:
    image, mask = Path("photos", part, "images/01.png"), Path("photos", part, "masks/01.png")
    if kind == "another size":
        Image.new("L", (9, 9)).save(mask)
    elif kind == "beyond":
        Image.new("L", (12, 10), 2).save(mask)
    elif kind == "color":
        Image.new("RGB", (12, 10), (200, 0, 0)).save(mask)
    elif kind == "missing":
        mask.unlink()
    elif kind == "no image":
        image.write_text("not an image")


BAD_MASKS = {
    "another size": "masks/01.png has 9 x 9 pixels, its image photos/{part}/images/01.png 12 x 10: they must agree",
    "beyond": "masks/01.png has the value 2 in row 0, column 0 (120 such pixels), which is not a class: the values of the "
    "classes are 0, 1",
    "color": "masks/01.png is in color (mode RGB): give the color of each class as mask_values",
    "missing": "images/01.png has no mask photos/{part}/masks/01.png",
    "no image": "images/01.png cannot be read as an image",
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_named_before_anything_is_trained(zoo: Zoo, kind: str) -> None:
    photos_and_masks()
    spoil_mask("train", kind)
    result = zoo(*MASKS)
    assert_one_line(result, f"zoo: error: photos/train/{BAD_MASKS[kind].format(part='train')}", started=True)
    assert sorted(os.listdir()) == ["masks.yaml", "photos"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_mask_met_after_training_is_named_and_the_checkpoint_kept(zoo: Zoo, workers: int) -> None:
    photos_and_masks()
    spoil_mask("test", "beyond")
    result = zoo(*MASKS, f"--data.num_workers={workers}")
    kept = Path("runs/masks/version_0/checkpoints/last.ckpt")
    assert_one_line(result, f"photos/test/{BAD_MASKS['beyond']}", f"; the last good checkpoint is {kept}", started=True)
    assert kept.is_file()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data.class_names=[one]"], ["class_names must be 2 to 255 different names", "['one']"]),
        (["--data.mask_values=[0]"], ["mask_values must be 2 different values, one for each of", "got [0]"]),
        (["--data.root=nowhere"], ["nowhere is not a folder: give the one with images/ and masks/ in it"]),
        (["--model.num_classes=3"], ["--model.num_classes 3 contradicts the data, which has 2: leave it out"]),
        (["--data.resized_crop=2"], ["resized_crop must be a share in [0, 1]", "got 2"]),
        (["--data.flip=maybe"], ["data.flip must be true or false, got maybe"]),
        (
            ["--model.encoder=resnet20", "--model.encoder_args={}", "--data.size=3"],
            ["UNet takes images of 4x4 pixels or more, got 3x3: set the datamodule's size=4"],
        ),
        (
            ["--model=zoo.MLPClassifier", "--model.widths=[4]"],
            ["makes one prediction per image", "--model zoo.UNetSegmenter"],
        ),
        (["--model=zoo.MLPRegressor"], ["makes one prediction per image", "kind: segmentation"]),
    ],
)
def test_arguments_that_masks_refuse(zoo: Zoo, args: list[str], words: list[str]) -> None:
    photos_and_masks()
    base = [arg for arg in MASKS if "model" not in arg] if args[0].startswith("--model=") else MASKS
    result = zoo(*base, *args)
    assert_one_line(result, *words, started=True)
    assert sorted(os.listdir()) == ["masks.yaml", "photos"]


def test_a_segmenter_requires_masks(zoo: Zoo) -> None:
    photos("cat", "dog")
    result = zoo("fit", "-c", "linear/mlp_digits", "--model=zoo.UNetSegmenter")
    assert_one_line(
        result, "UNetSegmenter predicts a class for each pixel", "DigitsDataModule has no masks", "MaskFolderDataModule"
    )
    result = zoo(*(arg for arg in PHOTOS if "widths" not in arg), "--model=zoo.UNetSegmenter")
    assert_one_line(result, "ImageFolderDataModule has no masks (kind: classification)")
    Path("mine.csv").write_text("a,y\n" + "1,5\n2,6\n" * 20)
    args = ("--data.path=mine.csv", "--data.target=y", "--data.kind=regression", "--model=zoo.UNetSegmenter")
    assert_one_line(zoo(*TABLE, *args), "CSVDataModule has no masks (kind: regression)")


def test_batch_norm_with_batches_of_one_names_both_settings(zoo: Zoo) -> None:
    """The maps of this net are one pixel at the end."""
    model = ("--model.depth=8", "--model.width=4", "--data.size=4")
    words = ("batch norm cannot train on one value", "layer3", "data.batch_size is 1", "model.norm (such as layer)")
    result = zoo("fit", "-c", "cnn/resnet_digits", "--data.batch_size=1", *model)
    assert_one_line(result, *words, started=True)
    assert not Path("runs").exists()
    short = ("--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.val_check_interval=2")
    result = zoo("fit", "-c", "cnn/resnet_digits", "--data.batch_size=1", *model, "--model.norm=layer", *short)
    assert result.code == 0, result.err
    result = zoo("fit", "-c", "cnn/resnet_digits", *model, "--model.norm=group")
    assert_one_line(result, "cannot take the data's input of shape (1, 4, 4)", "more than 1 value", started=True)
