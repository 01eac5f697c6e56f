"""CSV files by pyarrow: read exactly as by Python's csv, or left to it; whatever they hold."""

import contextlib
import csv
import io
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import CSVDataModule, csv_reader
from datamodules.sheet import Sheet, read_rows
from datamodules.written import MISSING, Form
from recipes.cli.__main__ import main

NUMBERS = (
    "1",
    "-2.5",
    "+3",
    "1e5",
    ".5",
    "5.",
    "007",
    "-0",
    "9007199254740993",
    "0.1",
    "1e-400",
    "4.9e-324",
    "12 ",
    " 7",
)
ODD = (
    "",
    "NA",
    "-999",
    "nan",
    "inf",
    "1e39",
    "1e400",
    "1_000",
    "0x10",
    "\u0661",
    "\u22125",
    "1,5",
    "1.234,5",
    "1,234.5",
)
ODD += (
    "nan(1)",
    "12 EUR",
    "a b",
    "Köln",
    "true",
    "2024-01-31",
    "31.01.2024",
    "9:15",
    "x\u00a0",
    "\u00a08",
    "# note",
    "\x1c5",
)
QUOTED = ("a,b", "two\nlines", "a\r\nb", 'the "Hof"', "", " 1 ", "5", "x;y", "NA")
BROKEN = ('a"b', '"a"b', ' "a"', "a\rb", "\0", '"', "1,2", "a\nb", "\t", "\ufeff")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "_CHUNK", 100)
    monkeypatch.setattr(csv_reader, "_SMALL", 0)


def random_file(rng: random.Random) -> tuple[bytes, dict[str, Any]]:
    """Return a CSV file, which may be broken, and options to read it with."""
    delimiter = rng.choice(",,,;\t| ")
    end = rng.choice(["\n", "\n", "\r\n", "\r\n", "\r"]) if rng.random() < 0.3 else "\n"
    broken = rng.choice([0, 0, 0.01])
    pools = [rng.choice([NUMBERS, NUMBERS, (*NUMBERS, "NA", ""), ODD, NUMBERS + ODD]) for _ in range(rng.randint(1, 4))]
    pools = [rng.sample(pool, rng.randint(1, len(pool))) for pool in pools]
    quotes = rng.choice([0, 0, 0.05, 1])

    def field(pool: Any) -> str:
        if rng.random() < broken:
            return rng.choice(BROKEN)
        text = rng.choice(QUOTED) if 0 < quotes < 1 and rng.random() < quotes else rng.choice(pool)
        if rng.random() < quotes or set(text) & {delimiter, '"', "\n", "\r"}:
            return '"' + text.replace('"', '""') + '"'
        return text + " " * (delimiter != " " and rng.random() < 0.05)

    lines = [[f"c{i}" for i in range(len(pools))] + ["y"]]
    lines += [[*map(field, pools), "pq"[i % 2]] for i in range(rng.choice([0, 3, 30, 30, 30]))]
    text = "".join(delimiter.join(line) + end * (1 + (rng.random() < 0.03)) for line in lines)
    if rng.random() < 0.2:
        text = text.rstrip("\r\n")
    options: dict[str, Any] = {"delimiter": delimiter, "encoding": rng.choice(["utf-8"] * 6 + ["utf-16", "cp1252"])}
    options |= rng.choice(
        [
            {},
            {},
            {"decimal": ","},
            {"thousands": ","},
            {"units": ["EUR"]},
            {"units": ["7"]},
            {"date_format": "%d.%m.%Y"},
        ]
    )
    options["missing"] = rng.choice([MISSING, MISSING, [], ["-999", "7", "a b"], [*MISSING, "1", "-0"]])
    options["categorical"] = [name for name in lines[0][:-1] if rng.random() < 0.2]
    options["drop"] = [name for name in lines[0][1:-1] if rng.random() < 0.1]
    content = text.encode(options["encoding"], "replace")
    return b"\xef\xbb\xbf" * (rng.random() < 0.05) + content, options


