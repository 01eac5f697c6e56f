"""Time series from CSV files: windows of a context, which a model reads, and a horizon, which it forecasts."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.arrays import column_statistics, trained_dtype
from datamodules.base import DataModule
from datamodules.checks import check_integer, check_share
from datamodules.csv_reader import read_header
from datamodules.examples import Examples
from datamodules.sheet import Sheet
from datamodules.splits import digest
from datamodules.times import Step, Times, step_of
from datamodules.written import MISSING, Form

Fill = Literal["refuse", "forward", "linear"]
_MOST_MISSING = 0.9  # share of the steps of a series


@dataclass
class TimeSeries:
    """One series of a file, in equal steps.

    Args:
        name: Its name in the column ``series``; None where a file holds one series only.
        values: Its columns, the targets first, float64 ``(N, D)``; what was missing is filled in.
        known: Which of the values stood in the file, ``(N, D)``.
        times: The file's time stamps; None without a time column, then the steps are numbered from 1.
        rows: Its rows in the file.
    """

    name: str | None
    values: np.ndarray
    known: np.ndarray
    times: Times | None
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def times_after(self, step: Step | None, count: int) -> list[str]:
        """Return the next ``count`` time stamps, written as those of the file."""
        if self.times is None or step is None:
            return [str(len(self) + 1 + i) for i in range(count)]
        return self.times.after(self.rows, step, count)


@dataclass
class Plan:
    """What is read of a file.

    Args:
        time: Column of the time stamps; None for none.
        series: Column that names the series; None where there is one series only.
        targets: Columns that are forecast.
        inputs: Columns that are read only.
        fill: See :class:`TimeSeriesDataModule`.
        form: How the values are written.
        step: The step between rows; None: that of the file.
    """

    time: str | None
    series: str | None
    targets: list[str]
    inputs: list[str]
    fill: Fill
    form: Form
    step: Step | None = None

    @classmethod
    def of(cls, preparation: Mapping[str, Any]) -> "Plan":
        """Return the plan in a ``preparation``."""
        step = preparation["step"]
        names = ("time", "series", "targets", "inputs", "fill")
        given = {name: preparation[name] for name in names}
        return cls(**given, form=Form.of(preparation), step=None if step is None else Step(**step))

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain data, for :meth:`of`."""
        names = ("time", "series", "targets", "inputs", "fill")
        step = None if self.step is None else asdict(self.step)
        return {name: getattr(self, name) for name in names} | {"step": step} | self.form.plain()

    @property
    def columns(self) -> list[str]:
        """The columns of numbers, the targets first."""
        return [*self.targets, *self.inputs]


def read_series(path: str | Path, plan: Plan) -> tuple[list[TimeSeries], Step | None]:
    """Return the series of a CSV file, and the step between their rows.

    Args:
        path: The file.
        plan: What is read of it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, lacks a column or a value, or is not in order and in equal steps; the message names
            line and column.
    """
    texts = [name for name in (plan.time, plan.series) if name is not None]
    sheet = Sheet.read(Path(path), plan.form, texts, only=[*texts, *plan.columns])
    for column in (*texts, *plan.columns):
        sheet.index(column)  # raises where there is none
    groups = _groups(sheet, plan.series)
    times = None if plan.time is None else Times(sheet, plan.time)
    step = plan.step
    if times is not None:
        for rows in groups.values():
            times.check_order(rows)
        step = step or step_of(times, list(groups.values()), list(groups))
    table = np.stack([sheet.checked_numbers(name, missing=True) for name in plan.columns], axis=1)  # (rows, D)
    if plan.fill == "refuse" and np.isnan(table).any():
        row, at = np.argwhere(np.isnan(table))[0]
        raise ValueError(
            f"{sheet.at(int(row), plan.columns[at])}: the value is missing, as {np.count_nonzero(np.isnan(table))} of "
            f"{table.size} are: fill it in, or give fill=linear or fill=forward"
        )
    found = []
    for name, rows in groups.items():
        values = table[rows]
        if times is not None and step is not None:
            values = _on_grid(values, times, rows, step, plan.fill)
        known = ~np.isnan(values)
        found.append(TimeSeries(name, _filled(values, known, plan, sheet, rows, name), known, times, rows))
    return found, step


