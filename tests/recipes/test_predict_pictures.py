"""``zoo predict -o``: overlays and index masks of a segmenter, reconstructions of an autoencoder, and errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import Zoo, assert_one_line
from fakes import masked, save
from PIL import Image

import zoo as package
from datamodules.decode import decode, whole
from datamodules.segmentation import nearest
from recipes.cli.verbs.predict import _cells
from zoo.drawing import palette
from zoo.drawing.masks import blend

NAMES = ["ground", "rose", "leaf"]


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


def saved(model: package.Task, shape: tuple[int, ...], **description: Any) -> Path:
    """Save an untrained model into a folder that ``zoo predict`` reads."""
    model.describe_data({"input_shape": shape, **description})
    return model.save_pretrained("model")


@pytest.fixture
def segmenter(tmp_cwd: Path) -> Path:
    model = package.UNetSegmenter(num_classes=3, encoder_args={"width": 4, "depth": 1})
    return saved(model, (3, 8, 12), class_names=NAMES, preparation={"whole": True})


def photo(path: str, size: tuple[int, int] = (30, 21), seed: int = 0, **kwargs: Any) -> Path:
    """Write an image of colored squares."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return save(Path(path), Image.fromarray(small).resize(size, Image.Resampling.NEAREST), **kwargs)


def mask_of(model: Path, path: Path) -> torch.Tensor:
    """Return the most probable class of the whole image in the model's size, ``(8, 12)``."""
    net = package.load(model).eval()
    with torch.no_grad():
        return net(decode(path, 3, (8, 12), crop=whole)[None] / 255)[0].argmax(0)


def test_a_mask_of_the_images_own_size_and_an_overlay(zoo: Zoo, segmenter: Path) -> None:
    path = photo("flower.jpg")
    result = zoo("predict", segmenter, path, "-o", "out/deep")
    assert (result.code, result.err) == (0, "")
    assert sorted(p.name for p in Path("out/deep").iterdir()) == ["flower_mask.png", "flower_overlay.png"]
    mask = Image.open("out/deep/flower_mask.png")
    assert (mask.mode, mask.size) == ("P", (30, 21))
    assert mask.getpalette()[:9] == palette(3, background=True).flatten().tolist()
    pixels = torch.from_numpy(np.asarray(mask).copy())
    small = mask_of(segmenter, path)
    assert len(small.unique()) > 1
    assert torch.equal(pixels, nearest(small, (21, 30)).byte())
    shown = torch.from_numpy(np.asarray(Image.open("out/deep/flower_overlay.png")).copy()).permute(2, 0, 1)
    image = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1) / 255
    scale = 4  # so that 21 pixels become 64 or more
    big = blend(
        image.repeat_interleave(scale, 1).repeat_interleave(scale, 2),
        pixels.repeat_interleave(scale, 0).repeat_interleave(scale, 1),
        3,
    )
    assert torch.equal(shown[:, : 21 * scale, : 30 * scale], big)
    assert shown.shape[1] > 21 * scale  # the legend


def test_shares_of_the_classes_as_table_and_json(zoo: Zoo, segmenter: Path) -> None:
    paths = [photo("img/a.png"), photo("img/b.png", seed=1)]
    rows = json.loads(zoo("predict", segmenter, "img", "--json").out)
    assert [row["file"] for row in rows] == ["img/a.png", "img/b.png"]
    for row, path in zip(rows, paths, strict=True):
        wanted = mask_of(segmenter, path).flatten().bincount(minlength=3) / 96
        assert row == {"file": str(path), "shares": pytest.approx(dict(zip(NAMES, wanted.tolist(), strict=True)))}
    lines = zoo("predict", segmenter, "img").out.splitlines()
    assert lines[0].split() == ["file", "share", "of", "pixels"]
    for row, line in zip(rows, lines[2:], strict=True):  # the largest first
        ranked = sorted((name for name in NAMES if row["shares"][name]), key=row["shares"].get, reverse=True)
        assert line.split() == [row["file"], *(t for name in ranked for t in (name, f"{row['shares'][name]:.4f}"))]
    assert sorted(p.name for p in Path().iterdir()) == ["img", "model"]  # without -o nothing is written
    assert zoo("predict", segmenter, "img", "-o", "out").out.splitlines() == [*lines, "", "pictures in out"]
    rows = json.loads(zoo("predict", segmenter, "img", "--json", "-o", "out").out)
    assert rows[0]["mask"] == "out/a_mask.png"
    assert all(Path(row[kind]).is_file() for row in rows for kind in ("mask", "overlay"))