def outcome(path: Path, options: dict[str, Any]) -> tuple[Any, ...]:
    """Return all that a datamodule makes of a file, or its error."""
    try:
        data = CSVDataModule(str(path), "y", val_fraction=0.2, **options)
        data.setup()
        new = read_rows(path, data.preparation)
    except Exception as error:
        return type(error), str(error)
    x, y = data.table()
    return (
        (data.columns, data.class_names, data.fingerprint, new.remark),
        (x.dtype, x.tobytes(), y.dtype, y.tobytes(), new.x.numpy().tobytes()),
    )


@pytest.mark.usefixtures("small_chunks")
def test_random_files_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts and numbers are those of Python's csv and float, and a datamodule makes the same table or error of both."""
    rng, path, fast, good = random.Random(0), tmp_path / "a.csv", 0, 0
    for _ in range(200):
        content, options = random_file(rng)
        path.write_bytes(content)
        form = Form(options["delimiter"], options["encoding"], options["missing"], options.get("decimal", "."))
        columns, read = None, None
        try:
            file = io.StringIO(content.decode(form.encoding).removeprefix("\ufeff"), newline="")
            rows = [row for row in csv.reader(file, delimiter=form.delimiter, strict=True) if row]
            columns = [[text.strip() for text in column] for column in zip(*rows[1:], strict=True)]
        except (csv.Error, ValueError):
            pass
        with contextlib.suppress(ValueError, StopIteration):  # not even a header
            read = csv_reader._read_by_arrow(path, form, {0: False, 1: True})
        if read is not None:
            assert columns is not None
            fast += 1
            for i, values in read[0].items():
                texts, words, at = columns[i] if columns else [], [*values.words], 0
                for piece in values.pieces:
                    for value, text in zip(piece.tolist(), texts[at : at + len(piece)], strict=True):
                        if piece.dtype != np.float64:
                            assert words[value] == text
                        elif text in form.missing:
                            assert value != value
                        else:
                            wanted = form.number(text)
                            assert wanted is not None
                            assert struct.pack("d", value) == struct.pack("d", wanted)
                    at += len(piece)
                assert at == len(texts) == read[1]
        by_arrow = outcome(path, options)
        with monkeypatch.context() as patch:
            patch.setattr(csv_reader, "_SMALL", 2**40)
            by_python = outcome(path, options)
        assert by_arrow == by_python, (content, options)
        good += isinstance(by_python[0], tuple)
    assert fast > 100
    assert good > 30


def test_numbers_are_those_of_python() -> None:
    """pyarrow reads no text that Python refuses, and rounds as Python does."""
    import pyarrow

    rng = random.Random(0)
    texts = [repr(struct.unpack("d", rng.randbytes(8))[0]) for _ in range(800)]
    texts += [f"{rng.gauss(0, 1) * 10.0 ** rng.randint(-320, 37):.{rng.randint(0, 40)}e}" for _ in range(800)]
    texts += [str((2 * rng.randrange(2**52, 2**53) + 1) * 2 ** rng.randint(0, 60)) for _ in range(200)]  # half-way
    texts += ["".join(rng.choice("0123456789+-.eE_ infax") for _ in range(rng.randint(1, 8))) for _ in range(2000)]
    texts += ["inf", "-inf", "nan", "NaN", "nan(1)", "infinity", "1e39", "-1e400"]  # no finite number in float32
    for text in texts:
        numbers = csv_reader._arrow_numbers(pyarrow.array([text]), Form(missing=()), pyarrow.array([], "string"))
        if numbers is not None:
            assert "_" not in text
            assert abs(numbers[0]) <= csv_reader.LARGEST
            assert struct.pack("d", numbers[0]) == struct.pack("d", float(text))


@pytest.mark.parametrize(
    ("content", "sure"),
    [
        ('a,y\n"1","p"\n', True),
        ('a,y\n"x ""1"", z\n2",p\n', True),
        ('a,y\n"x"1,p\n', False),
        ('a,y\nx"1,p\n', False),
        ('a,y\n "1",p\n', False),
        ('a,y\n"1,p\n', False),
        ("a,y\r\n1,p\r\n", True),
        ("a,y\n1,p\r2,q\n", False),
        ("a,y\r1,p\r", False),
        ("\na,y\n1,p\n", False),
        ('"a\nb",y\n1,p\n', False),
        ("a,y\n1,\0p\n", False),
        ("a,y\n1\n", False),
        ("a,y\n1,p,\n", False),
        (f"a,y\n{'x' * 2**17},p\n", True),
        (f"a,y\n{'x' * 2**17}x,p\n", False),  # longer than Python's csv takes
        (f'a,y\n"{"x," * 2**16}",p\n', False),
    ],
)
@pytest.mark.usefixtures("small_chunks")
def test_what_is_in_doubt_is_left_to_python(content: str, sure: bool, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode())
    assert (csv_reader._read_by_arrow(tmp_path / "a.csv", Form(), {0: False, 1: True}) is not None) == sure


