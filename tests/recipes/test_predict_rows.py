"""``zoo predict`` for rows of CSV files: predictions, encoding of columns, errors."""

import json
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from cli_kit import Zoo, assert_one_line
from sklearn.datasets import load_wine

import zoo as package
from datamodules import ArrayDataModule, CSVDataModule

TRAIN = "--trainer.max_epochs=1"
CSV = "datamodules.CSVDataModule"


def write_csv(path: str, header: str, rows: list[str]) -> Path:
    Path(path).write_text("\n".join([header, *rows]) + "\n")
    return Path(path)


def houses(count: int = 40) -> list[str]:
    towns = ["Köln", "Ulm", ""]
    return [f"{'NA' if i % 7 == 3 else 40 + i},{towns[i % 3]},{i},{200 + 5 * i}" for i in range(count)]


@pytest.fixture
def house_run(zoo: Zoo) -> Path:
    """A regression trained on a file that is deleted afterwards."""
    path = write_csv("houses.csv", "area,town,id,price", houses())
    model = ("--model", "zoo.MLPRegressor", "--model.widths=[4]")
    data = ("--data", CSV, "--data.path", path, "--data.target=price", "--data.kind=regression", "--data.drop=[id]")
    assert zoo("fit", "-c", "linear/mlp_wine", *model, *data, TRAIN).code == 0
    path.unlink()
    return Path("runs/linear/mlp_wine/version_0")


def test_csv_rows_are_encoded_as_in_training(zoo: Zoo, house_run: Path) -> None:
    """Columns in another order, without the target, an extra column, an empty line, a missing value and a new category."""
    new = write_csv("new.csv", "town,owner,area", ["Köln,Jo,55", "Ulm,Al,NA", "", "Bonn,,70"])
    model = package.load(house_run / "checkpoints/best.ckpt").eval()
    assert model.preparation is not None
    area, town = model.preparation["columns"]
    assert (area["name"], town["categories"]) == ("area", ["Köln", "Ulm"])
    x = torch.tensor([[55, 1, 0], [area["fill"], 0, 1], [70, 0, 0]])
    with torch.no_grad():
        wanted = model(x)[:, 0].tolist()
    rows = json.loads(zoo("predict", house_run, new, "--json", "--batch-size", "2").out)
    assert rows == [{"file": "new.csv", "row": i + 1, "value": pytest.approx(v)} for i, v in enumerate(wanted)]
    table = [line.split() for line in zoo("predict", house_run, new).out.splitlines()]
    assert table[0] == ["file", "row", "value"]
    assert table[2:] == [["new.csv", str(i + 1), f"{v:.6g}"] for i, v in enumerate(wanted)]


def test_the_encoding_travels_with_the_model(zoo: Zoo, house_run: Path) -> None:
    """A moved checkpoint and a folder of save_pretrained predict the same as the run folder."""
    new = write_csv("new.csv", "town,area", ["Köln,55", "Ulm,NA"])
    wanted = zoo("predict", house_run, new).out
    package.load(house_run / "checkpoints/best.ckpt").save_pretrained("folder")
    (house_run / "checkpoints/best.ckpt").rename("moved.ckpt")
    assert zoo("predict", "moved.ckpt", new).out == wanted
    assert zoo("predict", "folder", new).out == wanted


def test_features_of_rows_are_not_in_the_unit_of_the_target(zoo: Zoo, house_run: Path) -> None:
    new = write_csv("new.csv", "town,area", ["Ulm,55"])
    model = package.load(house_run / "checkpoints/best.ckpt").eval()
    model.net.reset_head(0)
    with torch.no_grad():
        wanted = model.net(model.standardize(torch.tensor([[55.0, 0, 1]])))[0].tolist()
    rows = json.loads(zoo("predict", house_run, new, "--features", "--json").out)
    assert rows == [{"file": "new.csv", "row": 1, "features": pytest.approx(wanted)}]
    assert zoo("predict", house_run, new, "--features").out.split("\t")[:2] == ["new.csv", "1"]


def test_labels_are_class_names(zoo: Zoo) -> None:
    path = write_csv(
        "animals.csv", "size,species", [f"{i % 2 * 5 + i / 50},{('Bär', 'Löwe')[i % 2]}" for i in range(40)]
    )
    data = ("--data", CSV, "--data.path", path, "--data.target=species")
    assert zoo("fit", "-c", "linear/mlp_wine", *data, TRAIN).code == 0
    run = "runs/linear/mlp_wine/version_0"
    model = package.load(f"{run}/checkpoints/best.ckpt").eval()
    with torch.no_grad():
        p = model(CSVDataModule(str(path), "species").encode(str(path))).softmax(1)
    rows = json.loads(zoo("predict", run, path, path, "--json", "--top", "2").out)
    assert [row["row"] for row in rows] == [*range(1, 41)] * 2
    for row, mine in zip(rows, [*p, *p], strict=True):
        top = mine.topk(2)
        assert row["label"] == row["top"][0]["label"] == ["Bär", "Löwe"][int(top.indices[0])]
        assert [pair["probability"] for pair in row["top"]] == pytest.approx(top.values.tolist(), rel=1e-5)
    assert zoo("predict", run, path).out.splitlines()[0].split() == ["file", "row", "label", "probability"]


