"""Time series on the command line: forecasts as CSV, plain methods on the same windows, and bad files in one line."""

import csv
import json
import os
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import Zoo, assert_one_line

import zoo as package
from datamodules import CO2DataModule, TimeSeriesDataModule
from recipes.cli.studies.baselines import baselines, regressors, splits_of

FIT = ("fit", "-c", "recurrent/forecaster_csv", "--model.width=4", "--trainer.max_epochs=1")
RUN = Path("runs/recurrent/forecaster_csv/version_0")
WINDOW = ("--data.context=12", "--data.horizon=4", "--data.path=sales.csv", "--data.time=month")


def months(count: int, start: int = 0) -> list[str]:
    return [f"{2015 + (start + i) // 12}-{(start + i) % 12 + 1:02}-01" for i in range(count)]


def sold(i: int) -> tuple[int, int]:
    return 1000 + 10 * i + 50 * (i % 12), 7 * (i % 5)


def shops(name: str = "sales.csv", count: int = 80) -> Path:
    """Two shops in turn; what they have in stock is read, too."""
    lines = ["shop;month;sold;stock"]
    for i, month in enumerate(months(count)):
        lines += [f"{shop};{month};{factor * sold(i)[0]},5;{sold(i)[1]}" for shop, factor in (("A", 1), ("B", 3))]
    Path(name).write_text("\n".join(lines) + "\n")
    return Path(name)


SHOPS = (*WINDOW, "--data.series=shop", "--data.targets=[sold]", "--data.inputs=[stock]", "--data.delimiter=;")
COMMA = "--data.decimal=,"


@pytest.fixture
def shop_run(zoo: Zoo) -> Path:
    """A forecaster trained on a file that is deleted afterwards."""
    path = shops()
    result = zoo(*FIT, *SHOPS, COMMA)
    assert (result.code, result.err) == (0, "")
    assert f"predict with       zoo predict {RUN} sales.csv" in result.out
    path.unlink()
    return RUN


def test_forecasts_follow_the_file_in_its_own_unit(zoo: Zoo, shop_run: Path) -> None:
    """Of another file with these columns, in another order: each series goes on from its own end, as the model says."""
    model: Any = package.load(shop_run / "checkpoints/best.ckpt").eval()
    lines = ["stock;sold;month;shop"]
    for i, month in enumerate(months(20, start=100)):
        lines += [f"{sold(i)[1]};{factor * sold(i)[0]},5;{month};{shop}" for shop, factor in (("C", 2), ("D", 5))][
            : 1 + (i < 15)
        ]
    Path("new.csv").write_text("\n".join(lines) + "\n")
    x = torch.tensor(
        [[[factor * sold(i)[0] + 0.5, sold(i)[1]] for i in range(end - 12, end)] for factor, end in ((2, 20), (5, 15))]
    )
    with torch.no_grad():
        wanted = model(x)[..., 0].tolist()
    assert min(map(min, wanted)) > 0
    assert max(wanted[1]) > 4000  # five times a thousand and more, and no deviation of anything
    stamps = [months(4, start=120), months(4, start=115)]
    rows = json.loads(zoo("predict", shop_run, "new.csv", "--json", "-o", "out/forecast.csv", "--batch-size=1").out)
    assert rows == [
        {"file": "new.csv", "series": name, "time": time, "value": {"sold": pytest.approx(value, rel=1e-5)}}
        for name, times, values in zip("CD", stamps, wanted, strict=True)
        for time, value in zip(times, values, strict=True)
    ]
    with Path("out/forecast.csv").open() as file:
        written = list(csv.reader(file, delimiter=";"))
    assert written[0] == ["month", "shop", "sold"]
    assert [row[:2] for row in written[1:]] == [[row["time"], row["series"]] for row in rows]
    assert [float(row[2].replace(",", ".")) for row in written[1:]] == pytest.approx(
        [value for values in wanted for value in values], rel=1e-5
    )
    table = zoo("predict", shop_run, "new.csv", "-o", "out/forecast.csv").out.splitlines()
    assert table[0].split() == ["file", "series", "time", "sold"]
    assert len(table) == 2 + 8 + 2
    assert table[-1] == "forecasts in out/forecast.csv"
    twice = zoo("predict", shop_run, "new.csv", "new.csv", "-o", "two.csv")
    assert twice.code == 0, twice.err
    assert Path("two.csv").read_text().splitlines()[:2] == [
        "file;month;shop;sold",
        f"new.csv;{';'.join(written[1])}",
    ]


