"""Windows of series: what is read, what is forecast, where the parts end, and every bad file by line and column."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import assert_resumes, record_batches

from datamodules import CO2DataModule, NileDataModule, SunspotsDataModule, TimeSeriesDataModule
from datamodules.time_series import Plan, Windows, read_series


def write(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def days(count: int, start: int = 0) -> list[str]:
    return [(date(2024, 1, 1) + timedelta(days=start + i)).isoformat() for i in range(count)]


def wide(folder: Path, count: int = 100) -> str:
    """Two series: 0, 1, 2 ... and its tenfold; and a third, which is no target."""
    return write(folder / "wide.csv", ["day,a,b,c"] + [f"{d},{i},{10 * i},{-i}" for i, d in enumerate(days(count))])


def windows(data: TimeSeriesDataModule, part: str) -> Windows:
    found = data._parts[part]
    assert isinstance(found, Windows)
    return found


@pytest.mark.parametrize(("context", "horizon", "stride"), [(7, 3, 1), (1, 1, 1), (10, 4, 3), (20, 20, 2)])
def test_windows_against_a_loop(tmp_path: Path, context: int, horizon: int, stride: int) -> None:
    """The targets lie wholly in one part; a context may begin before it."""
    sizes = {"context": context, "horizon": horizon, "stride": stride}
    data = TimeSeriesDataModule(wide(tmp_path), "day", ["b", "a"], ["c"], val_fraction=0.25, **sizes)
    assert (data.input_shape, data.num_outputs, data.target_names) == ((context, 3), 2, ["b", "a"])
    assert (data.horizon, data.season, data.kind) == (horizon, 7 if context >= 7 else 1, "forecasting")
    data.setup()
    rows = np.stack([10.0 * np.arange(100), np.arange(100), -np.arange(100)], axis=1)
    for part, first, end in (("train", 0, 60), ("val", 60, 80), ("test", 80, 100)):
        starts = [s for s in range(100) if s + context >= first and s + context + horizon <= end]
        starts = [s for s in starts if (s - starts[0]) % stride == 0]
        found = windows(data, part)
        assert len(found) == len(starts)
        assert np.array_equal(found.x.numpy(), [rows[s : s + context] for s in starts])
        assert np.array_equal(found.y.numpy(), [rows[s + context : s + context + horizon, :2] for s in starts])
        assert found.y[..., 1].min() >= first
        assert found.y[..., 1].max() < end
    batch = next(iter(data.test_dataloader()))
    assert len(batch) == 2
    assert torch.equal(batch[1], windows(data, "test").y)


def test_only_the_training_part_sets_the_scale(tmp_path: Path) -> None:
    data = TimeSeriesDataModule(
        wide(tmp_path), "day", ["b"], ["a"], drop=["c"], val_fraction=0.25, context=5, horizon=2
    )
    data.setup("fit")
    trains = np.arange(60.0)
    assert data.mean is not None
    assert data.std is not None
    np.testing.assert_allclose(data.mean, [10 * trains.mean(), trains.mean()], rtol=1e-6)
    np.testing.assert_allclose(data.std, [10 * trains.std(), trains.std()], rtol=1e-6)
    assert data.target_mean is not None
    assert (data.target_mean.tolist(), data.target_std.tolist()) == (data.mean[:1].tolist(), data.std[:1].tolist())  # type: ignore[union-attr]


def test_the_long_form(tmp_path: Path) -> None:
    """Rows of two series in turn, each split by itself; a window holds values of one series only."""
    lines = ["shop,day,sold"]
    for i, day in enumerate(days(60)):
        lines += [f"x,{day},{i}"] * (i < 60) + [f"y,{day},{1000 + i}"] * (i < 40)
    data = TimeSeriesDataModule(
        write(tmp_path / "long.csv", lines), "day", series="shop", val_fraction=0.1, context=6, horizon=4
    )
    data.setup()
    assert [one.name for one in data._series] == ["x", "y"]
    assert data._ends == [(43, 48), (28, 32)]  # of 60 steps 12 test and 5 validate, of 40 8 and 4
    for part, spans in {"train": [(6, 43), (6, 28)], "val": [(43, 48), (28, 32)], "test": [(48, 60), (32, 40)]}.items():
        found = windows(data, part)
        whole = torch.cat([found.x, found.y], dim=1)[..., 0]
        assert torch.equal(whole, whole[:, :1] + torch.arange(10.0))
        targets = [found.y[found.y < 500], found.y[found.y > 500] - 1000]
        assert [(t.min().item(), t.max().item() + 1) for t in targets] == spans
    assert [one.times_after(data.step, 1) for one in data._series] == [["2024-03-01"], ["2024-02-10"]]


GAPS = [0.0, 1.0, np.nan, np.nan, 6.0, 7.0, 8.0, np.nan, 10.0, 20.0, *range(21, 41)]


@pytest.mark.parametrize("fill", ["forward", "linear"])
@pytest.mark.parametrize("rows_missing", [False, True])
def test_missing_values_are_read_and_never_count(tmp_path: Path, fill: Any, rows_missing: bool) -> None:
    lines = [f"{i},{'' if np.isnan(v) else v}" for i, v in enumerate(GAPS) if not (rows_missing and np.isnan(v))]
    path = write(tmp_path / "gaps.csv", ["t,v", *lines])
    data = TimeSeriesDataModule(path, "t", context=2, horizon=2, fill=fill, test_fraction=0.2, val_fraction=0.0)
    data.setup("fit")
    filled = {"forward": [1.0, 1.0, 8.0], "linear": [8 / 3, 13 / 3, 9.0]}[fill]
    values = np.array(GAPS)
    known = ~np.isnan(values)
    values[~known] = filled
    starts = [s for s in range(21) if known[s + 2 : s + 4].any() and (fill == "forward" or known[s + 1])]
    train = windows(data, "train")
    assert 0 not in starts  # both targets are missing
    np.testing.assert_allclose(train.x[..., 0], [values[s : s + 2] for s in starts], rtol=1e-6)
    np.testing.assert_allclose(train.y[..., 0], [values[s + 2 : s + 4] for s in starts], rtol=1e-6)
    assert np.array_equal(train.weight[..., 0].numpy(), [known[s + 2 : s + 4].astype(float) for s in starts])
    assert data.mean is not None
    assert data.std is not None
    assert data.mean.item() == pytest.approx(values[:24][known[:24]].mean())
    assert data.std.item() == pytest.approx(values[:24][known[:24]].std())
    x, y, weight = train.__getitems__([1, -1])
    assert torch.equal(weight, train.weight[[1, 0]] * torch.tensor([1.0, 0.0]).view(2, 1, 1))
    assert (x.shape, y.shape) == ((2, 2, 1), (2, 2, 1))


def test_linear_filling_tells_nothing_of_the_future(tmp_path: Path) -> None:
    """Whatever the targets of a window become, its context stays."""

    def contexts(last: float) -> dict[tuple[int, ...], torch.Tensor]:
        lines = [f"{i},{'' if i in (15, 16) else i if i < 17 else last}" for i in range(30)]
        path = write(tmp_path / "gaps.csv", ["t,v", *lines])
        data = TimeSeriesDataModule(path, "t", context=4, horizon=3, fill="linear", test_fraction=0, val_fraction=0)
        data.setup("fit")
        found = windows(data, "train")
        return {tuple(range(s, s + 4)): x for s, x in zip(found.starts.tolist(), found.x, strict=True)}

    one, other = contexts(17.0), contexts(1000.0)
    early = [rows for rows in one if rows[-1] < 17]
    assert len(early) == 12  # the last two end in the gap
    assert all(torch.equal(one[rows], other[rows]) for rows in early)


def test_a_batch_of_examples_that_do_not_count(tmp_path: Path) -> None:
    data = TimeSeriesDataModule(wide(tmp_path), "day", context=3, horizon=2)
    data.setup("fit")
    _, _, weight = windows(data, "train").__getitems__([0, -1])
    assert weight.tolist() == [1.0, 0.0]


def test_rows_without_time_stamps_are_equally_spaced(tmp_path: Path) -> None:
    path = write(tmp_path / "trades.csv", ["day,price"] + [f"{d},{i}" for i, d in enumerate(days(40)) if i % 7 < 5])
    with pytest.raises(
        ValueError, match=r"line 7, column 'day': 2 rows are missing between '2024-01-05' and '2024-01-08'"
    ) as error:
        TimeSeriesDataModule(path, "day", context=5, horizon=2)
    assert "leave the time column out (time: null, drop: [day])" in str(error.value)  # left in, it would be forecast
    assert TimeSeriesDataModule(path, None, drop=["day"], context=5, horizon=2).target_names == ["price"]
    data = TimeSeriesDataModule(path, None, ["price"], context=5, horizon=2)
    assert (data.step, data.season, len(data._series[0])) == (None, 1, 30)
    assert data._series[0].times_after(None, 2) == ["31", "32"]


def test_large_values_keep_their_digits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["t,v"] + [f"{i},{1700000000 + i}" for i in range(50)])
    data = TimeSeriesDataModule(path, "t", context=5, horizon=2)
    data.setup("fit")
    assert windows(data, "train").x.dtype == torch.float64
    assert data.mean is not None
    assert data.mean.dtype == torch.float64


def test_training_resumes_in_mid_epoch(tmp_path: Path) -> None:
    path = wide(tmp_path)
    assert_resumes(tmp_path, lambda: TimeSeriesDataModule(path, "day", context=5, horizon=2, batch_size=16), 5)


def test_every_window_of_an_evaluation_is_seen_once(tmp_path: Path) -> None:
    data = TimeSeriesDataModule(wide(tmp_path), "day", context=5, horizon=2, batch_size=16, val_fraction=0.5)
    seen = torch.cat([y for _, y in record_batches(data).seen["val"]])
    assert torch.equal(seen, windows(data, "val").y)


def test_the_fingerprint_tells_data_and_windows_apart(tmp_path: Path) -> None:
    def fingerprint(**options: Any) -> str | None:
        data = TimeSeriesDataModule(str(tmp_path / "wide.csv"), "day", ["a"], drop=["b", "c"], **options)
        data.setup("fit")
        return data.fingerprint

    wide(tmp_path)
    found = [fingerprint(), fingerprint(context=25), fingerprint(horizon=11), fingerprint(val_fraction=0.3)]
    wide(tmp_path, 101)
    found.append(fingerprint())
    assert len(set(found)) == 5
    wide(tmp_path)
    assert fingerprint() == found[0]


def test_a_model_reads_a_file_as_training_did(tmp_path: Path) -> None:
    """Columns in another order, a column more, no column of another name; the step is that of training."""
    data = TimeSeriesDataModule(wide(tmp_path), "day", ["b"], ["a"], drop=["c"], context=5, horizon=2, fill="forward")
    plan = Plan.of(data.preparation)
    new = write(tmp_path / "new.csv", ["x,a,day,b", "0,1,2024-05-01,2", "0,,2024-05-02,", "0,3,2024-05-04,6"])
    (one,), step = read_series(new, plan)
    assert one.values.tolist() == [[2, 1], [2, 1], [2, 1], [6, 3]]
    assert one.times_after(step, 2) == ["2024-05-05", "2024-05-06"]
    weeks = write(tmp_path / "weeks.csv", ["day,a,b", "2024-05-01,1,2", "2024-05-08,1,2"])
    with pytest.raises(
        ValueError, match=r"line 3, .*: 6 rows are missing between .* too many to fill in|a step is 1 day"
    ):
        read_series(weeks, Plan.of({**data.preparation, "fill": "refuse"}))
    with pytest.raises(ValueError, match=r"has no column 'a'"):
        read_series(write(tmp_path / "less.csv", ["day,b", "2024-05-01,2"]), plan)


GOOD = [f"{d},{i},{2 * i}" for i, d in enumerate(days(60))]


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        (GOOD, {"targets": ["z"]}, r"has no column 'z', only 'day', 'a', 'b': give targets"),
        (GOOD, {"time": "date"}, r"has no column 'date', only 'day', 'a', 'b': give time"),
        (GOOD, {"series": "shop"}, r"has no column 'shop', .*: give series"),
        (GOOD, {"drop": ["a", "b"]}, r"has no column to forecast, beside \['day', 'a', 'b'\]"),
        (GOOD, {"targets": ["a"], "inputs": ["a"]}, r"the column 'a' is named twice"),
        (GOOD, {"context": 0}, r"context must be an integer >= 1, got 0"),
        (GOOD, {"horizon": 0}, r"horizon must be an integer >= 1, got 0"),
        (GOOD, {"stride": 0}, r"stride must be an integer >= 1, got 0"),
        (GOOD, {"season": 25}, r"season must be at most context, 24, got 25: read a longer context"),
        (GOOD, {"fill": "zero"}, r'fill must be "refuse", "forward" or "linear", got \'zero\''),
        (GOOD, {"test_fraction": 1.0}, r"test_fraction must be a share of the steps in \[0, 1\), got 1.0"),
        (
            GOOD,
            {"context": 50, "horizon": 11},
            r"has 60 steps, and a window 61 \(context 50 \+ horizon 11\): give a shorter",
        ),
        (GOOD, {"horizon": 70}, r"has 60 steps, and a window 94 \(context 24 \+ horizon 70\)"),
        (GOOD, {"context": 40}, r"has 38 of its 60 steps for training, and a window 52 \(context 40 \+ horizon 12\)"),
        (GOOD, {"val_fraction": 0.05}, r"has 3 steps for val_fraction=0.05, fewer than the horizon 12"),
        (GOOD, {"test_fraction": 0.05}, r"has 3 steps for test_fraction=0.05, fewer than the horizon 12"),
        (
            [*GOOD[:9], "2024-01-10,,1", *GOOD[10:]],
            {},
            r"line 11, column 'a': the value is missing, as 1 of 120 are: fill",
        ),
        ([*GOOD[:9], *GOOD[10:]], {}, r"line 11, column 'day': 1 row is missing between '2024-01-09' and '2024-01-11'"),
        ([*GOOD[:9], "2024-01-10,x,1", *GOOD[10:]], {}, r"line 11, column 'a' must be a finite number, got 'x'"),
        (["2024-01-01,,1", *GOOD[1:]], {"fill": "linear"}, r"line 2, column 'a': the first value is missing"),
        ([*GOOD, "2034-01-01,1,1"], {"fill": "linear"}, r"3,593 of 3,654 rows in all: too many to fill in"),
        ([GOOD[1], GOOD[0], *GOOD[2:]], {}, r"line 3, column 'day': '2024-01-01' comes after '2024-01-02': sort"),
        ([*GOOD, GOOD[-1]], {}, r"line 62, .*'2024-02-29' is there twice, first on line 61"),
        ([], {}, r"has a header but no rows"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: list[str], options: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "bad.csv", ["day,a,b", *lines])
    with pytest.raises(ValueError, match=words):
        TimeSeriesDataModule(path, **{"time": "day", **options})


def test_a_series_of_many_is_named(tmp_path: Path) -> None:
    lines = [f"x,{d},1" for d in days(60)] + [f"y,{d},1" for d in days(30)]
    path = write(tmp_path / "long.csv", ["shop,day,sold", *lines])
    with pytest.raises(ValueError, match=r"the series 'y' has 30 steps, and a window 36"):
        TimeSeriesDataModule(path, "day", series="shop", val_fraction=0)
    path = write(tmp_path / "long.csv", ["shop,day,sold", *lines[:60], ",2024-01-01,1"])
    with pytest.raises(ValueError, match=r"line 62, column 'shop': the name of the series is missing"):
        TimeSeriesDataModule(path, "day", series="shop")
    data = TimeSeriesDataModule(wide(tmp_path), "day", test_fraction=0)
    with pytest.raises(ValueError, match=r"there is no test part"):
        data.setup("test")
    assert not data.has_test


# The bundled series ---------------------------------------------------------------------------------------------------


def test_the_bundled_series_are_those_of_the_literature() -> None:
    """Means as statsmodels' and R's pages on these data sets print them, and where the calendar begins and ends."""
    nile, sunspots, co2 = NileDataModule(), SunspotsDataModule(), CO2DataModule()
    assert (len(nile._series[0]), nile._series[0].values.mean()) == (100, 919.35)
    assert (len(sunspots._series[0]), round(sunspots._series[0].values.mean(), 6)) == (309, 49.752104)
    values, known = co2._series[0].values[:, 0], co2._series[0].known[:, 0]
    assert (len(values), np.flatnonzero(~known).tolist()) == (526, [3, 7, 71, 72, 73])
    assert values[:3].tolist() == [316.1, 317.2, 317.43]
    assert values[70] < values[71] < values[72] < values[73] < values[74]  # by a line
    assert [data._series[0].times_after(data.step, 1) for data in (nile, sunspots, co2)] == [
        ["1971"],
        ["2009"],
        ["2002-01-01"],
    ]
    assert [data.input_file for data in (nile, sunspots, co2)] == [None] * 3
