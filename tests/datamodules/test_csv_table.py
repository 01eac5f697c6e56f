"""CSV: what columns become, that training rows alone teach, and every bad file by line and column."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import CSVDataModule


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def people(path: Path, count: int = 100) -> tuple[str, list[list[str]]]:
    """age (numbers, every tenth missing), city (four, every seventh missing), zip (numbers by look), target yes/no."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        age = "NA" if i % 10 == 3 else f"{rng.normal(40, 10):.2f}"
        city = "" if i % 7 == 2 else str(rng.choice(["Bonn", "Köln", "Ulm, Donau", 'the "Hof"']))
        rows.append([age, city, str(1000 + i % 3), "yes" if i % 3 else "no"])
    quoted = [
        [f'"{text.replace(chr(34), chr(34) * 2)}"' if set(text) & {",", '"'} else text for text in row] for row in rows
    ]
    return write(path, "\n".join(",".join(row) for row in [["age", "city", "zip", "bought"], *quoted]) + "\n"), rows


def test_columns_become_features(tmp_path: Path) -> None:
    path, rows = people(tmp_path / "a.csv")
    data = CSVDataModule(path, "bought", categorical=["zip"], val_fraction=0.25)
    cities = ["Bonn", "Köln", 'the "Hof"', "Ulm, Donau"]
    names = ["age", *(f"city={city}" for city in sorted(cities)), "zip=1000", "zip=1001", "zip=1002"]
    assert (data.feature_names, data.input_shape, data.class_names) == (names, (8,), ["no", "yes"])
    data.setup()
    assert [len(data._parts[name]) for name in ("train", "val", "test")] == [60, 20, 20]
    train = data._parts["train"].x
    fill = train[train[:, 0] == data.columns[0].fill, 0]
    assert 3 <= len(fill) <= 9
    x, y = data.table()
    for row, features, label in zip(rows, x, y, strict=True):
        age = np.float32(data.columns[0].fill if row[0] == "NA" else row[0])
        assert features.tolist() == [
            age,
            *(row[1] == c for c in sorted(cities)),
            *(row[2] == z for z in ("1000", "1001", "1002")),
        ]
        assert label == (row[3] == "yes")


def test_training_rows_alone_teach(tmp_path: Path) -> None:
    """Other values in the rows that validate and test change neither fill, nor categories, nor statistics."""
    path, rows = people(tmp_path / "a.csv")
    before = CSVDataModule(path, "bought")
    y = torch.tensor([row[3] == "yes" for row in rows]).long()
    trains = before._training_rows(y, False)
    assert int(trains.sum()) == 72
    changed = [row if train else ["1e6", "Rome", "9", row[3]] for row, train in zip(rows, trains, strict=True)]
    text = "\n".join(";".join(row) for row in [["age", "city", "zip", "bought"], *changed])
    after = CSVDataModule(write(tmp_path / "b.csv", text), "bought", delimiter=";")
    assert before.columns == after.columns
    for data in (before, after):
        data.setup()
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.std, after.std)
    test = after._parts["test"].x
    assert (test[:, 0] == 1e6).all()
    assert (test[:, 1:5] == 0).all()  # a new city is none of those known
    ages = [float(row[0]) for row, train in zip(rows, trains, strict=True) if train and row[0] != "NA"]
    assert before.columns[0].fill == pytest.approx(np.mean(ages))


def test_regression_with_a_test_file_in_another_order(tmp_path: Path) -> None:
    rows = [(i, 3 * i + 1) for i in range(40)]
    path = write(tmp_path / "a.csv", "x,y\r\n" + "".join(f"{x},{y}\r\n" for x, y in rows) + "\r\n")
    test = write(tmp_path / "t.csv", "y,x,extra\n4,1,k\n-2.5,-1,k\n")
    data = CSVDataModule(path, "y", kind="regression", test=test, val_fraction=0.0)
    data.setup()
    assert data._parts["train"].x.tolist() == [[x] for x, _ in rows]
    assert data._parts["train"].y.tolist() == [[y] for _, y in rows]
    assert (data._parts["test"].x.tolist(), data._parts["test"].y.tolist()) == ([[1], [-1]], [[4], [-2.5]])
    assert (data.target_names, data.num_outputs, data.num_classes) == (["y"], 1, None)
    assert data.encode(write(tmp_path / "new.csv", "x\n7\n\nNA\n")).tolist() == [[7], [19.5]]


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", b"\xef\xbb\xbf"), ("utf-8", b""), ("latin-1", b""), ("utf-16", b"")]
)
def test_encodings(tmp_path: Path, encoding: str, mark: bytes) -> None:
    text = "größe,ort\n" + "1,Köln\n2,Bonn\n" * 10
    path = write(tmp_path / "a.csv", mark + text.encode(encoding))
    data = CSVDataModule(path, "ort", encoding=encoding)
    assert (data.feature_names, data.class_names) == (["größe"], ["Bonn", "Köln"])


def test_numbered_classes_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,y\n" + "".join(f"{i},{i % 12}\n" for i in range(240)))
    assert CSVDataModule(path, "y").class_names == [str(i) for i in range(12)]


GOOD = "a,b,y\n" + "1,2,p\n3,4,q\n" * 20