def test_the_largest_share_comes_first() -> None:
    shares = {"air": 0.25, "sea": 0.75, "land": 0.0}
    assert _cells({"file": "a.png", "shares": shares})["share of pixels"] == "sea 0.7500  air 0.2500"


def test_a_rotated_photo_is_segmented_upright(zoo: Zoo, segmenter: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = photo("upright.png")
    save(Path("turned.png"), Image.open(upright).rotate(90, expand=True), exif=exif)
    assert zoo("predict", segmenter, "upright.png", "turned.png", "-o", "out").code == 0
    one, two = (np.asarray(Image.open(f"out/{name}_mask.png")) for name in ("upright", "turned"))
    assert (one == two).all()


def test_images_of_the_same_name_keep_their_folders(zoo: Zoo, segmenter: Path) -> None:
    for i, path in enumerate(("a/1.png", "b/1.png", "b/1.jpg", "b/2.png")):
        photo(path, seed=i)
    result = zoo("predict", segmenter, "a", "b", "-o", "out", "--json")
    assert result.code == 0, result.err
    masks = {row["file"]: row["mask"] for row in json.loads(result.out)}
    assert masks == {
        "a/1.png": "out/a/1_mask.png",
        "b/1.jpg": "out/b/1.jpg_mask.png",
        "b/1.png": "out/b/1.png_mask.png",
        "b/2.png": "out/b/2_mask.png",
    }
    for file, mask in masks.items():
        wanted = nearest(mask_of(segmenter, Path(file)), (21, 30))
        assert (np.asarray(Image.open(mask)) == wanted.numpy()).all()


def test_a_trained_segmenter_reads_files_as_its_validation_did(zoo: Zoo) -> None:
    masked(Path("data"), {"train": 8, "val": 2})
    args = ("--model.encoder_args={width: 4, depth: 1}", "--data.class_names=[ground, thing]", "--data.num_workers=0")
    Path("mine.yaml").write_text(
        "model: {class_path: zoo.UNetSegmenter}\n"
        "data: {class_path: datamodules.MaskFolderDataModule, init_args: {root: data, size: 8}}\n"
        "trainer: {max_epochs: 1}\n"
    )
    result = zoo("fit", "-c", "mine.yaml", *args)
    assert result.code == 0, result.err
    model = package.load("runs/mine/version_0/checkpoints/best.ckpt")
    assert model.preparation is not None
    assert (model.preparation["whole"], model.class_names) == (True, ["ground", "thing"])
    assert model.hparams["num_classes"] == 2
    rows = json.loads(zoo("predict", "runs/mine/version_0", "data/val/images", "--json").out)
    assert [list(row["shares"]) for row in rows] == [["ground", "thing"]] * 2


# Autoencoders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", [1, 3])
def test_a_reconstruction_and_its_error(zoo: Zoo, color: int) -> None:
    model = package.Autoencoder((color, 6, 8), 4, [8], output="sigmoid")
    folder = saved(model, (color, 6, 8))
    path = photo("x.png")
    x = decode(path, color, (6, 8))[None] / 255
    wanted = package.load(folder).reconstruct(x)
    rows = json.loads(zoo("predict", folder, path, "--json", "-o", "out").out)
    error = pytest.approx((wanted - x).square().mean().item(), rel=1e-5)
    assert rows == [{"file": "x.png", "error": error, "reconstruction": "out/x_reconstruction.png"}]
    written = np.asarray(Image.open("out/x_reconstruction.png"))
    pixels = (wanted[0] * 255).round().byte()
    assert (written == (pixels[0] if color == 1 else pixels.permute(1, 2, 0)).numpy()).all()
    lines = zoo("predict", folder, path).out.splitlines()
    assert lines[0].split() == ["file", "error"]
    assert float(lines[2].split()[1]) == pytest.approx(rows[0]["error"], rel=1e-4)


def test_an_image_is_prepared_for_a_vae_as_in_training(zoo: Zoo) -> None:
    """Binarized if the training data were, and with its class if the model is conditional."""
    model = package.VAE((1, 6, 8), 2, [8], conditional=True, num_classes=3)
    folder = saved(model, (1, 6, 8), class_names=NAMES, preparation={"binarize": 0.5})
    path = photo("x.png")
    x = (decode(path, 1, (6, 8))[None] > 128).float()
    elbos = {}
    for label, k in (("rose", 1), ("2", 2)):
        row = json.loads(zoo("predict", folder, path, "--json", "--label", label).out)[0]
        expected = package.load(folder).eval().predict_step((x, torch.tensor([k])))["elbo"].item()
        assert row == {"file": "x.png", "elbo": pytest.approx(expected, rel=1e-5)}
        elbos[label] = expected
    assert elbos["rose"] != elbos["2"]
    assert_one_line(zoo("predict", folder, path), "VAE is conditional: give the class of the images with --label")
    assert_one_line(zoo("predict", folder, path, "--label", "ros"), "'ros' is not a class", "did you mean 'rose'?")


def test_a_discriminators_score_is_a_column(zoo: Zoo) -> None:
    folder = saved(package.GAN(input_shape=(1, 4, 4), widths=[8], latent_dim=2), (1, 4, 4))
    rows = json.loads(zoo("predict", folder, photo("x.png"), "--json").out)
    assert list(rows[0]) == ["file", "score"]
    assert 0 < rows[0]["score"] < 1


# Mistakes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["x.png", "-o", "x.png"], ["-o x.png is a file: give a folder"]),
        (["x.png", "-o", "x.png/deep"], ["cannot write x.png/deep/x_", "give another place with -o"]),
        (["notes.png", "-o", "out"], ["notes.png cannot be read as an image"]),
        (["x.png", "--top", "2"], ["--top is for classifiers, and UNetSegmenter is not one"]),
        (["x.png", "--label", "rose"], ["--label is for conditional models, and UNetSegmenter takes no class"]),
        (
            ["x.png", "x_mask.png", "-o", "."],
            ["x_mask.png is one of the images and would be overwritten: give another folder"],
        ),
    ],
)
def test_predict_refuses(zoo: Zoo, segmenter: Path, args: list[str], words: list[str]) -> None:
    photo("x.png")
    photo("x_mask.png", seed=1)
    Path("notes.png").write_text("no image")
    before = {path: path.read_bytes() for path in Path().glob("*.png")}
    assert_one_line(zoo("predict", segmenter, *args), *words)
    assert {path: path.read_bytes() for path in Path().glob("*.png")} == before
    assert not Path("out").exists()