def _groups(sheet: Sheet, series: str | None) -> dict[str | None, np.ndarray]:
    """Return the rows of each series, in the order of their first rows."""
    if series is None:
        return {None: np.arange(len(sheet))}
    words = sheet.words(series)
    for text in words.texts:
        if text in sheet.form.missing:
            raise ValueError(
                f"{sheet.at(words.first_row(text), series)}: the name of the series is missing: fill it in"
            )
    order = np.argsort(words.index, kind="stable")
    borders = np.cumsum(np.bincount(words.index, minlength=len(words.texts)))[:-1]
    return dict(zip(words.texts, np.split(order, borders), strict=True))


def _on_grid(values: np.ndarray, times: Times, rows: np.ndarray, step: Step, fill: Fill) -> np.ndarray:
    """Return the values of a series at every step from the first to the last: nan where a row is missing."""
    positions = times.positions(rows, step)
    count = int(positions[-1]) + 1
    if count == len(rows):
        return values
    gap = int((np.diff(positions) > 1).argmax())
    missing = int(positions[gap + 1] - positions[gap]) - 1
    where = (
        f"{times.at(rows[gap + 1])}: {missing} row{'s are' if missing > 1 else ' is'} missing between {times.text(rows[gap])!r} "
        f"and {times.text(rows[gap + 1])!r} (a step is {step})"
    )
    if fill == "refuse":
        raise ValueError(
            f"{where}: add what is missing, give fill=linear or fill=forward, or leave the time column out (time: null, "
            f"drop: [{times.name}]), and rows count as equally spaced"
        )
    if count - len(rows) > _MOST_MISSING * count:
        raise ValueError(f"{where}, and {count - len(rows):,} of {count:,} rows in all: too many to fill in")
    whole = np.full((count, values.shape[1]), np.nan)
    whole[positions] = values
    return whole


def _filled(
    values: np.ndarray, known: np.ndarray, plan: Plan, sheet: Sheet, rows: np.ndarray, name: str | None
) -> np.ndarray:
    """Return the values with those that are missing filled in: ``(N, D)``."""
    if known.all():
        return values
    steps = np.arange(len(values))
    filled = values.copy()
    for d, column in enumerate(plan.columns):
        if not known[0, d]:
            of = "" if name is None else f" of the series {name!r}"
            raise ValueError(
                f"{sheet.at(int(rows[0]), column)}: the first value{of} is missing, so there is none before to fill it from: "
                "remove the rows before the first value"
            )
        there = np.flatnonzero(known[:, d])
        if plan.fill == "linear":
            filled[:, d] = np.interp(steps, there, values[there, d])  # what is missing at the end is the last value
        else:
            filled[:, d] = values[there, d][np.searchsorted(there, steps, side="right") - 1]
    return filled