def test_what_predict_refuses_of_series(zoo: Zoo, shop_run: Path) -> None:
    shops("good.csv", 20)
    shops("short.csv", 11)
    Path("unsorted.csv").write_text("month;shop;sold;stock\n2015-02-01;A;1;1\n2015-01-01;A;1;1\n")
    Path("days.csv").write_text("month;shop;sold;stock\n2015-01-01;A;1;1\n2015-01-02;A;1;1\n")
    Path("folder").mkdir()
    for args, words in (
        (["short.csv"], ["short.csv: the series 'A' has 11 steps, and the model reads a context of 12: add rows"]),
        (["unsorted.csv"], ["unsorted.csv, line 3, column 'month': '2015-01-01' comes after '2015-02-01': sort"]),
        (
            ["days.csv"],
            ["days.csv, line 3", "'2015-01-02' does not continue the series from '2015-01-01' in steps of 1 month"],
        ),
        (["good.csv", "--delimiter=,"], ["good.csv, line 1", "is the delimiter ';' instead of ','?"]),
        (["folder"], ["folder is not a CSV file"]),
        (["good.csv", "-o", "good.csv"], ["-o good.csv is the input itself"]),
        (
            ["good.csv", "-o", "folder"],
            ["-o folder is a folder: give a file for the forecasts, such as folder/forecast.csv"],
        ),
        (["good.csv", "--top=2"], ["--top is for labels, and RecurrentForecaster forecasts series"]),
        (["good.csv", "--label=3"], ["--label is for labels"]),
        (["good.csv", "--features"], ["--features: ForecastNet has no head to remove"]),
    ):
        assert_one_line(zoo("predict", shop_run, *args), *words)


def test_test_and_resume_use_the_same_windows(zoo: Zoo, shop_run: Path) -> None:
    shops()
    result = zoo("test", "--ckpt", shop_run)
    assert result.code == 0, result.err
    assert re.search(r"test/relative_mae +[\d.]+", result.out)
    shops(count=81)
    assert_one_line(
        zoo("fit", "--resume", shop_run, "--trainer.max_epochs=2"), "saved on other data", "fingerprint", started=True
    )


GOOD = [f"{month},{sold(i)[0]}" for i, month in enumerate(months(60))]


