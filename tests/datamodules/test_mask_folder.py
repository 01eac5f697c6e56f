"""Folders of images and masks: layouts, every kind of mask file, and every mistake by the file's name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import masked, photo_and_mask, save
from kit import assert_resumes
from PIL import Image

from datamodules import MaskFolderDataModule
from datamodules.decode import BadImageError, decode, whole
from datamodules.mask_folder import MaskCode

NAMES = ["ground", "thing"]


def make(root: Path, **kwargs: Any) -> MaskFolderDataModule:
    return MaskFolderDataModule(str(root), **{"class_names": NAMES, "size": [10, 12], "num_workers": 0, **kwargs})


def levels(part: Any) -> list[int]:
    return part.batch(torch.arange(len(part)))[0][:, 0, 0, 0].tolist()


def test_parts_of_their_own(tmp_path: Path) -> None:
    masked(tmp_path, {"train": 6, "val": 3, "test": 2})
    photo_and_mask(tmp_path / "train", "deep/er/x", 200)
    data = make(tmp_path)
    assert (data.num_classes, data.input_shape, data.kind, data.has_test) == (2, (3, 10, 12), "segmentation", True)
    data.setup()
    parts = data._parts
    assert {name: levels(part) for name, part in parts.items()} == {
        "train": [0, 1, 2, 3, 4, 5, 200],
        "val": [6, 7, 8],
        "test": [9, 10],
    }
    assert data.class_counts == [7 * 100, 7 * 20]
    assert parts["train"].name_of(6) == "images/deep/er/x.png".replace("images", "train/images")
    _, y = parts["val"].batch(torch.tensor([1]))
    assert y[0, :5, :4].unique().tolist() == [1]
    assert y.sum() == 20


def test_files_that_are_left_out_are_named_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    masked(tmp_path, {"train": 6, "test": 2})
    (tmp_path / "train/images/notes.txt").write_text("no image")
    (tmp_path / "test/masks/a.heic").write_text("no image")
    Image.new("L", (4, 4)).save(tmp_path / "train/masks/alone.png")
    data = make(tmp_path)
    data.setup()
    assert [str(warning.message).replace(str(tmp_path), "ROOT") for warning in recwarn] == [
        "1 file in ROOT left out, in no format that is read: 1 .txt (such as ROOT/train/images/notes.txt)",
        "1 file in ROOT left out, masks without an image: 1 .png (such as ROOT/train/masks/alone.png)",
        "1 file in ROOT left out, in no format that is read: 1 .heic (such as ROOT/test/masks/a.heic)",
    ]


def test_all_together_is_split_with_seeds(tmp_path: Path) -> None:
    masked(tmp_path, {"": 40})

    def parts(split_seed: int) -> tuple[list[list[int]], str | None]:
        data = make(tmp_path, val_fraction=0.25, split_seed=split_seed)
        data.setup()
        return [levels(data._parts[name]) for name in ("train", "val", "test")], data.fingerprint

    (train, val, test), mark = parts(0)
    assert (len(train), len(val), len(test)) == (24, 8, 8)
    assert sorted(train + val + test) == list(range(40))
    (_, other_val, other_test), other_mark = parts(1)
    assert (val != other_val, test == other_test, mark != other_mark) == (True, True, True)
    assert parts(0)[1] == mark
    other = make(tmp_path, val_fraction=0.25, mask_values=[1, 0])
    other.setup("fit")
    assert other.fingerprint != mark  # other classes are other data
    photo_and_mask(tmp_path, "00", 0, (0, 0, 1), (12, 11))  # the mask's bytes
    assert parts(0)[1] != mark


def test_without_a_test_part(tmp_path: Path) -> None:
    masked(tmp_path, {"train": 10})
    data = make(tmp_path, val_fraction=0.2)
    data.setup()
    assert (data.has_test, len(data._parts["val"])) == (False, 2)
    with pytest.raises(ValueError, match=r"there is no folder .*test: create one, with images/ and masks/"):
        data.setup("test")


# Masks ------------------------------------------------------------------------------------------------------------------

PATTERN = np.array([[0, 1, 2], [2, 1, 0]])


def written(path: Path, values: list[Any], mode: str) -> Path:
    """The classes of ``PATTERN`` as a mask file whose pixels have these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array(values)[PATTERN]
    if mode == "P":
        image = Image.fromarray(pixels.astype(np.uint8), "L")
        image.putpalette([50, 60, 70] * 256)
    elif mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16))
    elif mode == "1":
        image = Image.fromarray(pixels.astype(bool))
    else:
        image = Image.fromarray(pixels.astype(np.uint8), mode)
    image.save(path)
    return path


