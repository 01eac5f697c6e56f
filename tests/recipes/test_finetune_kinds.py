"""``zoo finetune`` for images with masks and for tables: what it finds, what it trains, and the command that it prints."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cli_kit import Zoo, assert_one_line
from fakes import masked
from PIL import Image

import zoo as library
from recipes.cli.errors import UserError
from recipes.cli.verbs.finetune import kind_of
from recipes.cli.verbs.inspection import Inspection, inspect_masks, inspect_table

TINY = (
    "--model",
    "unet",
    "--model.encoder_args={width: 4, depth: 1}",
    "--weights=none",
    "--size=16",
    "--data.num_workers=0",
)
MASK_RUN = Path("runs/segmentation/unet_folder/version_0")
TABLE_RUN = Path("runs/linear/mlp_table/version_0")


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


def houses(path: str, count: int = 60) -> Path:
    """Price: 10 per square meter; a house is one with more than 50 of them."""
    rng = np.random.default_rng(0)
    rows = ["area,town,price,kind,rooms"]
    for i in range(count):
        area = rng.uniform(20, 90)
        rows.append(
            f"{area:.2f},{['Köln', 'Ulm'][i % 2]},{10 * area:.2f},{['flat', 'house'][area > 50]},{int(area // 20)}"
        )
    Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return Path(path)


def printed_command(text: str) -> list[str]:
    """The words of the command, as a shell reads them, without ``zoo``."""
    (line,) = re.findall(r"(?m)^predict with +zoo (.*)$", text)
    return shlex.split(line)


# Masks ----------------------------------------------------------------------------------------------------------------


def test_images_with_masks_are_trained_and_the_printed_command_works(zoo: Zoo) -> None:
    masked(Path("zellen ä"), {"": 20}, values=(0, 255), size=(50, 40))
    result = zoo("finetune", "zellen ä", *TINY, "--epochs=1", "--runs=my runs")
    assert (result.code, result.err) == (0, "")
    corner = 4 * 5 / (50 * 40)
    for words in (
        "images  20 in zellen ä: 14 train, 2 val, 4 test (split off here)",
        f"masks   2 classes by their values: background (0) {1 - corner:.1%}, object (255) {corner:.1%} of the pixels",
        "sizes   50x40 pixels",
        "model   unet at 16x16, from scratch, the whole net from the first epoch",
    ):
        assert words in result.out
    run = "my runs" / MASK_RUN.relative_to("runs")
    config = yaml.safe_load((run / "config.yaml").read_text())
    data = config["data"]["init_args"]
    assert (data["class_names"], data["mask_values"], data["batch_size"]) == (["background", "object"], [0, 255], 8)
    assert config["model"]["init_args"]["loss"] == {"cross_entropy": 1.0, "dice": 1.0}  # the recipe's
    assert library.load(run / "model").class_names == ["background", "object"]
    command = printed_command(result.out)
    assert command[:2] == ["predict", str(run)]
    (row,) = json.loads(zoo(*command, "--json", "-o", "found").out)
    assert row["file"].startswith("zellen ä/images/")
    assert set(np.unique(np.asarray(Image.open(row["mask"])))) <= {0, 1}


def test_the_median_image_is_that_of_the_shorter_sides() -> None:
    assert Inspection([], {}, [(100, 10), (40, 50), (20, 30)]).median_size == (20, 30)


def test_masks_of_plain_numbers_need_no_values(zoo: Zoo) -> None:
    """The recipe's own values are those of other masks."""
    masked(Path("cells"), {"": 20}, values=(0, 1), size=(50, 40))
    result = zoo("finetune", "cells", *TINY, "--print_config")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out[result.out.index("# lightning") :])
    assert config["data"]["init_args"]["class_names"] == ["background", "object"]
    assert "mask_values" not in config["data"]["init_args"]


