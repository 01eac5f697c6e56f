"""zoo predict: images of any kind in, what the model says of them out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_kit import Zoo, assert_one_line
from PIL import Image
from sklearn.datasets import load_digits

import zoo as package
from recipes.images import read_image


@pytest.fixture
def images(tmp_cwd: Path) -> Path:
    """Six digits as files, named by their label."""
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
    """Probabilities by hand."""
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


def test_features_are_the_nets_pooled_ones(zoo: Zoo, images: Path) -> None:
    model = package.create_model("lenet5").eval()
    model.input_shape = (1, 32, 32)
    model.save_pretrained("mine")
    x = read_image(images / "0.png", (1, 32, 32))
    model.net.reset_head(0)
    with torch.no_grad():
        wanted = model(x[None])[0].tolist()
    rows = json.loads(zoo("predict", "mine", images / "0.png", "--features", "--json").out)
    assert rows[0]["features"] == pytest.approx(wanted, abs=1e-6)
    line = zoo("predict", "mine", images / "0.png", "--features").out.rstrip("\n").split("\t")
    assert line[0] == "img/0.png"
    assert [float(v) for v in line[1:]] == pytest.approx(wanted, abs=1e-5)


def test_a_folder_of_save_pretrained_and_a_run_folder_say_the_same(zoo: Zoo, images: Path, trained: Path) -> None:
    package.load(trained / "checkpoints/best.ckpt").save_pretrained("folder")
    assert zoo("predict", "folder", images).out == zoo("predict", trained, images).out


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("L", np.array([[0, 51, 102, 255]], np.uint8)),
        ("RGB", np.array([[[0] * 3, [51] * 3, [102] * 3, [255] * 3]], np.uint8)),
        ("RGBA", np.array([[[0, 0, 0, 9], [51, 51, 51, 255], [102, 102, 102, 0], [255] * 4]], np.uint8)),
        ("I;16", np.array([[0, 13107, 26214, 65535]], np.uint16)),
        ("F", np.array([[0, 0.2, 0.4, 1]], np.float32)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_keeps_its_ramp(tmp_cwd: Path, mode: str, values: np.ndarray, channels: int) -> None:
    """PIL's own convert makes 0, 255, 255, 255 of a 16-bit ramp."""
    path = Path("ramp.tif" if mode == "F" else "ramp.png")
    Image.fromarray(values).save(path)
    x = read_image(path, (channels, 1, 4))
    assert x.shape == (channels, 1, 4)
    assert torch.allclose(x, torch.tensor([0, 0.2, 0.4, 1]).expand(channels, 1, 4), atol=1e-3)


def test_palette_one_bit_and_color_are_converted(tmp_cwd: Path) -> None:
    color = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    color.save("color.png")
    color.convert("P").save("palette.png", transparency=b"\x00\xff")
    color.convert("L").convert("1").save("bit.png")
    assert read_image(Path("color.png"), (3, 1, 2))[:, 0, 0].tolist() == [1, 0, 0]
    assert read_image(Path("palette.png"), (3, 1, 2)).shape == (3, 1, 2)
    assert read_image(Path("bit.png"), (1, 1, 2)).max() <= 1
    assert read_image(Path("color.png"), (1, 1, 2))[0, 0, 0] == pytest.approx(0.299, abs=0.01)


def test_a_photo_is_turned_upright(tmp_cwd: Path) -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    image.save("turned.png", exif=exif)
    assert read_image(Path("turned.png"), (1, 2, 1)).flatten().tolist() == [0, 1]


def test_resizing_is_the_data_modules(tmp_cwd: Path) -> None:
    from datamodules import DigitsDataModule

    data = DigitsDataModule(size=20)
    data.setup("test")
    native = DigitsDataModule()
    native.setup("test")
    Image.fromarray(native._parts["test"].x[0, 0].numpy()).save("x.png")
    wanted = data._parts["test"].x[0].float() / 255
    assert torch.allclose(read_image(Path("x.png"), (1, 20, 20)), wanted, atol=0.51 / 255)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["required: CKPT"]),
        (["nothing.ckpt", "img"], ["no such checkpoint", "nothing.ckpt"]),
        (["img", "img"], ["neither a run folder", "save_pretrained"]),
        (["CKPT"], ["required: INPUT"]),
        (["CKPT", "nothing.png"], ["no such image", "nothing.png"]),
        (["CKPT", "runs"], ["no image in the folder runs"]),
        (["CKPT", "img/notes.txt"], ["cannot read the image img/notes.txt"]),
        (["CKPT", "img", "--top", "0"], ["1 or more"]),
        (["CKPT", "img", "--top", "x"], ["--top", "'x'"]),
        (["CKPT", "img", "--tpo", "1"], ["--tpo"]),
        (["CKPT", "cut.png"], ["cannot read the image cut.png"]),
    ],
)
def test_what_predict_refuses(zoo: Zoo, images: Path, checkpoint: Path, args: list[str], words: list[str]) -> None:
    Path("runs/other").mkdir()
    (checkpoint.parents[1] / "curves.png").unlink()
    whole = (images / "0.png").read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) - 30])
    assert_one_line(zoo("predict", *(checkpoint if arg == "CKPT" else arg for arg in args)), *words)
