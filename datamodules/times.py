"""Time stamps of equally spaced steps: numbers, moments or calendar months, read from a column of a CSV file and continued."""

import calendar
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal

import numpy as np

from datamodules.csv_reader import line_of
from datamodules.sheet import Sheet

Unit = Literal["number", "second", "month"]
_TOLERANCE = 0.05  # of a step, by which a time stamp may be off
_UNITS = {604800: "week", 86400: "day", 3600: "hour", 60: "minute", 1: "second"}
_SEASONS: dict[tuple[float, str], int] = {
    (1, "month"): 12,
    (3, "month"): 4,
    (86400, "second"): 7,
    (3600, "second"): 24,
}
_ZONE = re.compile(r"(?<=:\d\d)(?:\.\d+)?(Z|[+-]\d\d(?::?\d\d)?)$")
_LOOKS_LIKE_A_DATE = re.compile(r"(18|19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Step:
    """What lies between two time stamps.

    Args:
        size: Number of units, > 0.
        unit: "month" counts calendar months, whatever their lengths; "number" is of time stamps that are plain numbers.
    """

    size: float
    unit: Unit

    def __str__(self) -> str:
        if self.unit == "number":
            return f"{self.size:g}"
        if self.unit == "month":
            size, name = (self.size / 12, "year") if self.size % 12 == 0 else (self.size, "month")
        else:
            size, name = next(
                ((self.size / seconds, name) for seconds, name in _UNITS.items() if self.size % seconds == 0),
                (self.size, "second"),
            )
        return f"{size:g} {name}{'s' * (size != 1)}"

    @property
    def season(self) -> int:
        """Steps of the calendar's usual season: 12 months, 4 quarters, 7 days, 24 hours; 1 where there is none."""
        return _SEASONS.get((self.size, self.unit), 1)


class Times:
    """The time stamps of the rows of a sheet: all numbers, or all dates.

    Args:
        sheet: The sheet.
        name: The column of the time stamps.

    Attributes:
        values: Numbers, float64, or microseconds, int64: ``(N,)``.

    Raises:
        ValueError: A time stamp is missing, or neither a number nor a date; the message names its line.
    """

    def __init__(self, sheet: Sheet, name: str) -> None:
        self.sheet, self.name, self.form = sheet, name, sheet.form
        words = sheet.words(name)
        self.texts, self.index = words.texts, words.index
        numbers = [self.form.number(text) for text in self.texts]
        self.moments: list[datetime] | None = None
        for text in self.texts:
            if text in self.form.missing:
                raise ValueError(f"{sheet.at(words.first_row(text), name)}: the time stamp is missing: fill it in")
        if self.form.date_format is None and all(map(_LOOKS_LIKE_A_DATE.fullmatch, self.texts)):
            raise ValueError(f"{self.at(0)} looks like a date, {self.texts[0]!r}: give date_format='%Y%m%d'")
        if self.form.date_format is None and None not in numbers:
            self.values = np.array(numbers, np.float64)[self.index]
            return
        self.moments = [self._moment(text) for text in self.texts]
        self.values = np.array([(moment - datetime.min) // _MICROSECOND for moment in self.moments])[self.index]

    def _moment(self, text: str) -> datetime:
        moment = self.form.moment(text)
        if moment is None:
            months = "date_format='%Y-%m'" if re.fullmatch(r"\d{4}-\d\d", text) else None
            how = months or self.form.date_hint(self.sheet.words(self.name).counts())
            how = how or "date_format, as in Python's strptime"
            row = self.sheet.words(self.name).first_row(text)
            raise ValueError(
                f"{self.sheet.at(row, self.name)} must be a number or a date such as 2024-01-31, as all other time stamps are, "
                f"got {text!r}: correct it, or give {how}"
            )
        return moment

    @cached_property
    def _calendar(self) -> np.ndarray:
        """Month since the year 0, day of the month, days of that month and microseconds of the day of each row: ``(4, N)``."""
        of_texts = [
            (
                12 * m.year + m.month - 1,
                m.day,
                calendar.monthrange(m.year, m.month)[1],
                (m - datetime(m.year, m.month, m.day)) // _MICROSECOND,
            )
            for m in self.moments or []
        ]
        return np.array(of_texts).T[:, self.index]

    def text(self, row: int) -> str:
        """Return a row's time stamp as it stands in the file."""
        return self.texts[self.index[row]]

    def at(self, row: int) -> str:
        """Return the position of a row's time stamp, for messages."""
        return self.sheet.at(row, self.name)

    def check_order(self, rows: np.ndarray) -> None:
        """Refuse rows of one series, ``(n,)``, whose time does not increase.

        Raises:
            ValueError: Two rows have the same time stamp, or a row an earlier one than the row before.
        """
        values = self.values[rows]
        wrong = np.flatnonzero(np.diff(values) <= 0)
        if not len(wrong):
            return
        row, before = rows[wrong[0] + 1], rows[wrong[0]]
        same = rows[: wrong[0] + 1][values[: wrong[0] + 1] == self.values[row]]
        if len(same):
            first = line_of(self.sheet.path, self.form, int(same[0]))
            raise ValueError(
                f"{self.at(row)}: the time stamp {self.text(row)!r} is there twice, first on line {first}: remove one row, or name "
                "the column that tells the series apart (series)"
            )
        raise ValueError(
            f"{self.at(row)}: {self.text(row)!r} comes after {self.text(before)!r}: sort the rows by time, or name the column that "
            "tells the series apart (series)"
        )

    def step(self, rows: np.ndarray) -> Step:
        """Return the most frequent distance between two or more rows of one series, which are in order."""
        values = self.values[rows]
        if self.moments is None:
            distances = np.diff(values)
            size = _most_frequent([float(f"{distance:.6g}") for distance in distances])
            near = distances[np.abs(distances - size) <= _TOLERANCE * size]
            count = round((values[-1] - values[0]) / near.mean())
            mean = (values[-1] - values[0]) / count  # 1958.0833, 1958.1667 ... are rounded, which adds up
            exact = (values - values[0]) / mean
            return Step(float(size if (np.abs(exact - np.rint(exact)) > _TOLERANCE).any() else mean), "number")
        if (by_month := self._by_month(rows)[1]).mean() > 0.5:
            return Step(int(_most_frequent(np.diff(self._calendar[0][rows][by_month]).tolist())), "month")
        return Step(float(_most_frequent(np.diff(values).tolist())) / 1e6, "second")

    def _by_month(self, rows: np.ndarray) -> tuple[int, np.ndarray]:
        """Return the day of the month that most rows have, 31 for the last one, and which rows differ from these in months only."""
        _, days, lengths, clock = self._calendar[:, rows]
        day = 31 if (days == lengths).mean() > 0.5 else int(_most_frequent(days.tolist()))
        return day, (days == np.minimum(day, lengths)) & (clock == _most_frequent(clock.tolist()))

    def positions(self, rows: np.ndarray, step: Step) -> np.ndarray:
        """Return how many steps after the first each of the rows of one series is: int64 ``(n,)``.

        Raises:
            ValueError: A time stamp is not a whole number of steps after the first.
        """
        wanted = ("number",) if self.moments is None else ("second", "month")
        if step.unit not in wanted:
            kind = "numbers" if self.moments is None else "dates"
            raise ValueError(f"{self.at(rows[0])}: the time stamps are {kind}, and a step is {step}: they must agree")
        values = self.values[rows] - self.values[rows[0]]
        if step.unit == "month":
            if not (by_month := self._by_month(rows)[1]).all():
                raise self._irregular(rows, int(by_month.argmin()), step)
            exact = (self._calendar[0][rows] - self._calendar[0][rows[0]]) / step.size
        else:
            exact = values / (step.size * (1e6 if step.unit == "second" else 1))
        whole = np.rint(exact)
        if (off := np.abs(exact - whole) > _TOLERANCE).any():
            raise self._irregular(rows, int(off.argmax()), step)
        return whole.astype(np.int64)

    def _irregular(self, rows: np.ndarray, at: int, step: Step) -> ValueError:
        row, text = rows[at], self.text(rows[at])
        return ValueError(
            f"{self.at(row)}: {text!r} does not continue the series from {self.text(rows[0])!r} in steps of {step}: resample the "
            f"series, or leave the time column out (time: null, drop: [{self.name}]), and rows count as equally spaced"
        )

    def after(self, rows: np.ndarray, step: Step, count: int) -> list[str]:
        """Return the ``count`` time stamps that follow the rows of one series, written as the last of them is."""
        last = self.text(rows[-1])
        if self.moments is None:
            texts = [self.text(row) for row in rows]
            decimals = max(len(text.partition(self.form.decimal)[2]) for text in texts)
            first, final = self.values[rows[0]], self.values[rows[-1]]
            done = round((final - first) / step.size)  # from the first one on: the last may be rounded
            values = [first + step.size * (done + 1 + i) for i in range(count)]
            return [f"{value:.{decimals}f}".replace(".", self.form.decimal) for value in values]
        moment = self.moments[self.index[rows[-1]]]
        if step.unit == "month":
            day = self._by_month(rows)[0]
            moments = [_months_after(moment, int(step.size) * (i + 1), day) for i in range(count)]
        else:
            moments = [moment + timedelta(seconds=step.size) * (i + 1) for i in range(count)]
        return [self._written_like(each, last) for each in moments]

    def _written_like(self, moment: datetime, text: str) -> str:
        if re.match(r"\d{4}-\d\d-\d\d", text):
            if len(text) == 10 and moment == datetime(moment.year, moment.month, moment.day):
                return moment.date().isoformat()
            zone = found[1] if (found := _ZONE.search(text)) else ""
            timespec = "minutes" if len(text) - len(zone) == 16 and not moment.second else "auto"
            return moment.isoformat(text[10:11] or " ", timespec) + zone
        if self.form.date_format is None:  # a time of day
            return moment.time().isoformat("minutes" if len(text) <= 5 else "auto")
        return moment.strftime(self.form.date_format)


def step_of(times: Times, series: Sequence[np.ndarray], names: Sequence[str | None]) -> Step:
    """Return the step of all series of a sheet.

    Args:
        times: Their time stamps.
        series: The rows of each series.
        names: Their names.

    Raises:
        ValueError: Two series have different steps, or none has two rows.
    """
    found: dict[Step, Any] = {}
    for rows, name in zip(series, names, strict=True):
        if len(rows) > 1:
            step = times.step(rows)
            if not any(_alike(step, other) for other in found):
                found[step] = name
    if not found:
        raise ValueError(f"{times.sheet.path}: no series has two rows, so nobody knows what a step is: add rows")
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise ValueError(
            f"{times.sheet.path}: the series {first!r} has a row every {one}, {second!r} every {other}: all series of a file must "
            "have one step, so resample them, or train on one file each"
        )
    return next(iter(found))


def _alike(one: Step, other: Step) -> bool:
    return one.unit == other.unit and abs(one.size - other.size) <= 1e-3 * one.size


def _most_frequent(values: Sequence[float]) -> float:
    """Return the most frequent of values; of several the smallest."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _months_after(moment: datetime, months: int, day: int) -> datetime:
    """Return the moment some months later, on a day of the month or, where the month is shorter, on its last."""
    year, month = divmod(12 * moment.year + moment.month - 1 + months, 12)
    return moment.replace(year=year, month=month + 1, day=min(day, calendar.monthrange(year, month + 1)[1]))