def test_parts_and_names_of_ones_own(zoo: Zoo) -> None:
    masked(Path("cells"), {"train": 12, "val": 3}, values=(0, 7, 9), size=(20, 20))
    names = ("--data.class_names", "[ground, cell, border]", "--data.mask_values=[0, 9, 7]")
    result = zoo("finetune", "cells", *TINY, "--epochs=1", *names)
    assert (result.code, result.err) == (0, "")
    assert "15 in cells: 12 train, 3 val (as in the folders)" in result.out
    assert "ground (0) 95.0%, border (7) 2.7%, cell (9) 2.3%" in result.out
    assert library.load(MASK_RUN / "model").class_names == ["ground", "cell", "border"]
    assert zoo(*printed_command(result.out)).code == 0
    again = zoo("finetune", "cells", "--weights", MASK_RUN, "--epochs=1", "--data.num_workers=0", *names)  # its model
    assert again.code == 0, again.err
    assert f"unet at 16x16, {MASK_RUN}/checkpoints/best.ckpt weights" in again.out


def mask_of(values: Any, mode: str = "L") -> Image.Image:
    image = Image.new(mode, (6, len(values)))
    for row, value in enumerate(values):
        image.paste(value, (0, row, 6, row + 1))
    return image


@pytest.mark.parametrize(
    ("masks", "found"),
    [
        ([mask_of([0, 1])], {"class_names": ["background", "object"]}),
        ([mask_of([0, 0]), mask_of([0, 255])], {"class_names": ["background", "object"], "mask_values": [0, 255]}),
        ([mask_of([0, 1, 2])], {"class_names": ["0", "1", "2"]}),
        ([mask_of([0, 1, 255])], {"class_names": ["background", "object"]}),  # 255 is ignored
        ([mask_of([0, 3, 255])], {"class_names": ["0", "3", "255"], "mask_values": [0, 3, 255]}),
        ([mask_of([0, 1], "1")], {"class_names": ["background", "object"]}),
        (
            [Image.fromarray(np.array([[300], [700]], np.uint16))],
            {"class_names": ["background", "object"], "mask_values": [300, 700]},
        ),
        (
            [mask_of([(0, 0, 0)] * 2, "RGB"), mask_of([(255, 0, 0), (0, 0, 255)], "RGB")],
            {
                "class_names": ["#000000", "#0000ff", "#ff0000"],
                "mask_values": [[0, 0, 0], [0, 0, 255], [255, 0, 0]],
            },
        ),
    ],
)
def test_the_classes_are_found_in_the_masks(tmp_cwd: Path, masks: list[Image.Image], found: dict[str, Any]) -> None:
    for part in ("train", "val"):
        for name in ("images", "masks"):
            Path("x", part, name).mkdir(parents=True)
        for i, mask in enumerate(masks):
            Image.new("RGB", mask.size).save(f"x/{part}/images/{i}.png")
            mask.save(f"x/{part}/masks/{i}.png")
    inspection = inspect_masks("x", {})
    assert inspection.data == found
    assert inspection.parts == {"train": len(masks), "val": len(masks)}


def test_masks_that_hold_no_classes(tmp_cwd: Path) -> None:
    for name, values in (("smooth", range(60)), ("one", [7, 7])):
        for folder in ("images", "masks"):
            Path(name, folder).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (6, len(values))).save(f"{name}/images/{i}.png")
            mask_of(values).save(f"{name}/masks/{i}.png")
    with pytest.raises(
        UserError, match="smooth hold 60 different values, such as 0, 1, 2, 3, 4: the value of a pixel must"
    ):
        inspect_masks("smooth", {})
    with pytest.raises(UserError, match="all masks in one hold the one value 7: there is nothing to tell apart"):
        inspect_masks("one", {})
    Image.new("L", (5, 5)).save("one/masks/3.png")
    with pytest.raises(
        UserError, match=r"1 of 10 pairs of image and mask in one cannot be used: .*3.png has 5 x 5 pixels"
    ):
        inspect_masks("one", {})
    with pytest.raises(UserError, match=r"10 of 10 pairs .* has the value 7 in row 0"):
        inspect_masks("one", {"class_names": ["a", "b"]})