def test_a_large_file_is_read_by_pyarrow_and_a_small_one_without_it(
    tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on a large file with text, dates and gaps never asks Python for its rows; its messages name the line all the same."""
    asked: list[int] = []
    python = csv_reader._read_by_python
    monkeypatch.setattr(csv_reader, "_read_by_python", lambda *args: (asked.append(1), python(*args))[1])
    lines = [
        f"{i},{i / 7},{'NA' if i % 9 == 1 else i % 5},town {i % 3},2024-01-{i % 28 + 1:02},{'pq'[i % 2]}"
        for i in range(60)
    ]
    text = "\n".join(["id,x,gap,town,day,target", *lines]) + "\n"
    Path("small.csv").write_text(text)
    options = ("--data.drop=[id]", "--data.batch_size=8", "--trainer.max_epochs=1", "--trainer.callbacks=[]")
    CSVDataModule("small.csv", "target", drop=["id"])
    assert asked == [1]
    monkeypatch.setattr(csv_reader, "_SMALL", 1000)
    monkeypatch.setattr(csv_reader, "_CHUNK", 300)
    assert main(["fit", "-c", "linear/mlp_table", "--data.path=small.csv", *options]) == 0
    assert main(["predict", "runs/linear/mlp_table/version_0", "small.csv"]) == 0
    assert asked == [1]
    Path("bad.csv").write_text(text.replace("\n50,", "\n50,x"))
    assert main(["fit", "-c", "linear/mlp_table", "--data.path=bad.csv", *options]) == 2
    assert asked == [1]
    assert "bad.csv, line 52, column 'x' must be a finite number, got 'x7.14" in capsys.readouterr().err


def test_a_column_that_turns_into_text_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "_CHUNK", 100)
    monkeypatch.setattr(csv_reader, "_SMALL", 0)
    (tmp_path / "a.csv").write_text("a,y\n" + "".join(f"{i}.0,{i}\n" for i in range(80)) + "x,81\n")
    sheet = Sheet.read(tmp_path / "a.csv", Form())
    assert {piece.dtype for piece in sheet.values[0].pieces} == {np.dtype(np.float64), np.dtype(np.int32)}
    values, odd = sheet.numbers("a")
    assert (values[:80].tolist(), odd.tolist()) == (list(range(80)), [80])
    words = sheet.words("a")
    assert [words.texts[i] for i in words.index] == [*(f"{i}.0" for i in range(80)), "x"]


def test_a_text_that_is_in_many_rows_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers with a unit, and dates, are read once for each different text, not for each row or chunk."""
    monkeypatch.setattr(csv_reader, "_CHUNK", 300)
    monkeypatch.setattr(csv_reader, "_SMALL", 0)
    asked: Counter[tuple[str, str]] = Counter()
    for name in ("number", "moment"):
        method = getattr(Form, name)
        monkeypatch.setattr(
            Form,
            name,
            lambda form, text, name=name, method=method: (asked.update([(name, text)]), method(form, text))[1],
        )
    lines = [f'"{1000 + i % 7:,} EUR",2024-01-{i % 5 + 1:02},{"pq"[i % 2]}' for i in range(400)]
    (tmp_path / "a.csv").write_text("\n".join(["price,day,y", *lines]) + "\n")
    data = CSVDataModule(str(tmp_path / "a.csv"), "y", thousands=",", units=["EUR"])
    x, _ = data.table()
    assert x[:, 0].tolist() == [1000 + i % 7 for i in range(400)]
    assert x[:, 3].tolist() == [i % 5 + 1 for i in range(400)]
    assert asked["number", "1,003 EUR"] == 1
    assert asked["moment", "2024-01-03"] == 2  # to see that these are dates, and to take their parts
