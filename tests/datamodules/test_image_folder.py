"""Image folders: every kind of file, both layouts, what the files of each split are, and every bad folder by name."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import save, tree
from kit import assert_resumes, record_batches, same_batches
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from datamodules import ImageFolderDataModule, ImageNetDataModule
from datamodules.decode import FORMATS, decode, has_frames, open_image
from datamodules.image_folder import files_in


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def levels(part: Any) -> list[int]:
    return part.inputs(torch.arange(len(part)))[:, 0, 0, 0].tolist()


# Files ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "rgb"),
    [
        ("RGB", (200, 100, 50), "png", (200, 100, 50)),
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("RGBA", (200, 100, 50, 255), "png", (200, 100, 50)),
        ("RGBA", (200, 100, 50, 0), "png", (255, 255, 255)),
        ("LA", (100, 51), "png", (224, 224, 224)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "jpg", (254, 0, 0)),
        ("I;16", 257 * 100, "png", (100, 100, 100)),
        ("I;16", 65535, "tif", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb_and_gray(
    tmp_path: Path, mode: str, color: Any, suffix: str, rgb: tuple[int, ...]
) -> None:
    path = save(tmp_path / f"a.{suffix}", color, mode)
    x = decode(path, 3, 8)
    assert (x.dtype, x.shape, x.is_contiguous()) == (torch.uint8, (3, 8, 8), True)
    assert (x.int() - torch.tensor(rgb).view(3, 1, 1)).abs().max() <= (1 if suffix == "jpg" else 0)
    gray = decode(path, 1, 8)
    assert gray.shape == (1, 8, 8)
    assert abs(int(gray[0, 0, 0]) - (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2])) <= 1.5


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert decode(save(tmp_path / "a.png", image), 3, 4)[:, 0, 0].tolist() == [10, 20, 30]
    assert decode(save(tmp_path / "b.png", image, transparency=1), 3, 4)[:, 0, 0].tolist() == [255, 255, 255]
    assert decode(save(tmp_path / "c.gif", image), 3, 4)[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_ramp_of_sixteen_bits_stays_a_ramp(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(RAMP.astype(np.uint16) * 257))
    assert torch.equal(decode(path, 1, 16)[0], torch.from_numpy(RAMP))
    assert torch.equal(decode(path, 3, 16)[2], torch.from_numpy(RAMP))


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight(tmp_path: Path) -> None:
    for shift in (-128, 128):
        levels = (RAMP.astype(np.int64) * 257 + shift).clip(0, 65535).astype(np.uint16)
        assert torch.equal(decode(save(tmp_path / "a.png", Image.fromarray(levels)), 1, 16)[0], torch.from_numpy(RAMP))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    shown = np.kron(np.array([[0, 60], [120, 240]], np.uint8), np.ones((16, 16), np.uint8))
    image = Image.fromarray(shown)
    flip, turn = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose
    # what the EXIF standard says of row 0 and column 0 of the stored pixels: they are the shown image's ...
    stored = {
        1: image,  # top, left
        2: image.transpose(flip),  # top, right
        3: image.transpose(turn.ROTATE_180),  # bottom, right
        4: image.transpose(turn.FLIP_TOP_BOTTOM),  # bottom, left
        5: image.transpose(turn.TRANSPOSE),  # left, top
        6: image.transpose(turn.ROTATE_90),  # right, top
        7: image.transpose(turn.TRANSVERSE),  # right, bottom
        8: image.transpose(turn.ROTATE_270),  # left, bottom
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(save(tmp_path / "a.jpg", stored, exif=exif, quality=95), 1, 32)[0].int()
    assert (found[4::16, 4::16] - torch.tensor([[0, 60], [120, 240]])).abs().max() <= 4


def test_the_middle_square_is_kept_whatever_the_shape(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 255
    assert (decode(save(tmp_path / "a.png", Image.fromarray(wide)), 1, 4) == 255).all()
    assert (decode(save(tmp_path / "b.png", Image.fromarray(wide.T.copy())), 1, 4) == 255).all()
    line = Image.new("L", (20_000, 1), 9)
    assert decode(save(tmp_path / "c.png", line), 1, 224).shape == (1, 224, 224)


def test_resizing_averages(tmp_path: Path) -> None:
    checks = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    assert (decode(save(tmp_path / "a.png", checks), 1, 8).int() - 127).abs().max() <= 2


def png_header(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def spoil(path: Path, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "huge":
        path.write_bytes(png_header(40_000))
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "eps":  # Pillow would have Ghostscript run what is in it
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale fill\n%%EOF\n")
    elif kind == "ico":
        save(path, noise, format=kind)
    elif kind == "float":
        save(path, Image.fromarray(np.zeros((4, 4), np.float32)), format="tiff")
    else:
        save(path, noise, format=kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", ["huge", "text", "empty", "eps", "ico", "float", "jpeg", "png", "tiff", "bmp", "webp"])
def test_a_bad_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.png"
    spoil(path, kind)
    wanted = {
        "huge": "has more than 89,478,485 pixels: make it smaller, remove it, or set PIL",
        **dict.fromkeys(
            ("text", "empty", "eps", "ico"), "cannot be read as an image: it is damaged, or none of .*BMP, GIF"
        ),
    }.get(kind, r"cannot be read as an image \(.+\): it is damaged")
    with pytest.raises(ValueError, match=f"{path} {wanted}"):
        decode(path, 3, 8)


def test_the_limit_of_pixels_is_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (100, 101), 7))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ValueError, match=r"a\.png has more than 10,000 pixels"):
        decode(path, 1, 8)
    for limit in (10_100, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert (decode(path, 1, 8) == 7).all()


def test_a_lab_image_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.new("LAB", (8, 8), (255, 128, 128)))  # white
    assert decode(path, 3, 4).min() >= 254
    assert decode(path, 1, 4).min() >= 254


def test_what_goes_wrong_in_the_conversion_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_way(self: Image.Image, mode: str) -> Image.Image:
        raise ValueError(f"conversion from {self.mode} to {mode} not supported")

    path = save(tmp_path / "a.png", Image.new("RGB", (8, 8)))
    monkeypatch.setattr(Image.Image, "convert", no_way)
    with pytest.raises(
        ValueError, match=r"a\.png cannot be read as an image \(conversion from RGB to L not supported\)"
    ):
        decode(path, 1, 8)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        decode(tmp_path / "gone.png", 3, 8)


def test_the_share_of_the_middle_is_what_others_call_resize_then_center_crop(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(pixels).resize((400, 320), Image.Resampling.BICUBIC))
    with Image.open(path) as image:
        wanted = v2.functional.center_crop(v2.functional.resize(image, [64]), [56, 56])
    found = decode(path, 3, 56, share=0.875).int()
    assert (found - v2.functional.pil_to_tensor(wanted).int()).abs().max() <= 1
    assert (found - decode(path, 3, 56).int()).abs().max() > 10


def test_a_crop_of_ones_own(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RAMP))
    assert torch.equal(decode(path, 1, 3, crop=lambda image: (2, 4, 5, 7))[0], torch.from_numpy(RAMP[4:7, 2:5]))


# Folders ----------------------------------------------------------------------------------------------------------------


def test_folders_of_their_own(tmp_path: Path) -> None:
    tree(tmp_path, {"train/cat": 3, "train/dog": 3, "val/cat": 2, "val/dog": 1, "test/dog": 4})
    save(tmp_path / "train/cat/deep/er/x.JPG", 250, "L", 4)
    (tmp_path / "train/.hidden").mkdir()
    data = ImageFolderDataModule(str(tmp_path), size=4, num_workers=0)
    assert (data.class_names, data.num_classes, data.input_shape) == (["cat", "dog"], 2, (3, 4, 4))
    data.setup()
    parts = data._parts
    assert {name: len(part) for name, part in parts.items()} == {"train": 7, "val": 3, "test": 4}
    assert levels(parts["train"]) == [0, 1, 2, 250, 3, 4, 5]
    assert parts["train"].y.tolist() == [0] * 4 + [1] * 3
    assert (levels(parts["val"]), parts["val"].y.tolist()) == ([6, 7, 8], [0, 0, 1])
    assert (levels(parts["test"]), parts["test"].y.tolist()) == ([9, 10, 11, 12], [1] * 4)
    assert data.class_counts == [4, 3]
    torch.testing.assert_close(data.mean, torch.tensor([265 / 7 / 255] * 3))


def test_files_that_are_left_out_are_named_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    tree(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 1})
    for name in (
        "train/cat/a.heic",
        "train/dog/b.HEIC",
        "train/cat/notes.txt",
        "train/cat/.DS_Store",
        "test/dog/Thumbs.db",
    ):
        (tmp_path / name).write_text("?")
    for name in ("test/stray.png", "more/cat/1.png", "2.jpg"):
        save(tmp_path / name, 9, "L", 4)
    data = ImageFolderDataModule(str(tmp_path), size=4, num_workers=0, val_fraction=0)
    data.setup()
    assert (len(data._parts["train"]), len(data._parts["test"])) == (6, 3)
    assert [str(warning.message) for warning in recwarn] == [
        f"3 files in {tmp_path} left out, in no format that is read: 2 .heic, 1 .txt (such as {tmp_path}/train/cat/a.heic)",
        f"3 files in {tmp_path} left out, in no folder of a class: 2 .png, 1 .jpg (such as {tmp_path}/more/cat/1.png)",
    ]


def test_an_image_beside_the_folders_of_classes_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 3, "dog": 3})
    save(tmp_path / "stray.jpg", 9, "L", 4)
    with pytest.warns(UserWarning, match="1 file in .* left out, in no folder of a class: 1 .jpg"):
        ImageFolderDataModule(str(tmp_path), size=4, num_workers=0, val_fraction=0, test_fraction=0).setup("fit")


@pytest.mark.parametrize("suffix", [suffix.removeprefix(".") for suffix in FORMATS])
def test_folders_take_every_format(tmp_path: Path, suffix: str) -> None:
    for k in range(3):
        kind = "MPO" if suffix == "mpo" else FORMATS[f".{suffix}"]
        more = {"lossless": True} if suffix == "webp" else {}
        Image.new("L" if suffix == "pgm" else "RGB", (16, 16), 80 * k if suffix == "pgm" else (80 * k,) * 3).save(
            tmp_path / f"{k}.{suffix}", kind, **more
        )
    files = files_in(tmp_path)
    assert [Path(file).name for file in files] == [f"{k}.{suffix}" for k in range(3)]
    pixels = [decode(file, 1, 8).float() for file in files]
    assert [round(x.mean().item() / 80) for x in pixels] == [0, 1, 2]
    assert max(float((x - 80 * k).abs().max()) for k, x in enumerate(pixels)) <= 3


@pytest.mark.parametrize("suffix", ["gif", "mpo", "tif"])
def test_the_first_of_several_frames_is_read(tmp_path: Path, suffix: str) -> None:
    first, *others = (Image.new("L", (8, 8), level) for level in (200, 10, 90))
    path = tmp_path / f"a.{suffix}"
    first.convert("RGB").save(path, save_all=True, append_images=[image.convert("RGB") for image in others])
    assert (decode(path, 1, 8).float() - 200).abs().max() <= 3
    with open_image(path) as image:
        assert has_frames(image, path)
    path.rename(photo := tmp_path / "a.jpg")  # a camera's photo and its preview are an MPO, too
    with open_image(photo) as image:
        assert has_frames(image, photo) == (suffix != "mpo")


def test_validation_from_training_where_there_is_no_folder(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 10, "train/b": 10, "test/a": 1, "test/b": 1})
    data = ImageFolderDataModule(str(tmp_path), size=4, num_workers=0, val_fraction=0.2)
    data.setup()
    assert [len(data._parts[name]) for name in ("train", "val", "test")] == [16, 4, 2]
    assert sorted(levels(data._parts["train"]) + levels(data._parts["val"])) == list(range(20))


def test_one_folder_is_split_with_seeds(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 20, "b": 20})

    def parts(split_seed: int) -> tuple[list[list[int]], str | None]:
        data = ImageFolderDataModule(str(tmp_path), size=4, num_workers=0, val_fraction=0.25, split_seed=split_seed)
        data.setup()
        found = [data._parts[name] for name in ("train", "val", "test")]
        for part in found:
            assert part.y.tolist() == [int(level >= 20) for level in levels(part)]
        return [levels(part) for part in found], data.fingerprint

    (train, val, test), mark = parts(0)
    assert (len(train), len(val), len(test)) == (24, 8, 8)
    assert sorted(train + val + test) == list(range(40))
    (_, other_val, other_test), other_mark = parts(1)
    assert (val != other_val, test == other_test, mark != other_mark) == (True, True, True)
    assert parts(0)[1] == mark
    (tmp_path / "a").rename(tmp_path / "aa")
    assert parts(0)[1] != mark


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_the_name_of_a_bad_file(tmp_path: Path, workers: int) -> None:
    tree(tmp_path, {"train/a": 4, "train/b": 4})
    spoil(tmp_path / "val/a/cut.jpg", "jpeg")
    data = ImageFolderDataModule(str(tmp_path), size=6, color="gray", num_workers=workers, batch_size=3)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [(x.shape, x.dtype) for x, _ in batches] == [((3, 1, 6, 6), torch.uint8)] * 2
    assert all((x[:, 0, 0, 0] // 4).tolist() == y.tolist() for x, y in batches)
    loader = data.val_dataloader()
    assert isinstance(loader, DataLoader)
    with pytest.raises(ValueError, match=r"val/a/cut.jpg cannot be read"):
        list(loader)


def places(root: Path) -> Path:
    """A class of 12 images whose red and green tell the column and the row of each pixel."""
    row, column = np.indices((40, 60)).astype(np.uint8) * 4
    image = Image.fromarray(np.stack([column, row, row * 0], 2))
    for i in range(24):
        save(root / "train" / "ab"[i % 2] / f"{i:02}.png", image)
    return root


def boxes(x: Tensor) -> Tensor:
    """Left, top, right and bottom of what an image of :func:`places` shows, about: ``(B, 4)``."""
    red, green = x[:, 0] * 255 / 4, x[:, 1] * 255 / 4
    return torch.stack([red.amin((1, 2)), green.amin((1, 2)), red.amax((1, 2)) + 1, green.amax((1, 2)) + 1], 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_random_crops_continue_exactly(tmp_path: Path, workers: int) -> None:
    root = str(places(tmp_path))

    def make(workers: int = workers, batch_size: int = 4) -> ImageFolderDataModule:
        crop: dict[str, Any] = {"size": 16, "resized_crop": 0.08, "val_fraction": 0.0}
        return ImageFolderDataModule(root, num_workers=workers, batch_size=batch_size, **crop)

    seen = assert_resumes(tmp_path, make, step=8)
    assert same_batches(seen, record_batches(make(0), max_epochs=2).seen["train"])
    one = torch.cat([x for x, _ in seen])
    assert torch.equal(one, torch.cat([x for x, _ in record_batches(make(0, 12), max_epochs=2).seen["train"]]))
    found = boxes(one)
    assert len(found.unique(dim=0)) > 44  # each image its own, another one in each epoch


def test_random_crops_have_the_usual_area_and_ratio_and_are_for_training_only(tmp_path: Path) -> None:
    data = ImageFolderDataModule(str(places(tmp_path)), size=32, num_workers=0, resized_crop=0.3, val_fraction=0.5)
    data.setup("fit")
    plain = ImageFolderDataModule(str(tmp_path), size=32, num_workers=0, val_fraction=0.5)
    plain.setup("fit")
    for part in ("train", "val"):  # before it is asked for training, and in evaluation
        assert torch.equal(data._parts[part].inputs(torch.arange(12)), plain._parts[part].inputs(torch.arange(12)))
    before = torch.get_rng_state()
    loader = data.train_dataloader()
    found = []
    for epoch in range(25):
        loader.sampler.set_epoch(epoch)
        found += [boxes(x / 255) for x, _ in loader]
    left, top, right, bottom = torch.cat(found).unbind(1)
    width, height = right - left, bottom - top
    area, ratio = width * height / 2400, width / height
    assert 0.25 < area.min() < 0.35
    assert 0.85 < area.max() < 1.05
    assert 0.68 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.45
    assert left.min() < 1
    assert right.max() > 59
    assert torch.equal(before, torch.get_rng_state())


def test_what_the_fingerprint_of_a_folder_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "x", {"train/a": 5, "train/b": 5})

    def mark(root: str, **kwargs: Any) -> str | None:
        data = ImageFolderDataModule(root, size=4, val_fraction=0.2, **kwargs)
        data.setup("fit")
        return data.fingerprint

    monkeypatch.chdir(tmp_path)
    wanted = mark("x", num_workers=0)
    monkeypatch.chdir(tmp_path / "x")
    assert wanted == mark(".", num_workers=2) == mark(str(tmp_path / "x" / ".." / "x"))
    save(tmp_path / "x" / "train/a/00.png", 3, "L", 40)
    assert mark(".") != wanted


def test_imagenet_tests_on_its_validation_part(tmp_path: Path) -> None:
    tree(tmp_path, {"train/n01": 10, "train/n02": 10, "val/n01": 1, "val/n02": 2})
    data = ImageNetDataModule(str(tmp_path), size=4, val_fraction=0.2, num_workers=0)
    data.setup()
    assert [len(data._parts[name]) for name in ("train", "val", "test")] == [16, 4, 3]
    assert levels(data._parts["test"]) == [20, 21, 22]
    assert data._parts["test"].center == 0.875
    torch.testing.assert_close(data.mean, torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(data.std, torch.tensor([0.229, 0.224, 0.225]))
    with pytest.raises(FileNotFoundError, match=r"none/train is not a folder: get ImageNet .* from https"):
        ImageNetDataModule(str(tmp_path / "none"))


def set_up(**arguments: Any) -> None:
    data = ImageFolderDataModule(**arguments)
    data.setup("fit")
    data.setup("test")


@pytest.mark.parametrize(
    ("counts", "kwargs", "error", "message"),
    [
        ({}, {}, FileNotFoundError, "root has no folders in it: it must have one for each class"),
        ({"train": 3}, {}, FileNotFoundError, "root/train has no folders in it"),
        ({"a": 5, "b": 0}, {}, ValueError, "root/b has no images .* add some, or remove"),
        (
            {"training/a": 5, "training/b": 5, "validation/a": 5},
            {},
            ValueError,
            "root/training has folders in it, like a part of the data, not a class: rename it",
        ),
        ({"train/a": 5, "train/b": 5, "valid/a": 5}, {}, ValueError, "root/valid has folders in it, .* rename it"),
        (
            {"val/a": 5, "val/b": 5, "test/a": 5},
            {},
            ValueError,
            r"root/test has folders in it, .* train \(which must exist\)",
        ),
        (
            {"train/a": 5, "train/b": 5, "test/c": 1},
            {},
            ValueError,
            r"test/c is a class that .*train does not have, only \['a', 'b'\]: remove or rename it",
        ),
        ({"train/a": 5, "train/b": 5, "test/a": 0}, {}, ValueError, "root/test has no images"),
        ({"train/a": 5, "train/b": 5}, {}, ValueError, "there is no folder .*root/test: create one"),
        (
            {"a": 5, "b": 5},
            {"test_fraction": 0.0, "val_fraction": 0.4},
            ValueError,
            "there is no test part: give test_fraction",
        ),
        ({"a": 5, "b": 1}, {}, ValueError, "test_fraction=0.2 of 6 examples cannot hold every class"),
        ({"a": 5, "b": 5}, {"color": "cmyk"}, ValueError, 'color must be "rgb" or "gray"'),
        ({"a": 5, "b": 5}, {"test_fraction": -1}, ValueError, "test_fraction must be a share"),
        (
            {"a": 5, "b": 5},
            {"resized_crop": 1.5},
            ValueError,
            r"resized_crop must be the smallest share .* in \[0, 1\], got",
        ),
        ({"a": 5, "b": 5}, {"center": 0.0}, ValueError, r"center must be a share of the center .* got 0.0"),
        ({"a": 5, "b": 5}, {"size": 0}, ValueError, "size must be an integer >= 1"),
    ],
)
def test_bad_folders(tmp_path: Path, counts: dict[str, int], kwargs: Any, error: type[Exception], message: str) -> None:
    (tmp_path / "root").mkdir()
    tree(tmp_path / "root", counts)
    arguments = {"root": str(tmp_path / "root"), "size": 4, "num_workers": 0, "val_fraction": 0.2, **kwargs}
    with pytest.raises(error, match=message):
        set_up(**arguments)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none is not a folder: give the one with"):
        ImageFolderDataModule(str(tmp_path / "none"))