# Tables ---------------------------------------------------------------------------------------------------------------


def test_a_number_of_a_table_is_learned_and_the_printed_command_works(zoo: Zoo) -> None:
    path = houses("meine häuser.csv")
    result = zoo("finetune", path, "--target", "price", "--data.drop", "[kind, rooms]", "--epochs=30")
    assert (result.code, result.err) == (0, "")
    for words in (
        "rows      60 in meine häuser.csv: 43 train, 5 val, 12 test (split off here)",
        "target    price, a number from 2",
        "features  3 from 2 columns: area, town",
        "model     mlp_regression, from scratch",
    ):
        assert words in result.out
    r2 = re.search(r"test/r2 +(\S+)", result.out)
    assert r2 is not None
    assert float(r2[1]) > 0.9
    command = printed_command(result.out)
    assert command == ["predict", str(TABLE_RUN), "meine häuser.csv"]
    rows = json.loads(zoo(*command, "--json").out)
    truth = [float(line.split(",")[2]) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(rows) == 60
    assert np.corrcoef([row["value"] for row in rows], truth)[0, 1] > 0.95
    assert (TABLE_RUN / "model/config.json").is_file()


def test_a_class_of_a_table_is_learned(zoo: Zoo) -> None:
    path = houses("houses.csv")
    result = zoo("finetune", path, "--target=kind", "--data.drop=[price]", "--epochs=20", "--batch-size=16")
    assert (result.code, result.err) == (0, "")
    assert re.search(r"target +kind, one of 2 classes, flat \d+, house \d+ in training", result.out)
    assert "model     mlp, from scratch" in result.out
    accuracy = re.search(r"test/acc +(\S+)", result.out)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.8
    for name in ("confusion.png", "wrong_examples.csv", "model/README.md"):
        assert (TABLE_RUN / name).is_file(), name
    rows = json.loads(zoo(*printed_command(result.out), "--json").out)
    assert {row["label"] for row in rows} == {"flat", "house"}
    # the weights of the run start another one; they bring their model
    again = zoo("finetune", path, "--target=kind", "--data.drop=[price]", "--epochs=1", "--weights", TABLE_RUN)
    assert again.code == 0, again.err
    assert f"mlp, {TABLE_RUN}/checkpoints/best.ckpt weights" in again.out


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"], "classification"),
        (["0", "1", "2"], "classification"),
        ([str(i) for i in range(20)], "classification"),
        ([str(i) for i in range(21)], "regression"),
        (["0.5", "1"], "regression"),
        (["1", "b", "x"], "classification"),
    ],
)
def test_the_kind_of_the_target_is_found(tmp_cwd: Path, values: list[str], kind: str) -> None:
    lines = [f"{i},{values[i % len(values)]}" for i in range(20 * len(values))]
    Path("t.csv").write_text("\n".join(["x,y", *lines]) + "\n")
    assert inspect_table("t.csv", "y", {}).data == {"kind": kind}
    if kind == "classification" and values[0] == "0":  # what the user says wins
        assert inspect_table("t.csv", "y", {"kind": "regression"}).data == {"kind": "regression"}


def test_decimal_commas_of_the_target_are_asked_about(zoo: Zoo) -> None:
    lines = [f"{i};{i / 3:.2f}".replace(".", ",") for i in range(60)]
    Path("t.csv").write_text("\n".join(["x;y", *lines]) + "\n")
    asked = ("finetune", "t.csv", "--target=y", "--epochs=1", "--data.delimiter", ";")
    assert_one_line(zoo(*asked), "'y' must be a finite number", "decimal=','", "--data.kind classification")
    result = zoo(*asked, "--data.decimal", ",")
    assert result.code == 0, result.err
    assert "y, a number from 0 to 19.67" in result.out


# Which kind of data ---------------------------------------------------------------------------------------------------