@pytest.mark.parametrize(
    ("lines", "args", "words"),
    [
        ([*GOOD[:9], GOOD[10], GOOD[9], *GOOD[11:]], [], ["line 12, column 'month': '2015-10-01' comes after '2015-11-01'"]),
        ([*GOOD, GOOD[-1]], [], ["line 62, column 'month': the time stamp '2019-12-01' is there twice, first on line 61"]),
        ([*GOOD[:9], *GOOD[10:]], [], ["line 11, column 'month': 1 row is missing between '2015-09-01' and '2015-11-01'", "fill"]),
        ([*GOOD[:9], "2015-10-01,", *GOOD[10:]], [], ["line 11, column 'sold': the value is missing", "fill=linear"]),
        ([*GOOD[:9], "2015-10-01,?!", *GOOD[10:]], [], ["line 11, column 'sold' must be a finite number, got '?!'"]),
        ([*GOOD[:9], "2015-10-07,1", *GOOD[10:]], [], ["line 11", "'2015-10-07' does not continue the series", "1 month"]),
        ([*GOOD[:9], "soon,1", *GOOD[10:]], [], ["line 11", "must be a number or a date such as 2024-01-31", "got 'soon'"]),
        (GOOD, ["--data.horizon=49"], ["sales.csv: the series has 60 steps, and a window 61 (context 12 + horizon 49)"]),
        (GOOD, ["--data.context=57"], ["sales.csv: the series has 60 steps, and a window 61 (context 57 + horizon 4)"]),
        (GOOD, ["--data.context=36"], ["38 of its 60 steps for training, and a window 40 (context 36 + horizon 4)"]),
        (GOOD, ["--data.horizon=11"], ["10 steps for val_fraction=0.2, fewer than the horizon 11"]),
        (GOOD, ["--data.horizon=0"], ["horizon must be an integer >= 1, got 0"]),
        (GOOD, ["--data.season=13"], ["season must be at most context, 12, got 13"]),
        (GOOD, ["--data.fill=zero"], ["fill", "zero"]),
        (GOOD, ["--data.targets=[price]"], ["sales.csv has no column 'price', only 'month', 'sold': give targets"]),
        (GOOD, ["--data.time=date"], ["sales.csv has no column 'date'", "give time"]),
        (GOOD, ["--data.encoding=utf-16"], ["sales.csv", "utf-16"]),
        (GOOD, ["--model.horizon=5"], ["--model.horizon 5 contradicts the data, which has 4: leave it out"]),
        (GOOD, ["--model.season=3"], ["--model.season 3 contradicts the data, which has 12: leave it out"]),
        (GOOD, ["--model.normalization=revin"], ["normalization", "revin"]),
        (GOOD, ["--model=zoo.MLPRegressor", "--model.widths=[4]"], ["does not forecast", "--model zoo.RecurrentForecaster"]),
        (GOOD, ["--model.monitor=val/mase"], ["model.monitor is 'val/mase', which is not logged"]),
        (None, [], ["sales.csv is not a file: give the path of a CSV file"]),
        ([], [], ["sales.csv has a header but no rows"]),
    ],
)  # fmt: skip
def test_bad_series_are_refused_in_one_line(
    zoo: Zoo, lines: list[str] | None, args: list[str], words: list[str]
) -> None:
    if lines is not None:
        Path("sales.csv").write_text("\n".join(["month,sold", *lines]) + "\n")
    model = [] if "--model=zoo.MLPRegressor" in args else ["--model.width=4"]
    command = (*FIT[:3], "--trainer.max_epochs=1", *model, *WINDOW, *args)
    assert_one_line(zoo(*command), *words, started=True)
    assert os.listdir() == ["sales.csv"] * (lines is not None)


def test_a_forecaster_needs_series(zoo: Zoo) -> None:
    Path("table.csv").write_text("a,y\n" + "1,5\n2,6\n" * 20)
    args = ("--data=datamodules.CSVDataModule", "--data.path=table.csv", "--data.target=y", "--data.kind=regression")
    result = zoo("fit", "-c", "linear/mlp_wine", "--model=zoo.RecurrentForecaster", *args)
    assert_one_line(result, "RecurrentForecaster forecasts time series, but CSVDataModule has none (kind: regression)")


# Plain methods ----------------------------------------------------------------------------------------------------------


def test_plain_methods_see_the_windows_of_the_recipe(zoo: Zoo) -> None:
    """Season and splits are the recipe's, errors in the series' own unit: by numpy from the raw file."""
    result = zoo("baselines", "recurrent/gru_co2")
    assert (result.code, result.err) == (0, "")
    assert "recurrent/gru_co2: 298 train, 73 val, 95 test examples of 24 numbers" in result.out
    scores = dict(re.findall(r"(?m)^(\S.*?) {2,}[\d.]+ +([\d.]+) +[\d.]+$", result.out))
    assert re.search(r"(?m)^method +val/mae +test/mae +seconds$", result.out)
    assert [*scores] == ["last value", "seasonal naive, season 12", "seasonal naive with drift", *regressors()]
    path = Path(package.__file__).parents[1] / "datamodules/bundled/co2.csv"
    values = np.array([float(line.split(",")[1] or "nan") for line in path.read_text().splitlines()[1:]])
    starts = range(526 - 106 - 24, 526 - 36 + 1)  # none of these months is missing
    contexts = np.stack([values[s : s + 24] for s in starts])
    truth = np.stack([values[s + 24 : s + 36] for s in starts])
    drift = contexts[:, 12:].mean(axis=1) - contexts[:, :12].mean(axis=1)
    wanted = {
        "last value": contexts[:, -1:],
        "seasonal naive, season 12": contexts[:, 12:],
        "seasonal naive with drift": contexts[:, 12:] + drift[:, None],
    }
    for name, forecast in wanted.items():
        assert float(scores[name]) == pytest.approx(np.abs(forecast - truth).mean(), abs=1e-3)
    assert 0.3 < float(scores["least squares"]) < 0.6
    other = zoo("baselines", "recurrent/gru_co2", "--data.season=6").out
    assert "seasonal naive, season 6" in other


