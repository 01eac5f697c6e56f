"""CSV files as people write them: numbers, units, dates, numbers as categories and classes; refusals name the option."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import CSVDataModule
from datamodules.sheet import read_rows
from datamodules.written import Form


def table(path: Path, columns: dict[str, list[str]], delimiter: str = ";") -> str:
    """Write a file in which each column is repeated to 40 rows; y, the class, alternates."""
    columns = {**columns, "y": ["p", "q"]} if "y" not in columns else columns
    rows = [delimiter.join(values[i % len(values)] for values in columns.values()) for i in range(40)]
    path.write_text("\n".join([delimiter.join(columns), *rows]) + "\n", encoding="utf-8")
    return str(path)


WRITTEN: list[tuple[dict[str, Any], list[str], list[float]]] = [
    ({"thousands": ","}, ["1,234.50", "12", "-1,234,567.5"], [1234.5, 12, -1234567.5]),
    ({"decimal": ",", "thousands": "."}, ["1.234,50", "12", "0,5"], [1234.5, 12, 0.5]),
    ({"decimal": ","}, ["1,5", "12", "1,5e3"], [1.5, 12, 1500]),
    ({"thousands": " "}, ["1 234", "1\u00a0234.5", "1\u202f234 567"], [1234, 1234.5, 1234567]),
    ({"thousands": "'"}, ["1'234", "1\u2019234.5"], [1234, 1234.5]),
    ({}, ["\u22125", "5", "\u22120.25"], [-5, 5, -0.25]),
    ({"units": ["EUR"]}, ["9.50 EUR", "8EUR", "EUR 7"], [9.5, 8, 7]),
    ({"units": ["$"], "thousands": ","}, ["$1,234.50", "-$8", "$ 7"], [1234.5, -8, 7]),
    ({"units": ["%"]}, ["12 %", "7.5%", "3"], [12, 7.5, 3]),
    ({"units": ["km", "km/h"]}, ["12 km/h", "9 km/h"], [12, 9]),
]


@pytest.mark.parametrize(("options", "texts", "numbers"), WRITTEN)
def test_numbers_as_they_are_written(
    options: dict[str, Any], texts: list[str], numbers: list[float], tmp_path: Path
) -> None:
    path = table(tmp_path / "a.csv", {"x": texts})
    data = CSVDataModule(path, "y", delimiter=";", **options)
    assert data.feature_names == ["x"]
    assert data.table()[0][: len(numbers), 0].tolist() == numbers
    new = table(tmp_path / "new.csv", {"x": texts[::-1]})
    assert read_rows(new, data.preparation).x[: len(numbers), 0].tolist() == numbers[::-1]
    target = CSVDataModule(
        table(tmp_path / "t.csv", {"a": ["1", "2"], "y": texts}), "y", "regression", delimiter=";", **options
    )
    assert target.table()[1][: len(numbers)].tolist() == numbers


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (["1,234.50", "12.5"], "thousands=','"),
        (["1,234,567", "1"], "thousands=','"),
        (["1.234,50", "12,5"], "decimal=',', thousands='.'"),
        (["1,234", "5,678"], "decimal=',' or thousands=','"),
        (["0,5", "1,234"], "decimal=','"),
        (["1 234", "12 345"], "thousands=' '"),
        (["1\u2019234", "5"], 'thousands="\'"'),
        (["9.50 EUR", "8 EUR"], r"units=\['EUR'\]"),
        (["1,5 kg", "2,5 kg"], r"decimal=',' and units=\['kg'\]"),
        (["€9.50", "$8"], r"all values one unit, not \$ and €"),
        (["12 %", "5%"], r"units=\['%'\]"),
    ],
)
def test_numbers_that_are_written_otherwise_are_refused(texts: list[str], options: str, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"x": texts})
    message = (
        rf"a.csv, line \d, column 'x' must be a finite number, got '.*': give {options}, or list 'x' in categorical"
    )
    with pytest.raises(ValueError, match=message):
        CSVDataModule(path, "y", delimiter=";")
    data = CSVDataModule(path, "y", delimiter=";", categorical=["x"])
    assert data.feature_names == [f"x={text}" for text in sorted(texts)]
    path = table(tmp_path / "t.csv", {"a": ["1", "2"], "y": texts})
    with pytest.raises(
        ValueError, match=rf"t.csv, line \d, column 'y' must be a finite number, got '.*': give {options}"
    ):
        CSVDataModule(path, "y", kind="regression", delimiter=";")


@pytest.mark.parametrize(
    "texts",
    [
        ["3rd", "4th", "5th"],
        ["Q1", "Q2"],
        ["18-25", "26-35"],
        ["12 Main St", "14 Oak Rd"],
        ["1.2.3", "1.10.0"],
        ["a", "1"],
    ],
)
def test_names_with_digits_are_categories(texts: list[str], tmp_path: Path) -> None:
    data = CSVDataModule(table(tmp_path / "a.csv", {"x": texts}), "y", delimiter=";")
    assert data.feature_names == [f"x={text}" for text in sorted(texts)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decimal": ",", "thousands": ","}, "decimal and thousands must be different characters, got ','"),
        ({"decimal": ""}, "decimal must be one character, got ''"),
        ({"thousands": "00"}, "thousands must be one character, got '00'"),
        ({"decimal": "1"}, "decimal must be one character, got '1'"),
        ({"units": "EUR"}, r"units must be a list of texts, such as \[\"EUR\", \"%\"\], got 'EUR'"),
        ({"thousands": ","}, "column 'x' must be a finite number, got '1,23': give decimal=','"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"x": ["1,23", "1,5"]})
    with pytest.raises(ValueError, match=message):
        CSVDataModule(path, "y", delimiter=";", **options)


# Numbers that are compared as numbers ------------------------------------------------------------------------------------


def test_equal_numbers_are_one_class_and_one_category(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", {"c": ["0", "1.0", "0.0", "1"], "z": ["01", "1", "01", "2"], "y": ["1", "2.0", "1.0", "2"]}
    )
    test = table(tmp_path / "t.csv", {"y": ["1.00", "2"], "z": ["1.0", "01"], "c": ["0.0", "+1"]})
    data = CSVDataModule(path, "y", delimiter=";", categorical=["c", "z"], test=test)
    assert data.class_names == ["1", "2"]
    assert data.feature_names == ["c=0", "c=1", "z=01", "z=1", "z=2"]
    x, y = data.table()
    assert y[:4].tolist() == [0, 1, 0, 1]
    assert x[:4].astype(int).tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 1, 0, 0], [0, 1, 0, 0, 1]]
    x, y = data.test_table() or (None, None)
    assert y[:2].tolist() == [0, 1]
    assert x[:2].astype(int).tolist() == [[1, 0, 0, 1, 0], [0, 1, 1, 0, 0]]


def test_labels_with_leading_zeros_are_their_own(tmp_path: Path) -> None:
    data = CSVDataModule(table(tmp_path / "a.csv", {"x": ["1", "2", "3"], "y": ["01", "1", "1.0"]}), "y", delimiter=";")
    assert sorted(data.class_names or []) == ["01", "1"]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1.0", "1"),
        ("+1", "1"),
        ("-0.0", "0"),
        ("1e3", "1000"),
        (".50", "0.5"),
        ("\u22121", "-1"),
        ("01", "01"),
        ("0", "0"),
    ]
    + [(text, text) for text in ("12345678901234567890", "nan", "Infinity", "1_0", "x", "0x1", "1e999")],
)
def test_what_a_number_is_called(text: str, canonical: str) -> None:
    assert Form().canonical(text) == canonical


def test_categories_of_an_older_version(tmp_path: Path) -> None:
    """They were texts as they stood in the file, and the preparation had no more than this."""
    old = {
        "columns": [{"name": "c", "fill": None, "categories": ["0.0", "1", "1.0"]}],
        "missing": [""],
        "delimiter": ";",
        "encoding": "utf-8",
        "targets": [],
    }
    x, remark = read_rows(table(tmp_path / "a.csv", {"c": ["0", "1", "1.0", "", "2"]}), old)
    assert x[:5].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert remark is not None
    assert "a.csv: 8 of 40 rows hold a category that the training rows did not have" in remark


def test_a_category_never_seen_is_told(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"town": ["Bonn", "Ulm", ""], "zip": ["1", "2"]})
    data = CSVDataModule(path, "y", delimiter=";", categorical=["zip"])
    new = table(tmp_path / "new.csv", {"zip": ["1.0", "01", "2", "1"], "town": ["Bonn", "Köln", "", "Hof"]})
    x, remark = read_rows(new, data.preparation)
    assert x[:4].int().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert remark == (
        f"{new}: 20 of 40 rows hold a category that the training rows did not have, which counts as missing: "
        "column 'town' ('Köln', 'Hof'; 20 rows), column 'zip' ('01'; 10 rows)"
    )
    assert read_rows(path, data.preparation).remark is None


# Dates -------------------------------------------------------------------------------------------------------------------

DAYS = [date(2023, 12, 28) + timedelta(days=i) for i in range(8)]
PARTS = [[day.year, day.month, day.day, day.weekday()] for day in DAYS]


@pytest.mark.parametrize("form", [None, "%d.%m.%Y", "%m/%d/%y"])
def test_dates_become_their_parts(form: str | None, tmp_path: Path) -> None:
    texts = [f"{day:{form or '%Y-%m-%d'}}" for day in DAYS]
    data = CSVDataModule(table(tmp_path / "a.csv", {"sold": texts}), "y", delimiter=";", date_format=form)
    assert data.feature_names == ["sold.year", "sold.month", "sold.day", "sold.weekday"]
    assert data.table()[0][:8].tolist() == PARTS
    new = table(tmp_path / "new.csv", {"sold": [texts[3], ""]})
    trains = data._training_rows(torch.from_numpy(data.table()[1]), False).numpy()
    known = np.array([parts for part in range(5) for parts in PARTS])[trains]
    np.testing.assert_allclose(read_rows(new, data.preparation).x[:2], [PARTS[3], known.mean(0)])


def test_times_of_day_and_moments(tmp_path: Path) -> None:
    columns = {"at": ["2024-03-01T06:30:00Z", "2024-03-02 12:00"], "opens": ["9:15", "10:00:36"]}
    data = CSVDataModule(table(tmp_path / "a.csv", columns), "y", delimiter=";")
    names = ["at.year", "at.month", "at.day", "at.weekday", "at.hour", "opens.hour"]
    assert data.feature_names == names
    np.testing.assert_allclose(data.table()[0][:2], [[2024, 3, 1, 4, 6.5, 9.25], [2024, 3, 2, 5, 12, 10.01]])


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (["05.01.2024", "31.12.2024"], "date_format='%d.%m.%Y'"),
        (["1/5/2024", "2/6/2024"], "date_format='%d/%m/%Y' or date_format='%m/%d/%Y'"),
        (["1/25/24", "2/6/24"], "date_format='%m/%d/%y'"),
        (["2024/01/05", "2024/01/06"], "date_format='%Y/%m/%d'"),
        (["05.01.2024 10:30", "06.01.2024 10:30"], "date_format='%d.%m.%Y %H:%M'"),
        (["05.01.2024 10:30:00", "06.01.2024 10:30:01"], "date_format='%d.%m.%Y %H:%M:%S'"),
        (["05-Jan-2024", "06-Feb-2024"], "date_format='%d-%b-%Y'"),
        (["1/5/2024 3:04 PM", "1/25/2024 11:59 AM"], "date_format='%m/%d/%Y %I:%M %p'"),
    ],
)
def test_other_dates_are_refused(texts: list[str], options: str, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"sold": texts})
    with pytest.raises(
        ValueError, match=f"column 'sold' looks like a date, '.*': give {options}, or list 'sold' in categ"
    ):
        CSVDataModule(path, "y", delimiter=";")
    form = options.split("'")[1]
    assert CSVDataModule(path, "y", delimiter=";", date_format=form).columns[0].parts is not None
    assert CSVDataModule(path, "y", delimiter=";", categorical=["sold"]).columns[0].categories == sorted(texts)


def test_a_date_that_is_none_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", {"sold": ["2024-01-05", "2024-01-06", "2024-02-30"]})
    with pytest.raises(
        ValueError, match="line 4, column 'sold' must be a date such as 2024-01-31, got '2024-02-30': correct"
    ):
        CSVDataModule(path, "y", delimiter=";")
    data = CSVDataModule(table(tmp_path / "b.csv", {"sold": ["2024-01-05"]}), "y", delimiter=";")
    with pytest.raises(ValueError, match=r"a\.csv, line 4, column 'sold' must be a date"):
        read_rows(path, data.preparation)


# Files -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "a;b;y\n1;u;p\n2;w;q\n",
        "\ufeffa;b;y\r\n1;u;p\r\n\r\n2;w;q\r\n",
        '"a";"b";"y"\n"1";"u";"p"\n" 2 ";"w";"q"',
        "a;b;y\n\n1;u;p\n\n\n2;w;q\n\n",
    ],
)
def test_files_of_one_meaning(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode())
    data = CSVDataModule(str(tmp_path / "a.csv"), "y", delimiter=";", test_fraction=0.0, val_fraction=0.0)
    assert (data.feature_names, data.table()[0].tolist()) == (["a", "b=u", "b=w"], [[1, 1, 0], [2, 0, 1]])


def test_a_quoted_line_break_is_part_of_a_category(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,y\n"one\ntwo",p\nthree,q\n')
    data = CSVDataModule(str(tmp_path / "a.csv"), "y", test_fraction=0.0, val_fraction=0.0)
    assert data.feature_names == ["a=one\ntwo", "a=three"]


def test_thousands_of_columns(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(3000)]
    rows = [",".join(map(str, range(i, i + 3000))) for i in range(4)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([",".join([*names, "y"]), *(f"{row},{'pq'[i % 2]}" for i, row in enumerate(rows))]))
    data = CSVDataModule(str(path), "y", test_fraction=0.0, val_fraction=0.0)
    assert data.input_shape == (3000,)
    assert (data.table()[0] == np.arange(4)[:, None] + np.arange(3000)).all()
    with pytest.raises(ValueError, match=r"no column 'z', only 'c0', .* 'c19' \.\.\. \(3001 columns\)$"):
        CSVDataModule(str(path), "z")


@pytest.mark.parametrize("size", [1, 20, 2**20])
def test_a_file_is_read_in_pieces(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that turns out to be text late in the file keeps the texts of its numbers."""
    monkeypatch.setattr("datamodules.csv_reader._PIECE", size)
    rows = [f"{i},{i % 3}.0,{'' if i % 5 else i},{i % 2}" for i in range(38)]
    rows += ["38,x y,NA,0", '39,"z\nw",39,1']
    (tmp_path / "a.csv").write_text("\n".join(["a,b,c,y", *rows]) + "\n")
    data = CSVDataModule(str(tmp_path / "a.csv"), "y", val_fraction=0.0, test_fraction=0.0, categorical=["b"])
    assert data.feature_names == ["a", "b=0", "b=1", "b=2", "b=x y", "b=z\nw", "c"]
    x = data.table()[0]
    assert x[:, 0].tolist() == list(range(40))
    assert x[:, 1:6].argmax(1).tolist() == [*(i % 3 for i in range(38)), 3, 4]
    wanted = [i if i % 5 == 0 else np.mean([0, 5, 10, 15, 20, 25, 30, 35, 39]) for i in range(39)]
    np.testing.assert_allclose(x[:, 6], [*wanted, 39])
    with pytest.raises(
        ValueError, match="line 40, column 'b' must be a finite number, got 'x y': correct it, or list 'b'"
    ):
        CSVDataModule(str(tmp_path / "a.csv"), "y", val_fraction=0.0, test_fraction=0.0)
    with pytest.raises(ValueError, match="line 3, column 'c': the target is missing in 31 of 40 rows"):
        CSVDataModule(str(tmp_path / "a.csv"), "c", kind="regression", drop=["b"])