def test_the_kind_of_data_is_found(tmp_cwd: Path) -> None:
    for folder in ("photos/cat", "photos/dog", "parts/train/a", "cells/images", "cells/masks", "split/train/images"):
        Path(folder).mkdir(parents=True)
    Path("split/train/masks").mkdir()
    Path("t.CSV").write_text("a,b\n1,2\n")
    kinds = {name: kind_of(name) for name in ("photos", "photos/", "parts", "cells", "split", "t.CSV")}
    assert list(kinds.values()) == ["images", "images", "images", "masks", "masks", "table"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nowhere",), ["nowhere is neither a folder nor a file", "<class>/*.jpg", "images/ and masks/", "CSV"]),
        (("photos.zip",), ["photos.zip is no CSV file", "unpack"]),
        (("tables",), ["tables is a folder of CSV files", "such as tables/t.csv"]),
        (("yolo",), ["yolo has images/ and labels/: rename it to masks/"]),
        (("t.csv",), ["--target NAME", "t.csv: area,town,price,kind,rooms"]),
        (("t.csv", "--target", "prize"), ["has no column 'prize'"]),
        (("t.csv", "--target", "price", "--size", "8"), ["--size is for images"]),
        (
            ("t.csv", "--target", "price", "--model", "resnet18"),
            ["resnet18 does not predict a number", "mlp_regression"],
        ),
        (
            ("t.csv", "--target", "kind", "--model", "mlp_regression"),
            ["does not predict a class", "softmax_regression"],
        ),
        (
            ("t.csv", "--target", "price", "--data.path", "x"),
            ["--data.path is filled in", "zoo fit -c linear/mlp_table"],
        ),
        (("cells", "--target", "price"), ["--target is for CSV files, and cells is a folder"]),
        (("cells", "--model", "resnet18"), ["resnet18 does not predict masks", "unet_resnet34"]),
        (("cells", "--model", "unet", "--weights", "imagenet"), ["the encoder of unet has no ImageNet weights"]),
        (("cells", "--weights", "resnet20_digits"), ["resnet20 does not predict masks"]),
        (("gap", *TINY), ["has no mask"]),
    ],
)
def test_bad_input(zoo: Zoo, args: tuple[str, ...], words: list[str]) -> None:
    masked(Path("cells"), {"": 10})
    masked(Path("gap"), {"": 10})
    Path("gap/masks/03.png").unlink()
    for folder in ("tables", "yolo/images", "yolo/labels"):
        Path(folder).mkdir(parents=True)
    houses("t.csv")
    houses("tables/t.csv")
    Path("photos.zip").write_bytes(b"PK")
    assert_one_line(zoo("finetune", *args), *words)
    assert not Path("runs").exists()


# Photos ---------------------------------------------------------------------------------------------------------------


def test_photos_shrunk_to_the_size_of_small_weights_are_warned_of(zoo: Zoo) -> None:
    """The folder of photos and the folder of runs have blanks and umlauts: the printed command works."""
    for k, name in enumerate(("Käse", "Brot & Wein")):
        Path("meine fotos", name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (120 + i, 100), 100 * k + i).save(f"meine fotos/{name}/bild {i}.png")
    torch.manual_seed(0)
    model = library.create_model("resnet20", depth=8, width=4)
    model.input_shape = (3, 8, 8)
    model.save_pretrained("small")
    args = ("meine fotos", "--weights", "small", "--epochs=2", "--data.num_workers=0", "--runs", "läufe '1")
    result = zoo("finetune", *args)
    assert result.code == 0, result.err
    assert re.fullmatch(
        r"warning: images of 12\dx100 pixels \(the median\) are shrunk to 8x8, the size that this model sees, and only coarse "
        r"features are left: give --size, such as 100, or another model\n",
        result.err,
    )
    command = printed_command(result.out)
    (row,) = json.loads(zoo(*command, "--json").out)
    assert row["file"] == command[-1]
    assert Path(row["file"]).is_file()
    assert row["label"] in ("Käse", "Brot & Wein")