def test_a_classifier_refuses_pictures(zoo: Zoo, trained: Path) -> None:
    photo("x.png")
    result = zoo("predict", trained, "x.png", "-o", "out")
    assert_one_line(
        result, "-o is for models that make pictures (segmenters, autoencoders)", "makes none: leave it out"
    )
    assert not Path("out").exists()


def test_rows_have_an_error_but_no_pictures(zoo: Zoo) -> None:
    columns = {"columns": [{"name": "a"}, {"name": "b"}], "missing": [], "delimiter": ",", "encoding": "utf-8"}
    folder = saved(package.Autoencoder((2,), 1, []), (2,), preparation=columns)
    Path("rows.csv").write_text("b,a\n1,2\n3,4\n")
    x = torch.tensor([[2.0, 1.0], [4.0, 3.0]])
    error = (package.load(folder).reconstruct(x) - x).square().mean(1).tolist()
    rows = json.loads(zoo("predict", folder, "rows.csv", "--json").out)
    assert rows == [{"file": "rows.csv", "row": i + 1, "error": pytest.approx(error[i], rel=1e-5)} for i in (0, 1)]
    result = zoo("predict", folder, "rows.csv", "-o", "out")
    assert_one_line(result, "-o is for models of images, and Autoencoder reads rows: leave it out")
    assert not Path("out").exists()