def test_missing_targets_and_several_columns_are_left_out_of_plain_methods(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(120, 3)), axis=0) * [1, 10, 0.1] + [5, 100, 0]
    known = rng.random((120, 3)) < 0.9
    known[0] = True
    rows = [
        ",".join(
            [
                (date(2024, 1, 1) + timedelta(days=i)).isoformat(),
                *(f"{v:.6f}" if k else "" for v, k in zip(*row, strict=True)),
            ]
        )
        for i, row in enumerate(zip(values, known, strict=True))
    ]
    path = tmp_path / "three.csv"
    path.write_text("\n".join(["day,a,b,c", *rows]) + "\n")
    data = TimeSeriesDataModule(str(path), "day", ["b", "c"], ["a"], context=10, horizon=3, fill="forward", season=7)
    splits = splits_of(data)
    assert splits["test"] is not None
    x, y = splits["test"]
    assert (x.shape[1], y.shape[1]) == (30, 6)
    filled = values.copy()
    for i in range(1, 120):
        filled[i] = np.where(known[i], values[i], filled[i - 1])
    starts = [s for s in range(120 - 24 - 10, 120 - 13 + 1) if known[s + 10 : s + 13, 1:].any()]
    counts = np.stack([known[s + 10 : s + 13, 1:] for s in starts]).reshape(len(starts), -1)
    assert np.array_equal(np.isnan(y), ~counts)
    truth = np.stack([values[s + 10 : s + 13, 1:] for s in starts]).reshape(len(starts), -1)
    naive = np.stack([filled[s + 3 : s + 6, 1:] for s in starts]).reshape(len(starts), -1)
    scores = baselines(data)
    assert scores["seasonal naive, season 7"]["test/mae"] == pytest.approx(
        np.abs(naive - truth)[counts].mean(), rel=1e-4
    )
    assert [*scores] == [
        "last value",
        "seasonal naive, season 7",
        *regressors(),
    ]  # no drift: a context is no two seasons
    assert all(np.isfinite(score["test/mae"]) for score in scores.values())


def test_a_regressor_of_differences_meets_a_trend(tmp_path: Path) -> None:
    """A line that rises for ever is forecast exactly, far beyond the training part."""
    path = tmp_path / "line.csv"
    path.write_text("\n".join(["t,v", *(f"{i},{5 + 2 * i}" for i in range(80))]) + "\n")
    data = TimeSeriesDataModule(str(path), "t", context=6, horizon=3)
    assert baselines(data, "least squares")["least squares"]["test/mae"] < 1e-3
    assert CO2DataModule().season == 12


def test_a_forecaster_of_large_numbers_is_exported(zoo: Zoo) -> None:
    """The file is compared with the model on series like those of training: a level of 900 is no level of 0."""
    model = package.RecurrentForecaster(width=8, horizon=6).set_standardization([919.0], [169.0])
    model.target_mean.fill_(919.0)
    model.target_std.fill_(169.0)
    model.input_shape = (10, 1)
    model.save_pretrained("river")
    assert zoo("export", "river", "-o", "river.onnx").out.endswith("equal to the model\n")