def test_another_delimiter_and_encoding(zoo: Zoo, house_run: Path) -> None:
    Path("excel.csv").write_bytes("area;town\n55;Köln\n".encode("latin-1"))
    write_csv("plain.csv", "area,town", ["55,Köln"])
    assert_one_line(zoo("predict", house_run, "excel.csv"), "excel.csv, line 2, column 1", "encoding", "latin-1")
    assert_one_line(
        zoo("predict", house_run, "excel.csv", "--encoding=latin-1"), "is the delimiter ';' instead of ','?"
    )
    rows = json.loads(zoo("predict", house_run, "excel.csv", "--encoding=latin-1", "--delimiter=;", "--json").out)
    assert rows[0]["value"] == json.loads(zoo("predict", house_run, "plain.csv", "--json").out)[0]["value"]


def test_bundled_tables_and_arrays_take_rows_by_their_feature_names(zoo: Zoo) -> None:
    assert zoo("fit", "-c", "linear/mlp_wine", TRAIN).code == 0
    x, _ = load_wine(return_X_y=True)
    names = list(load_wine().feature_names)
    write_csv("wines.csv", ",".join(names[::-1]), [",".join(map(str, row[::-1])) for row in x[:5]])
    run = "runs/linear/mlp_wine/version_0"
    model = package.load(f"{run}/checkpoints/best.ckpt").eval()
    with torch.no_grad():
        p = model(torch.tensor(x[:5]).float()).softmax(1)
    rows = json.loads(zoo("predict", run, "wines.csv", "--json").out)
    assert [row["label"] for row in rows] == [f"class_{k}" for k in p.argmax(1).tolist()]
    assert [row["probability"] for row in rows] == pytest.approx(p.amax(1).tolist())
    write_csv("hole.csv", ",".join(names), ["," * 12])
    assert_one_line(zoo("predict", run, "hole.csv"), "hole.csv, line 2, column 'alcohol'", "must be a finite number")


def test_several_targets_are_printed_by_name(zoo: Zoo) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2))
    data = ArrayDataModule(x, x * [2, 3] + [5, -7], kind="regression", feature_names=["a", "b"])
    model = package.LinearRegressor(2, 2)
    lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(
        model, datamodule=data
    )
    model.save_pretrained("two")
    write_csv("new.csv", "b,a", ["0.5,1.5"])
    with torch.no_grad():
        wanted = model.eval()(torch.tensor([[1.5, 0.5]]))[0].tolist()
    (row,) = json.loads(zoo("predict", "two", "new.csv", "--json").out)
    assert row["value"] == {"y0": pytest.approx(wanted[0]), "y1": pytest.approx(wanted[1])}
    table = zoo("predict", "two", "new.csv").out.splitlines()
    assert table[0].split() == ["file", "row", "y0", "y1"]
    assert table[2].split()[2:] == [f"{value:.6g}" for value in wanted]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["empty.csv"], ["empty.csv is empty"]),
        (["other.csv"], ["other.csv has no column 'area', only 'rooms'"]),
        (["text.csv"], ["text.csv, line 3, column 'area' must be a finite number, got 'big'"]),
        (["ragged.csv"], ["ragged.csv, line 2: 3 columns, but the header has 2"]),
        (["folder"], ["folder is not a CSV file", "rows"]),
        (["photo.png"], ["photo.png is not a CSV file", "rows"]),
        (["good.csv", "--top", "2"], ["--top is for classifiers, and MLPRegressor is not one"]),
        (["good.csv", "empty.csv"], ["empty.csv is empty"]),
    ],
)
def test_predict_refuses_rows(zoo: Zoo, house_run: Path, args: list[str], words: list[str]) -> None:
    Path("empty.csv").write_text("")
    write_csv("other.csv", "rooms", ["1"])
    write_csv("good.csv", "area,town", ["1,Ulm"])
    write_csv("text.csv", "area,town", ["1,Ulm", "big,Ulm"])
    write_csv("ragged.csv", "area,town", ["1,Ulm,3"])
    Path("folder").mkdir()
    Path("photo.png").write_bytes(b"\x89PNG")
    assert_one_line(zoo("predict", house_run, *args), *words)


def test_a_model_without_named_columns_is_refused(zoo: Zoo) -> None:
    model = package.create_model("mlp", in_features=2, num_classes=2)
    model.input_shape = (2,)
    model.save_pretrained("mine")
    write_csv("new.csv", "a,b", ["1,2"])
    assert_one_line(zoo("predict", "mine", "new.csv"), "mine does not record how its input of shape", "train it")