@pytest.mark.filterwarnings("ignore:.*'mode' parameter is deprecated")
@pytest.mark.parametrize(
    ("mode", "values", "given", "wanted"),
    [
        ("L", [0, 1, 2], None, [0, 1, 2]),
        ("P", [0, 1, 2], None, [0, 1, 2]),
        ("I;16", [0, 1, 2], None, [0, 1, 2]),
        ("I;16", [0, 1000, 40000], [40000, 0, 1000], [1, 2, 0]),
        ("L", [0, 255, 128], [0, 128, 255], [0, 2, 1]),
        ("L", [0, 255, 1], None, [0, 255, 1]),
        ("1", [0, 1, 0], None, [0, 1, 0]),
        ("RGB", [[7, 7, 7], [1, 1, 1], [0, 0, 0]], [0, 1, 7], [2, 1, 0]),
        ("RGB", [[0, 0, 9], [200, 0, 0], [0, 99, 0]], [[0, 0, 9], [0, 99, 0], [200, 0, 0]], [0, 2, 1]),
        ("RGBA", [[0, 0, 9, 255], [200, 0, 0, 9], [0, 99, 0, 0]], [[0, 0, 9], [0, 99, 0], [200, 0, 0]], [0, 2, 1]),
    ],
)
def test_what_the_values_of_a_mask_mean(tmp_path: Path, mode: str, values: Any, given: Any, wanted: list[int]) -> None:
    path = written(tmp_path / "a.png", values, mode)
    found = MaskCode(["a", "b", "c"], given, [255]).read(str(path), (3, 2), "image")
    assert found.dtype == torch.uint8
    assert found.tolist() == np.array(wanted)[PATTERN].tolist()


