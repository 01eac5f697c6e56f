"""A file as a German Excel writes it, through `zoo fit` and `zoo predict`: what the columns mean travels with the model."""

import json
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from cli_kit import Zoo, assert_one_line

import zoo as package

RNG = np.random.default_rng(0)
DAYS = [date(2024, 1, 1) + timedelta(days=int(i)) for i in RNG.permutation(160)]
STAMP = 1_700_000_000_000 + 1000 * RNG.permutation(160)
RENT = 900 + 300 * RNG.random(160)
ROOMS = RNG.integers(0, 3, 160)
PRICE = 1_700_000_000 + 2 * RENT + 30 * ROOMS + (STAMP - 1_700_000_000_000) / 500


def german(number: float) -> str:
    return f"{number:,.2f}".translate(str.maketrans(",.", ".,"))


def write(path: str, rooms: list[str], target: bool = True) -> str:
    """The rows; the number of rooms is written as given."""
    lines = ["rent;day;rooms;stamp" + ";price" * target]
    for i, text in enumerate(rooms):
        row = [f"{german(RENT[i])} EUR", f"{DAYS[i]:%d.%m.%Y}", text, str(STAMP[i])]
        lines.append(";".join([*row, german(PRICE[i])] if target else row))
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


OPTIONS = (
    *("--data", "datamodules.CSVDataModule", "--data.path=rents.csv", "--data.target=price", "--data.kind=regression"),
    *(
        "--data.delimiter=;",
        "--data.decimal=,",
        "--data.thousands=.",
        "--data.units=[EUR]",
        "--data.date_format=%d.%m.%Y",
    ),
    *("--data.categorical=[rooms]", "--data.val_fraction=0"),
)


@pytest.fixture
def run(zoo: Zoo) -> Path:
    write("rents.csv", [str(count) for count in ROOMS])
    model = ("--model.optimizer=Newton", "--model.lr=1", "--data.batch_size=128", "--trainer.max_epochs=3")
    result = zoo("fit", "-c", "linear/linear_diabetes", *OPTIONS, *model, "--trainer.callbacks=[]")
    assert result.code == 0, result.err
    return Path("runs/linear/linear_diabetes/version_0")


def test_a_linear_law_is_found_to_the_digits_of_float64(zoo: Zoo, run: Path) -> None:
    """Rent, rooms and a timestamp of 1.7e12 decide the price of 1.7e9: the law has no noise, so nothing remains of it."""
    rows = [f"{count}.0" for count in ROOMS]  # what pandas writes once a value is missing
    new = write("new.csv", [text.replace(".", ",") for text in rows], target=False)
    result = zoo("predict", run, new, "--json")
    assert result.err == ""
    values = np.array([row["value"] for row in json.loads(result.out)])
    assert abs(values - PRICE).max() < 0.5
    assert f"{values[0]:.12g}" in zoo("predict", run, new).out
    metrics = zoo("test", "--ckpt", run)
    assert metrics.code == 0, metrics.err
    model = package.load(run / "checkpoints/last.ckpt")
    assert model.preparation is not None
    assert [column["name"] for column in model.preparation["columns"]] == ["rent", "day", "rooms", "stamp"]
    model.save_pretrained("folder")
    assert zoo("predict", "folder", new, "--json").out == result.out


def test_predict_tells_of_categories_that_training_did_not_have(zoo: Zoo, run: Path) -> None:
    new = write("new.csv", ["0", "7", "01", "2,0", ""], target=False)
    result = zoo("predict", run, new)
    assert result.code == 0
    assert result.err == (
        "warning: new.csv: 2 of 5 rows hold a category that the training rows did not have, which counts as missing: "
        "column 'rooms' ('7', '01'; 2 rows)\n"
    )


def test_predict_reads_another_form(zoo: Zoo, run: Path) -> None:
    wanted = zoo("predict", run, write("new.csv", ["0", "1"], target=False), "--json").out
    text = Path("new.csv").read_text().replace(".", "/").replace(",", ".").replace(";", ",").replace("/", ".")
    rows = [line.split(",") for line in text.splitlines()]
    for row in rows[1:]:
        row[0] = row[0].replace(".", "", 1)  # the thousands
    Path("new.csv").write_text("\n".join(",".join(row) for row in rows))
    assert_one_line(zoo("predict", run, "new.csv"), "is the delimiter ',' instead of ';'?")
    same = zoo("predict", run, "new.csv", "--json", "--delimiter=,", "--decimal=.", "--thousands=")
    assert same.out == wanted, same.err
    assert_one_line(
        zoo("predict", run, "new.csv", "--delimiter=,", "--decimal=xy"), "decimal must be one character, got 'xy'"
    )


def test_fit_names_the_option_that_reads_a_file(zoo: Zoo) -> None:
    write("rents.csv", [str(count) for count in ROOMS])
    for option, words in (
        (
            "--data.thousands=.",
            ["column 'price' must be a finite number, got '1.700.00", "give thousands='.'"],
        ),
        ("--data.units=[EUR]", ["column 'rent' must be a finite number, got '", "give units=['EUR']"]),
        ("--data.date_format=%d.%m.%Y", ["column 'day' looks like a date, '", "give date_format='%d.%m.%Y'"]),
    ):
        assert_one_line(
            zoo("fit", "-c", "linear/linear_diabetes", *(each for each in OPTIONS if each != option)), *words
        )
