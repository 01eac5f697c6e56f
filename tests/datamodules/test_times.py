"""Time stamps: the step that they have in common, what does not fit it, and how they go on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from datamodules.sheet import Sheet
from datamodules.times import Step, Times, step_of
from datamodules.written import Form


def times_of(folder: Path, texts: Sequence[str], **form: str) -> tuple[Times, np.ndarray]:
    path = folder / "t.csv"
    path.write_text("\n".join(["t", *texts]) + "\n")
    return Times(Sheet.read(path, Form(**form), ["t"]), "t"), np.arange(len(texts))


@pytest.mark.parametrize(
    ("texts", "form", "step", "after"),
    [
        (["3", "4", "5"], {}, "1", ["6", "7", "8"]),
        (["1958.00", "1958.25", "1958.50"], {}, "0.25", ["1958.75", "1959.00", "1959.25"]),
        (["0,5", "1,0"], {"decimal": ",", "delimiter": ";"}, "0.5", ["1,5", "2,0", "2,5"]),
        (["-2", "-1"], {}, "1", ["0", "1", "2"]),
        (["2024-02-27", "2024-02-28"], {}, "1 day", ["2024-02-29", "2024-03-01", "2024-03-02"]),
        (["2024-01-01", "2024-01-08", "2024-01-15"], {}, "1 week", ["2024-01-22", "2024-01-29", "2024-02-05"]),
        (["2023-11-05", "2023-12-05"], {}, "1 month", ["2024-01-05", "2024-02-05", "2024-03-05"]),
        (["2023-09-30", "2023-12-31"], {}, "3 months", ["2024-03-31", "2024-06-30", "2024-09-30"]),
        (["2024-01-31", "2024-02-29"], {}, "1 month", ["2024-03-31", "2024-04-30", "2024-05-31"]),
        (["2023-01-30", "2023-02-28", "2023-03-30"], {}, "1 month", ["2023-04-30", "2023-05-30", "2023-06-30"]),
        (["2022-06-01", "2023-06-01"], {}, "1 year", ["2024-06-01", "2025-06-01", "2026-06-01"]),
        (
            ["2024-12-31 22:30", "2024-12-31 23:15"],
            {},
            "45 minutes",
            ["2025-01-01 00:00", "2025-01-01 00:45", "2025-01-01 01:30"],
        ),
        (
            ["2024-12-31T22:00:00Z", "2024-12-31T23:00:00Z"],
            {},
            "1 hour",
            ["2025-01-01T00:00:00Z", "2025-01-01T01:00:00Z", "2025-01-01T02:00:00Z"],
        ),
        (["22:40", "23:20"], {}, "40 minutes", ["00:00", "00:40", "01:20"]),
        (
            ["31.12.2023", "01.01.2024"],
            {"date_format": "%d.%m.%Y"},
            "1 day",
            ["02.01.2024", "03.01.2024", "04.01.2024"],
        ),
        (["2023-11", "2023-12"], {"date_format": "%Y-%m"}, "1 month", ["2024-01", "2024-02", "2024-03"]),
        (["20231230", "20231231"], {"date_format": "%Y%m%d"}, "1 day", ["20240101", "20240102", "20240103"]),
        (
            ["2024-01-01", "2024-01-01 12:00"],
            {},
            "12 hours",
            ["2024-01-02 00:00", "2024-01-02 12:00", "2024-01-03 00:00"],
        ),
    ],
)
def test_time_stamps_go_on_as_they_are_written(
    tmp_path: Path, texts: list[str], form: dict[str, str], step: str, after: list[str]
) -> None:
    times, rows = times_of(tmp_path, texts, **form)
    times.check_order(rows)
    found = times.step(rows)
    assert str(found) == step
    assert times.positions(rows, found).tolist() == list(range(len(texts)))
    assert times.after(rows, found, 3) == after


def test_rounded_decimals_of_a_long_series_are_on_the_grid(tmp_path: Path) -> None:
    times, rows = times_of(tmp_path, [f"{1800 + i / 12:.3f}" for i in range(3000)])
    step = times.step(rows)
    assert step.size == pytest.approx(1 / 12, rel=1e-5)
    assert times.positions(rows, step).tolist() == list(range(3000))
    assert [float(text) for text in times.after(rows, step, 2)] == pytest.approx([2050, 2050 + 1 / 12], abs=0.0011)


def test_gaps_are_whole_steps_and_jitter_is_none(tmp_path: Path) -> None:
    times, rows = times_of(
        tmp_path, ["2024-01-01 10:00:00", "2024-01-01 10:10:02", "2024-01-01 10:20:00", "2024-01-01 10:49:58"]
    )
    step = Step(600.0, "second")
    assert times.positions(rows, step).tolist() == [0, 1, 2, 5]
    months, rows = times_of(tmp_path, ["2023-01-01", "2023-02-01", "2023-05-01", "2023-06-01"])
    assert months.step(rows) == Step(1, "month")
    assert months.positions(rows, months.step(rows)).tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("texts", "form", "words"),
    [
        (["1", "3", "2"], {}, r"line 4, column 't': '2' comes after '3': sort the rows by time, or name the column"),
        (
            ["2024-01-02", "2024-01-03", "2024-01-02"],
            {},
            r"line 4, .*'2024-01-02' is there twice, first on line 2: remove",
        ),
        (
            ["1", "2", "3", "4", "5.5"],
            {},
            r"line 6, .*'5.5' does not continue the series from '1' in steps of 1: resample",
        ),
        (["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-03 13:00"], {}, r"line 5, .*in steps of 1 day: resample"),
        (
            ["20240130", "20240131", "20240201"],
            {},
            r"line 2, .* looks like a date, '20240130': give date_format='%Y%m%d'",
        ),
        (["2024-01-01", "NA"], {}, r"line 3, column 't': the time stamp is missing: fill it in"),
        (
            ["2024-01-01", "soon"],
            {},
            r"line 3, .*must be a number or a date such as 2024-01-31.*got 'soon'.*date_format",
        ),
        (["31.12.2023", "01.01.2024"], {}, r"line 2, .*got '31.12.2023': correct it, or give date_format='%d.%m.%Y'"),
        (["2023-12", "2024-01"], {}, r"line 2, .*got '2023-12': correct it, or give date_format='%Y-%m'"),
        (["5", "2024-01-01"], {}, r"line 2, .*a date such as 2024-01-31, as all other time stamps are, got '5'"),
    ],
)
def test_time_stamps_that_are_refused(tmp_path: Path, texts: list[str], form: dict[str, str], words: str) -> None:
    def read() -> None:
        times, rows = times_of(tmp_path, texts, **form)
        times.check_order(rows)
        times.positions(rows, times.step(rows))

    with pytest.raises(ValueError, match=words):
        read()


def test_one_step_for_all_series(tmp_path: Path) -> None:
    times, rows = times_of(tmp_path, ["2024-01-01", "2024-01-02", "2024-01-01", "2024-01-08"])
    assert step_of(times, [rows[:2], rows[:2]], ["a", "b"]) == Step(86400.0, "second")
    with pytest.raises(
        ValueError, match=r"the series 'a' has a row every 1 day, 'b' every 1 week: all series of a file"
    ):
        step_of(times, [rows[:2], rows[2:]], ["a", "b"])
    with pytest.raises(ValueError, match=r"no series has two rows"):
        step_of(times, [rows[:1]], [None])
    numbers, rows = times_of(tmp_path, ["1", "2"])
    with pytest.raises(ValueError, match=r"the time stamps are numbers, and a step is 1 day: they must agree"):
        numbers.positions(rows, Step(86400.0, "second"))


def test_seasons_of_the_calendar() -> None:
    steps = [Step(1, "month"), Step(3, "month"), Step(86400, "second"), Step(3600, "second"), Step(12, "month")]
    assert [step.season for step in [*steps, Step(1, "number")]] == [12, 4, 7, 24, 1, 1]