def test_ignored_values_and_colors() -> None:
    code = MaskCode(["a", "b"], [[0, 0, 0], [255, 0, 0]], [255, [224, 224, 192]])
    mask = Image.new("RGB", (2, 1), (224, 224, 192))
    assert code._codes(mask, "m").tolist() == [[224 << 16 | 224 << 8 | 192] * 2]
    assert dict(zip(code.values.tolist(), code.classes.tolist(), strict=True)) == {
        0: 0,
        255 << 16: 1,
        224 << 16 | 224 << 8 | 192: 255,
    }


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_image_and_mask_are_both_turned_upright(tmp_path: Path, orientation: int) -> None:
    """The mask as it is seen, or with the orientation of its image: both lie over the image."""
    turn = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]
    shown = Image.new("L", (12, 10))
    shown.paste(200, (0, 0, 4, 5))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for folder, image in (("images", shown.convert("RGB")), ("masks", shown.point(lambda v: v // 200))):
        for name, kwargs in (("a", {"exif": exif}), ("b", {})):
            stored = image.rotate(turn, expand=True) if kwargs or folder == "images" else image
            save(
                tmp_path / "train" / folder / f"{name}.png", stored, **(kwargs if folder == "masks" else {"exif": exif})
            )
    data = make(tmp_path, val_fraction=0.0)
    data.setup("fit")
    x, y = data._parts["train"].batch(torch.arange(2))
    assert torch.equal(x[:, 0] // 200, y)
    assert y.sum((1, 2)).tolist() == [20, 20]


def test_evaluation_reads_an_image_as_predict_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (87, 141, 3), dtype=np.uint8))
    for part in ("train", "val"):
        save(tmp_path / part / "images/a.jpg", photo)
        save(tmp_path / part / "masks/a.png", Image.new("L", (141, 87)))
    data = make(tmp_path, size=[16, 24], flip=True, resized_crop=0.1)
    assert data.preparation == {"whole": True, "draft": True, "interpolation": "bilinear"}
    data.setup("fit")
    x, _ = data._parts["val"].batch(torch.tensor([0]))
    assert torch.equal(x[0], decode(tmp_path / "val/images/a.jpg", 3, (16, 24), crop=whole, draft=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_continues_exactly(tmp_path: Path, workers: int) -> None:
    masked(tmp_path / "data", {"train": 12})
    moves = {"flip": True, "resized_crop": 0.2, "color_jitter": 0.4}

    def new() -> MaskFolderDataModule:
        return make(tmp_path / "data", num_workers=workers, batch_size=3, val_fraction=0.0, color="gray", **moves)

    assert_resumes(tmp_path, new, step=5)


# Mistakes ---------------------------------------------------------------------------------------------------------------


def spoil(root: Path, kind: str) -> None:
    """Make one mistake in the training folder, at the example 01."""
    image, mask = root / "train/images/01.png", root / "train/masks/01.png"
    if kind == "no mask":
        mask.unlink()
    elif kind == "another size":
        save(mask, 0, "L", 9)
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        save(image, Image.new("RGB", (12, 10)), exif=exif)
    elif kind == "beyond":
        save(mask, Image.fromarray(np.pad([[7]], ((3, 6), (5, 6))).astype(np.uint8)))
    elif kind == "color":
        save(mask, Image.new("RGB", (12, 10), (0, 0, 9)))
    elif kind == "text":
        image.write_text("not an image")
    elif kind == "text mask":
        mask.write_text("not an image")
    elif kind == "jpeg":
        mask.unlink()
        save(mask.with_suffix(".jpg"), Image.new("L", (12, 10)))
    elif kind == "twice":
        save(image.with_suffix(".jpg"), Image.new("RGB", (12, 10)))
    elif kind == "empty":
        for path in (root / "train/images").iterdir():
            path.unlink()
    elif kind == "no masks":
        (root / "train/masks").rename(root / "train/mask")
    elif kind == "floats":
        save(mask, Image.fromarray(np.zeros((10, 12), np.float32)), format="tiff")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("no mask", FileNotFoundError, r"images/01.png has no mask .*masks/01.png \(1 of 4 images have none\): add it"),
        (
            "another size",
            BadImageError,
            r"masks/01.png has 9 x 9 pixels, its image .*images/01.png 12 x 10: they must agree",
        ),
        (
            "turned",
            BadImageError,
            r"masks/01.png has 12 x 10 .* 10 x 12 \(rotated as its EXIF orientation says\)",
        ),
        (
            "beyond",
            BadImageError,
            r"01.png has the value 7 in row 3, column 5 \(1 such pixels\), .* are 0, 1; give mask_val",
        ),
        ("color", BadImageError, r"masks/01.png is in color \(mode RGB\): give the color of each class as mask_values"),
        ("text", BadImageError, r"images/01.png cannot be read as an image"),
        ("text mask", BadImageError, r"masks/01.png cannot be read as an image"),
        ("jpeg", ValueError, r"masks/01.jpg is a JPEG, which changes pixel values: save masks as PNG"),
        ("twice", ValueError, r"01.jpg and .*01.png differ in their suffix only: rename one"),
        ("empty", FileNotFoundError, r"train/images has no images \(.*\): add some"),
        ("no masks", FileNotFoundError, r"train has no folder masks: it must have images/ and masks/"),
        ("floats", BadImageError, r"masks/01.png holds floats: save masks as PNG"),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(
    tmp_path: Path, kind: str, error: type[Exception], message: str, workers: int
) -> None:
    masked(tmp_path, {"train": 4})
    spoil(tmp_path, kind)
    with pytest.raises(error, match=message):
        make(tmp_path, val_fraction=0.0, num_workers=workers).setup("fit")


@pytest.mark.parametrize("suffix", [".jpe", ".jfif", ".JPG"])
def test_jpeg_masks_of_any_suffix_are_refused(tmp_path: Path, suffix: str) -> None:
    masked(tmp_path, {"train": 4})
    mask = next((tmp_path / "train/masks").glob("*.png"))
    Image.open(mask).save(mask.with_suffix(suffix), "JPEG")
    mask.unlink()
    with pytest.raises(ValueError, match=rf"{mask.stem}\{suffix} is a JPEG, which changes pixel values"):
        make(tmp_path, val_fraction=0.0).setup("fit")


@pytest.mark.parametrize(("values", "there"), [([0, 255], "ground and "), ([255, 255], "")])
def test_masks_of_0_and_255_whose_values_are_not_told(tmp_path: Path, values: list[int], there: str) -> None:
    """The thing would be ignored everywhere, and a net that says "ground" be always right."""
    for i in range(4):
        save(tmp_path / f"train/images/{i}.png", Image.new("RGB", (12, 10)))
        save(tmp_path / f"train/masks/{i}.png", Image.fromarray(np.resize(values, (10, 12)).astype(np.uint8)))
    with pytest.raises(
        ValueError, match=rf"the masks in .* hold only {there}ignored pixels .such as 255.: .* give mask_values"
    ):
        make(tmp_path, val_fraction=0.0).setup("fit")
    for told in ([0, 255], [0, 1]):  # either meaning can be had
        make(tmp_path, val_fraction=0.0, mask_values=told).setup("fit")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"class_names": ["one"]}, "class_names must be 2 to 255 different names, including the background's"),
        ({"class_names": ["a", "a"]}, "class_names must be 2 to 255 different names"),
        ({"mask_values": [0]}, "mask_values must be 2 different values, one for each of"),
        ({"mask_values": [0, 0]}, "mask_values must be 2 different values"),
        ({"mask_values": [0, [1, 2, 3]]}, "mask_values must be all numbers or all colors"),
        ({"mask_values": [[0, 0], [1, 2, 3]]}, "a color must be red, green and blue"),
        ({"color": "cmyk"}, 'color must be "rgb" or "gray"'),
        ({"test_fraction": 1.0}, "test_fraction must be a share"),
    ],
)
def test_arguments_that_are_refused(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    masked(tmp_path, {"": 4})
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **kwargs)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none is not a folder: give the one with images/ and masks/ in it"):
        make(tmp_path / "none")