class Windows(Examples):
    """Windows of series: the context that is read, and the horizon that follows it, copied where they are asked for.

    A batch is ``(x, y)``; where values are missing, ``(x, y, weight)``, in which a target that was filled in has weight 0.

    Args:
        values: The series one after another, the targets' columns first.
        counts: Which targets count; None: all do.
        starts: The first row of each window.
        context: Rows T of a context.
        horizon: Rows H of a horizon.
        num_targets: Number K of target columns.

    Shape:
        values: ``(R, D)``, counts: bool ``(R, K)``, starts: int64 ``(N,)``. x: ``(B, T, D)``, y and weight: ``(B, H, K)``.
    """

    def __init__(
        self, values: Tensor, counts: Tensor | None, starts: Tensor, context: int, horizon: int, num_targets: int
    ) -> None:
        self.values, self.counts, self.starts = values, counts, starts
        self.context, self.horizon, self.num_targets = context, horizon, num_targets

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def x(self) -> Tensor:
        """All contexts: ``(N, T, D)``."""
        return self.inputs(torch.arange(len(self)))

    @property
    def y(self) -> Tensor:
        """All horizons: ``(N, H, K)``."""
        return self.values[self._horizons(torch.arange(len(self))), : self.num_targets]

    @property
    def weight(self) -> Tensor:
        """The weights of all targets, 0 or 1: ``(N, H, K)``."""
        everything = torch.arange(len(self))
        return torch.ones_like(self.y) if self.counts is None else self.counts[self._horizons(everything)].float()

    @override
    def inputs(self, index: Tensor) -> Tensor:
        return self.values[self.starts[index].unsqueeze(1) + torch.arange(self.context)]

    def _horizons(self, index: Tensor) -> Tensor:
        """Return the rows of horizons: ``(B,)`` -> ``(B, H)``."""
        return self.starts[index].unsqueeze(1) + self.context + torch.arange(self.horizon)

    @override
    def batch(self, index: Tensor) -> tuple[Any, ...]:
        rows = self._horizons(index)
        x, y = self.inputs(index), self.values[rows, : self.num_targets]
        return (x, y) if self.counts is None else (x, y, self.counts[rows].float())

    @override
    def __getitems__(self, indices: list[int]) -> tuple[Any, ...]:
        index = torch.tensor(indices)
        if self.counts is None or min(indices) >= 0:
            return super().__getitems__(indices)
        x, y, weight = self.batch(index.clamp(min=0))
        return x, y, weight * (index >= 0).view(-1, 1, 1)

    @override
    def subset(self, chosen: Tensor) -> Self:
        part = copy.copy(self)
        part.starts = self.starts[chosen]
        return part

    @override
    def fingerprint(self, validates: Tensor) -> str:
        counts = [] if self.counts is None else [self.counts]
        sizes = f"{self.context} {self.horizon} {self.num_targets}"
        return digest(self.values, *counts, self.starts, sizes, validates)