@pytest.mark.parametrize(
    ("text", "kwargs", "message"),
    [
        (GOOD, {"target": "z"}, r"a.csv has no column 'z', only 'a', 'b', 'y'"),
        (GOOD, {"drop": ["c"]}, r"a.csv has no column 'c'"),
        (GOOD, {"categorical": ["c"]}, r"a.csv has no column 'c'"),
        (GOOD, {"drop": ["a", "b"]}, r"a.csv has no feature column"),
        (GOOD, {"kind": "regression"}, r"a.csv, line 2, column 'y' must be a finite number, got 'p'"),
        (GOOD, {"kind": "rank"}, r"kind must be"),
        (GOOD, {"delimiter": ""}, r"delimiter must be one character, got ''"),
        (GOOD, {"encoding": "klingon"}, r"encoding must be one of Python's.* got 'klingon'"),
        (GOOD.replace(",", ";"), {}, r"a.csv, line 1: 'a;b;y' is one column: is the delimiter ';' instead of ','\?"),
        (GOOD, {"delimiter": ";"}, r"is the delimiter ',' instead of ';'"),
        (GOOD + "1,2\n", {}, r"a.csv, line 42: 2 columns, but the header has 3 \(delimiter ','\)$"),
        (
            GOOD + "1,2,p,q\n",
            {},
            r"line 42: 4 columns, but the header has 3 \(delimiter ','\): put a value with ',' in it in quotes",
        ),
        (GOOD + '\n"1\n",2,p\n\n1,2\n', {}, r"a.csv, line 46: 2 columns"),
        (GOOD + "1,2,3,4\n", {}, r"a.csv, line 42: 4 columns"),
        (GOOD + "1,,\n", {}, r"a.csv, line 42, column 'y': the target is missing in 1 of 41 rows"),
        (GOOD + "inf,2,p\n", {}, r"a.csv, line 42, column 'a' must be a finite number, got 'inf'"),
        (GOOD + "1e39,2,p\n", {}, r"a.csv, line 42, column 'a' must be a finite number, got '1e39'"),
        (GOOD + '1,"2,p\n', {}, r"a.csv, line 4\d: .*quotes"),
        ("a,a,y\n1,2,p\n", {}, r"a.csv, line 1: columns 1 and 2 are both named 'a'"),
        (",a,y\n0,2,p\n", {}, r"a.csv, line 1: column 1 has no name: .*index=False"),
        ("1,2,3\n4,5,6\n", {"target": "3"}, r"a.csv, line 1 must name the columns"),
        ("", {}, r"a.csv is empty"),
        ("a,b,y\n", {}, r"a.csv has a header but no rows"),
        ("a,b,y\n" + "1,2,p\n" * 20, {}, r"'y' has only one class, 'p'"),
        ("a,b,y\n" + "1,2,0.5\n3,4,1\n" * 20, {}, r"line 2, column 'y': '0.5' is an amount.*kind=\"regression\""),
        ("a,b,y\n" + ",NA,p\n,?,q\n" * 20, {}, r"column 'a' has no value in any training row: drop it"),
        ("a,b,y\n" + ",,\n" * 20, {}, r"line 2, column 'y': the target is missing in 20 of 20 rows"),
        (
            "a,b,y\n" + "".join(f"{i},{i},{'pq'[i % 2]}\n" for i in range(100)) + "1,x7,p\n2,3,q\n",
            {"split_seed": 1},
            r"a.csv, line 102, column 'b' must be a finite number, got 'x7': correct it, or list 'b' in categorical",
        ),
        (
            "a,y\n" + "".join(f"name{i},{'pq'[i % 2]}\n" for i in range(100)),
            {},
            r"column 'a' has 7\d different texts, more than max_categories=50: drop it if it is an identifier",
        ),
        (
            "a;y\n" + "".join(f"{i},5;{'pq'[i % 2]}\n" for i in range(100)),
            {"delimiter": ";"},
            r"line 2, column 'a' must be a finite number, got '0,5': give decimal=',', or list 'a' in categorical",
        ),
        (
            GOOD.encode() + b"1,\xe9,p\n",
            {},
            r"a.csv, line 42, column 2: byte 0xe9 is not valid utf-8: give the file's encoding",
        ),
        (GOOD.encode("utf-16"), {}, r"a.csv, line 1, column 1: byte 0xff is not valid utf-8.*utf-16"),
    ],
)
def test_bad_files(tmp_path: Path, text: str | bytes, kwargs: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(ValueError, match=message):
        CSVDataModule(path, **{"target": "y", **kwargs})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,y\n1,x,p\n", r"t.csv, line 2, column 'b' must be a finite number, got 'x'"),
        ("a,b,y\n1,2,p\n1,2,r\n", r"t.csv, line 3, column 'y': class 'r' is not one of \['p', 'q'\]"),
        ("a,y\n1,p\n", r"t.csv has no column 'b'"),
        ("a,b,y\n", r"t.csv has a header but no rows"),
    ],
)
def test_bad_test_files(tmp_path: Path, text: str, message: str) -> None:
    path, test = write(tmp_path / "a.csv", GOOD), write(tmp_path / "t.csv", text)
    with pytest.raises(ValueError, match=message):
        CSVDataModule(path, "y", test=test)


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path} is not a file"):
            CSVDataModule(str(path), "y")
