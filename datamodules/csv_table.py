"""Your own CSV files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.arrays import Kind, TableDataModule, held_by_float32, trained_dtype
from datamodules.csv_reader import read_header
from datamodules.csv_target import classes_in, targets_in
from datamodules.examples import Examples
from datamodules.sheet import Column, Sheet, dates, encoded, read_rows
from datamodules.written import DATE_PARTS, MISSING, Form


class CSVDataModule(TableDataModule):
    """A CSV file with a header: one column is the target, the others are features.

    A column whose values are all numbers is one feature; missing values are replaced by the mean of the training rows. A column of
    dates or times (ISO 8601, or ``date_format``) is its year, month, day, weekday and hour. Any other column is categorical: one
    feature for each category in the training rows; a missing or new value is 0 in all of them. Categories and classes that are
    numbers are compared as numbers: 1.0 is 1, but 01 is not. A column whose values mostly look like numbers or dates and are
    written otherwise is refused; the message names the option that reads it. The file is read when the datamodule is built; a
    large one that is plainly written in seconds, by pyarrow.

    Args:
        path: The file; its first line names the columns.
        target: Name of the column to predict; every row must have a value.
        kind: Whether a class (the different texts of the column) or a number is predicted.
        test: Another file with the same columns, in any order, as the test part; without it, ``test_fraction`` is split off.
        drop: Columns to leave out: identifiers, and what is known only after the target.
        categorical: Columns that are categories although they look like numbers or dates, such as postal codes.
        missing: Texts that stand for a missing value.
        delimiter: Character between values; "\\t" for tabs.
        encoding: Encoding of the text, by Python's name.
        decimal: Character before the decimals of numbers.
        thousands: Character between groups of three digits, such as "," or " "; None for none.
        units: Texts to leave out before or after a number, such as "EUR" or "%".
        date_format: Format of dates as in Python's ``strptime``, such as "%d.%m.%Y", beside ISO 8601.
        max_categories: Most categories of a column; one with more is likely an identifier, and is refused.
        **table: Arguments of :class:`~datamodules.TableDataModule`.

    Attributes:
        columns: Encoding of each feature column.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read or learned from; the message names line and column.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("houses.csv").write_text("\\n".join(["rooms,garden,price"] + ["3,yes,210", "4,no,190"] * 10))
        >>> CSVDataModule("houses.csv", target="price", kind="regression").input_shape  # rooms, garden=no, garden=yes
        (3,)
    """

    def __init__(
        self,
        path: str,
        target: str,
        kind: Kind = "classification",
        test: str | None = None,
        drop: Sequence[str] = (),
        categorical: Sequence[str] = (),
        missing: Sequence[str] = MISSING,
        delimiter: str = ",",
        encoding: str = "utf-8",
        decimal: str = ".",
        thousands: str | None = None,
        units: Sequence[str] = (),
        date_format: str | None = None,
        max_categories: int = 50,
        **table: Any,
    ) -> None:
        super().__init__(**table)
        if kind not in ("classification", "regression"):
            raise ValueError(f'kind must be "classification" or "regression", got {kind!r}')
        self.kind = kind
        self.target = target
        self._path = str(path)
        self._form = Form(delimiter, encoding, missing, decimal, thousands, units, date_format)
        header = read_header(Path(path), self._form)
        left_out, as_text = {target, *drop}, set(categorical)
        names = [name for name in header if name not in left_out]
        keep = [*categorical, *[target] * (kind == "classification")]
        whole = Sheet.read(Path(path), self._form, keep, only=[target, *names])
        for name in (target, *drop, *categorical):
            whole.index(name)  # raises where there is none
        if not names:
            raise ValueError(
                f"{path} has no feature column beside the target {target!r}: its columns are {whole.header}"
            )
        if kind == "regression":
            self.target_names = [target]
        else:
            self.class_names = classes_in(whole, target)
        y = targets_in(whole, target, self.class_names)
        whole.release(target)
        trains = self._training_rows(torch.from_numpy(y), test is not None).numpy()
        self.columns = [self._fit_column(whole, name, trains, name in as_text, max_categories) for name in names]
        self.feature_names = [feature for column in self.columns for feature in column.features]
        dtype = np.float32 if all(_held_by_float32(column, whole) for column in self.columns) else np.float64
        self._whole = encoded(whole, self.columns, dtype), y
        self._dtypes = [torch.from_numpy(self._whole[0]).dtype, trained_dtype(torch.from_numpy(y).view(len(y), -1))]
        self._test: tuple[np.ndarray, np.ndarray] | None = None
        if test is not None:
            texts = [column.name for column in self.columns if column.categories or column.parts]
            sheet = Sheet.read(Path(test), self._form, [*keep, *texts], only=[target, *names])
            y = targets_in(sheet, target, self.class_names)
            self._test = encoded(sheet, self.columns, dtype), y

    @override
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of all rows, float32 unless that would lose digits that matter, and their targets."""
        return self._whole

    @override
    def test_table(self) -> tuple[np.ndarray, np.ndarray] | None:
        return self._test

    @property
    @override
    def input_file(self) -> str | None:
        return self._path

    @property
    @override
    def preparation(self) -> dict[str, Any]:
        return super().preparation | {"columns": [asdict(column) for column in self.columns]} | self._form.plain()

    def encode(self, path: str) -> Tensor:
        """Return the features ``(N, D)``, float64, of another file with these columns; it needs no target."""
        return read_rows(path, self.preparation).x

    def _training_rows(self, y: Tensor, has_test: bool) -> Tensor:
        trains = torch.ones(len(y), dtype=torch.bool) if has_test else ~self.test_rows(Examples(y, y))
        rest = y[trains]  # only targets matter for the split
        return trains.masked_scatter(trains, ~self.validation_mask(Examples(rest, rest)))

    def _fit_column(self, sheet: Sheet, name: str, trains: np.ndarray, categorical: bool, most: int) -> Column:
        """Return the encoding of a column, from its training rows."""
        form = self._form
        values, odd = sheet.numbers(name)
        absent = np.isnan(values)
        absent[odd] = False
        known = trains & ~absent
        if not known.any():
            raise ValueError(f"{sheet.path}: column {name!r} has no value in any training row: drop it, drop: [{name}]")
        if not len(odd) and not categorical:
            return Column(name, fill=float(sheet.checked_numbers(name, missing=True)[known].mean()))
        words = sheet.words(name)
        if not categorical:
            present = {text: count for text, count in words.counts().items() if text not in form.missing}
            moments = sum(count for text, count in present.items() if form.moment(text) is not None)
            if 2 * moments > sum(present.values()):
                return self._fit_dates(sheet, name, known)
            cure = f", or list {name!r} in categorical"
            if options := form.date_hint(present):
                text = words.texts[words.index[odd[0]]]
                raise ValueError(f"{sheet.at(odd[0], name)} looks like a date, {text!r}: give {options}{cure}")
            if (options := form.hint(present)) is not None:
                raise sheet.no_number(odd[0], name, cure + ("" if options else ", or the text in missing"))
        categories = sorted({form.canonical(text) for text in words.counts(known)})
        if len(categories) > most:
            raise ValueError(
                f"{sheet.path}: column {name!r} has {len(categories)} different texts, more than max_categories={most}: "
                f"drop it if it is an identifier, or allow more"
            )
        return Column(name, categories=categories)

    def _fit_dates(self, sheet: Sheet, name: str, known: np.ndarray) -> Column:
        """Return the encoding of a column of dates: without a date or a time of day where all have none."""
        values, index = dates(sheet, name, DATE_PARTS)
        known_dates = index[known]
        parts_of_rows = [part[known_dates] for part in values]
        year, *_, hour = parts_of_rows
        has_date, has_time = bool((year > 1).any()), bool((hour > 0).any())
        chosen = {part: has_time or not has_date if part == "hour" else has_date for part in DATE_PARTS}
        fills = {part: float(each.mean()) for part, each in zip(DATE_PARTS, parts_of_rows, strict=True)}
        return Column(name, parts={part: fills[part] for part in DATE_PARTS if chosen[part]})


def _held_by_float32(column: Column, sheet: Sheet) -> bool:
    """Whether float32 holds the features of a column; it does hold the zeros and ones of categories."""
    return column.categories is not None or all(
        held_by_float32(torch.from_numpy(feature)[:, None]) for feature in column.encode(sheet)
    )