class TimeSeriesDataModule(DataModule):
    """Your own time series: a CSV file with a column of time stamps, whose columns are forecast.

    Either each column is a series (of one row a step; all are read and forecast together), or the column ``series`` says to which
    series a row belongs (the long form; the series are forecast one by one, by one model). A model reads a context of T steps and
    forecasts the H that follow: a batch is ``(x, y)`` with x ``(B, T, D)``, all columns, the targets first, and y ``(B, H, K)``, in
    their own units. The model standardizes by ``mean`` and ``std``, those of the training part of all series.

    Each series is split by time: the last ``test_fraction`` of its steps are for test, the last ``val_fraction`` of the others for
    validation. The targets of a window lie wholly in one part; a context may begin in the part before.

    Time stamps are numbers or dates (ISO 8601, or ``date_format``), in order, in equal steps: a number, a duration, or calendar
    months (the same day of each month, or its last; years are twelve months). Those that are up to 5% of a step off are read as if
    they were not. Others are refused: leave the time column out, ``time: null`` and its name in ``drop``, for rows that count as
    equally spaced whatever lies between them, such as trading days.

    A missing value is refused, or filled; so is a missing row. What is filled in is only read: it is no target that counts, neither
    in training nor in evaluation. By "linear" it lies between the values before and after, and a window whose context ends with one
    is left out, because that value would tell of the future.

    Args:
        path: The file; its first line names the columns.
        time: Column of the time stamps; None: there is none, and rows are equally spaced.
        targets: Columns to forecast; None: all that are neither ``time``, nor ``series``, nor in ``inputs`` or ``drop``.
        inputs: Further columns, which are read in the context but not forecast, and are not known in the horizon.
        series: Column that names the series of a row; None: all rows are of one series.
        drop: Columns to leave out.
        context: Steps T that are read, >= 1.
        horizon: Steps H that are forecast, >= 1.
        stride: Steps from one window to the next, >= 1.
        season: Steps of a season, by which the seasonal naive forecast repeats the past: at most ``context``, 1 for no season.
            None: 12 for months, 4 for quarters, 7 for days, 24 for hours, or 1 for other steps and where the context is shorter.
        fill: What becomes of missing values: "refuse"; "forward", the value before; "linear", between the neighbors.
        test_fraction: Share of the steps of each series for test, in [0, 1); 0 for no test part.
        val_fraction: Share of the other steps for validation, in [0, 1).
        batch_size, num_workers, drop_last: See :class:`~datamodules.DataModule`.
        missing, delimiter, encoding, decimal, thousands, units, date_format: See :class:`~datamodules.CSVDataModule`.

    Attributes:
        target_names: Names of the K targets.
        season: Steps of a season.
        step: The step between rows; None without time stamps.
        mean, std: Statistics of the columns in the training part, ``(D,)``, of what is not filled in, after ``setup("fit")``.
        target_mean, target_std: Those of the targets, ``(K,)``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An argument is out of its range; the file cannot be read, or a series is too short. The message names line and
            column.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("sales.csv").write_text("\\n".join(["day,sold"] + [f"2024-01-{i:02},{i % 7}" for i in range(1, 32)]))
        >>> data = TimeSeriesDataModule("sales.csv", time="day", context=7, horizon=2)
        >>> data.input_shape, str(data.step), data.season
        ((7, 1), '1 day', 7)
    """

    kind = "forecasting"

    def __init__(
        self,
        path: str,
        time: str | None = "time",
        targets: Sequence[str] | None = None,
        inputs: Sequence[str] = (),
        series: str | None = None,
        drop: Sequence[str] = (),
        context: int = 24,
        horizon: int = 12,
        stride: int = 1,
        season: int | None = None,
        fill: Fill = "refuse",
        test_fraction: float = 0.2,
        val_fraction: float = 0.2,
        batch_size: int = 64,
        num_workers: int = 0,
        drop_last: bool = True,
        missing: Sequence[str] = MISSING,
        delimiter: str = ",",
        encoding: str = "utf-8",
        decimal: str = ".",
        thousands: str | None = None,
        units: Sequence[str] = (),
        date_format: str | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, drop_last=drop_last)
        for name, value in (("context", context), ("horizon", horizon), ("stride", stride)):
            check_integer(name, value, 1)
        if season is not None:
            check_integer("season", season, 1)
            if season > context:
                raise ValueError(f"season must be at most context, {context}, got {season}: read a longer context")
        if fill not in ("refuse", "forward", "linear"):
            raise ValueError(f'fill must be "refuse", "forward" or "linear", got {fill!r}')
        check_share("test_fraction", test_fraction, "the steps")
        self.context, self.horizon, self.stride = context, horizon, stride
        self.test_fraction = test_fraction
        self.target_mean: Tensor | None = None
        self.target_std: Tensor | None = None
        self._path = str(path)
        form = Form(delimiter, encoding, missing, decimal, thousands, units, date_format)
        self._plan = self._planned(time, targets, inputs, series, drop, fill, form)
        self._series, self.step = read_series(path, self._plan)
        self._plan.step = self.step
        usual = 1 if self.step is None else self.step.season
        self.season = season or (usual if usual <= context else 1)
        self.target_names = self._plan.targets
        self._ends = [self._borders(one) for one in self._series]
        values = torch.from_numpy(np.concatenate([one.values for one in self._series]))
        self._values = values.to(trained_dtype(values))

    def _planned(
        self,
        time: str | None,
        targets: Sequence[str] | None,
        inputs: Sequence[str],
        series: str | None,
        drop: Sequence[str],
        fill: Fill,
        form: Form,
    ) -> Plan:
        header = read_header(Path(self._path), form)
        others = [name for name in (time, series) if name is not None]
        named = [*others, *inputs, *drop]
        wanted = [name for name in header if name not in named] if targets is None else list(targets)
        twice = [name for name in (*wanted, *named) if [*wanted, *named].count(name) > 1]
        if twice:
            raise ValueError(
                f"the column {twice[0]!r} is named twice: as one of time, series, targets, inputs and drop"
            )
        shown = ", ".join(map(repr, header[:20])) + " ..." * (len(header) > 20)
        if missing := [name for name in (*wanted, *named) if name not in header]:
            what = "time" if missing[0] == time else "series" if missing[0] == series else "targets, inputs or drop"
            raise ValueError(f"{self._path} has no column {missing[0]!r}, only {shown}: give {what}")
        if not wanted:
            raise ValueError(f"{self._path} has no column to forecast, beside {named}: its columns are {shown}")
        return Plan(time, series, wanted, list(inputs), fill, form)

    def _borders(self, series: TimeSeries) -> tuple[int, int]:
        """Return where the training part and the validation part of a series end.

        Raises:
            ValueError: A part is too short for a window.
        """
        count, window = len(series), self.context + self.horizon
        of = f"{self._path}: the series" if series.name is None else f"{self._path}: the series {series.name!r}"
        sizes = f"a window {window} (context {self.context} + horizon {self.horizon})"
        if count < window:
            raise ValueError(f"{of} has {count} steps, and {sizes}: give a shorter context or horizon, or more rows")
        tests = math.ceil(self.test_fraction * count)
        validates = math.ceil(self.val_fraction * (count - tests))
        trains = count - tests - validates
        if trains < window:
            raise ValueError(
                f"{of} has {trains} of its {count} steps for training, and {sizes}: give a shorter context or horizon, smaller "
                "fractions, or more rows"
            )
        for name, part in (("test_fraction", tests), ("val_fraction", validates)):
            if 0 < part < self.horizon:
                raise ValueError(
                    f"{of} has {part} steps for {name}={getattr(self, name)}, fewer than the horizon {self.horizon}: give a larger "
                    "share, 0 for none, or a shorter horizon"
                )
        return trains, trains + validates

    # What is known before fit ---------------------------------------------------------------------------------------

    @property
    def input_shape(self) -> tuple[int, int]:
        """``(T, D)``, the steps of a context and the number of columns."""
        return self.context, len(self._plan.columns)

    @property
    def num_outputs(self) -> int:
        """Number K of targets."""
        return len(self.target_names)

    @property
    def preparation(self) -> dict[str, Any]:
        """How a CSV file is read, as plain data for a model to save."""
        return self._plan.plain() | {"context": self.context, "horizon": self.horizon}

    @property
    @override
    def input_file(self) -> str | None:
        return self._path

    @property
    @override
    def has_test(self) -> bool:
        return self.test_fraction > 0

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def examples(self, part: Literal["train", "test"]) -> Windows:
        if part == "test" and not self.has_test:
            raise ValueError("there is no test part: give test_fraction > 0")
        spans = [self._span(one, part) for one in self._offsets()]
        if part == "train":
            validation = [self._span(one, "val") for one in self._offsets()] if self.val_fraction else []
            self._num_val = sum(map(len, validation))
            spans += validation
        known = np.concatenate([one.known[:, : self.num_outputs] for one in self._series])
        counts = None if known.all() else torch.from_numpy(known)
        starts = torch.cat(spans)
        return Windows(self._values, counts, starts, self.context, self.horizon, self.num_outputs)

    def _offsets(self) -> Iterator[tuple[int, TimeSeries, tuple[int, int]]]:
        """Yield the first row of each series in all values, the series, and its borders."""
        offset = 0
        for one, ends in zip(self._series, self._ends, strict=True):
            yield offset, one, ends
            offset += len(one)

    def _span(self, series: tuple[int, TimeSeries, tuple[int, int]], part: str) -> Tensor:
        """Return the first rows of the windows of a part of a series whose targets lie wholly in it."""
        offset, one, (trained, validated) = series
        first, end = {"train": (0, trained), "val": (trained, validated), "test": (validated, len(one))}[part]
        starts = np.arange(max(first - self.context, 0), end - self.context - self.horizon + 1, self.stride)
        if not one.known.all():
            horizons = starts[:, None] + self.context + np.arange(self.horizon)
            useful = one.known[horizons, : self.num_outputs].any(axis=(1, 2))
            if self._plan.fill == "linear":
                useful &= one.known[starts + self.context - 1].all(axis=1)
            starts = starts[useful]
        return torch.from_numpy(offset + starts)

    @override
    def validation_mask(self, examples: Examples) -> Tensor:
        return torch.arange(len(examples)) >= len(examples) - self._num_val

    @override
    def labels(self, examples: Examples) -> None:
        return None

    @override
    def describe(self, train: Examples) -> None:
        parts = [(one.values[:end], one.known[:end]) for one, (end, _) in zip(self._series, self._ends, strict=True)]
        values, known = (np.concatenate(part) for part in zip(*parts, strict=True))
        columns = [column_statistics(torch.from_numpy(values[known[:, d], d : d + 1])) for d in range(values.shape[1])]
        self.mean, self.std = (torch.cat(part).to(self._values.dtype) for part in zip(*columns, strict=True))
        self.target_mean, self.target_std = self.mean[: self.num_outputs], self.std[: self.num_outputs]
