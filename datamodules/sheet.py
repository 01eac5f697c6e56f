"""CSV files as numbers: reading a file, and encoding its columns."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.csv_reader import LARGEST, Values, line_of, read_header, read_values
from datamodules.written import DATE_PARTS, Form, parts_of

_SHOWN = 20  # columns that a message names


class Rows(NamedTuple):
    """Features of the rows of a file, float64 ``(N, D)``, and a remark about categories that training did not have."""

    x: Tensor
    remark: str | None


def read_rows(path: str | Path, preparation: Mapping[str, Any]) -> Rows:
    """Return the features of the rows of a CSV file. It needs no target; other columns are ignored.

    Args:
        path: The file.
        preparation: Encoding, from a datamodule (:attr:`~datamodules.TableDataModule.preparation`) or from a trained model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read or lacks a column; the message names line and column.
    """
    form = Form.of(preparation)
    columns = [Column(**column) for column in preparation["columns"]]
    texts = [column.name for column in columns if column.categories or column.parts]
    sheet = Sheet.read(Path(path), form, texts, only=[column.name for column in columns])
    for column in columns:
        sheet.index(column.name)  # raises where there is none
    unseen = {column.name: rows for column in columns if (rows := column.unseen(sheet)).any()}
    remark = _remark(sheet, unseen)
    return Rows(torch.from_numpy(encoded(sheet, columns)), remark)


def encoded(sheet: "Sheet", columns: Sequence["Column"], dtype: type[np.floating] = np.float64) -> np.ndarray:
    """Return the features ``(N, D)`` of a sheet, whose columns are released on the way; one feature follows another in memory."""
    features = np.empty((sum(len(column.features) for column in columns), len(sheet)), dtype)
    free = iter(features)
    for column in columns:
        for feature, values in zip(islice(free, len(column.features)), column.encode(sheet), strict=True):
            feature[:] = values
        sheet.release(column.name)
    return features.T


def _remark(sheet: "Sheet", unseen: Mapping[str, np.ndarray]) -> str | None:
    if not unseen:
        return None
    rows = np.count_nonzero(np.logical_or.reduce(list(unseen.values())))
    columns = []
    for name, there in list(unseen.items())[:3]:
        texts = Counter(sheet.words(name).counts(there))
        shown = ", ".join(f"{text!r}" for text, _ in texts.most_common(3)) + " ..." * (len(texts) > 3)
        columns.append(f"column {name!r} ({shown}; {texts.total()} row{'s' * (texts.total() > 1)})")
    more = f" and {len(unseen) - 3} columns more" if len(unseen) > 3 else ""
    return (
        f"{sheet.path}: {rows} of {len(sheet)} rows hold a category that the training rows did not have, which counts as "
        f"missing: {', '.join(columns)}{more}"
    )


@dataclass(frozen=True)
class Column:
    """Encoding of a column: as one number, as the parts of a date, or as one feature for each of ``categories``.

    Args:
        name: Name in the header.
        fill: Replacement of a missing number; None refuses it.
        categories: None for a column of numbers or dates.
        parts: Parts of a date (see ``DATE_PARTS``), and what replaces each of a missing one; None for other columns.
    """

    name: str
    fill: float | None = None
    categories: list[str] | None = None
    parts: dict[str, float] | None = None

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        if self.parts is not None:
            return [f"{self.name}.{part}" for part in self.parts]
        return [self.name] if self.categories is None else [f"{self.name}={text}" for text in self.categories]

    def encode(self, sheet: "Sheet") -> Iterator[np.ndarray]:
        """Yield each feature of a sheet's rows: ``(N,)``."""
        if self.categories is not None:
            places = self._places(sheet)
            for i in range(len(self.categories)):
                yield places == i
        elif self.parts is not None:
            values, index = dates(sheet, self.name, self.parts)
            for each, fill in zip(values, self.parts.values(), strict=True):
                yield np.where(np.isnan(each), fill, each)[index]
        else:
            values = sheet.checked_numbers(self.name, missing=self.fill is not None)
            if self.fill is not None and np.isnan(values).any():
                values = np.where(np.isnan(values), self.fill, values)
            yield values

    def unseen(self, sheet: "Sheet") -> np.ndarray:
        """Return the mask ``(N,)`` of the rows that have a category, and none of ``categories``."""
        if self.categories is None:
            return np.zeros(len(sheet), bool)
        return (self._places(sheet) < 0) & ~sheet.words(self.name).are_in(sheet.form.missing)

    def _places(self, sheet: "Sheet") -> np.ndarray:
        """Return the index of each row's category, -1 for none; numbers are compared as numbers."""
        form = sheet.form
        exact = {text: i for i, text in enumerate(self.categories or [])}
        equal = {form.canonical(text): i for text, i in exact.items()}
        words = sheet.words(self.name)
        places = [
            -1 if text in form.missing else exact.get(text, equal.get(form.canonical(text), -1)) for text in words.texts
        ]
        return np.array(places)[words.index]


@dataclass(frozen=True)
class Words:
    """Texts of a column.

    Args:
        texts: The different ones, in the order of their first rows.
        index: Index of each row's text: ``(N,)``.
    """

    texts: list[str]
    index: np.ndarray

    def counts(self, rows: np.ndarray | slice = slice(None)) -> dict[str, int]:
        """Return how many of the rows have each text; without those that none has."""
        counts = np.bincount(self.index[rows], minlength=len(self.texts)).tolist()
        return {text: count for text, count in zip(self.texts, counts, strict=True) if count}

    def are_in(self, texts: Collection[str]) -> np.ndarray:
        """Return the mask ``(N,)`` of the rows whose text is one of ``texts``."""
        return np.array([text in texts for text in self.texts])[self.index]

    def first_row(self, text: str) -> int:
        """Return the first row that has a text."""
        return int((self.index == self.texts.index(text)).argmax())


@dataclass
class Sheet:
    """The values of a CSV file by column.

    Args:
        path: The file.
        form: How its values are written.
        header: Names of the columns.
        values: Values of columns, by index.
        count: Number of rows.
    """

    path: Path
    form: Form
    header: list[str]
    values: dict[int, Values]
    count: int
    _index: dict[str, int] = field(init=False, repr=False)
    _last: tuple[str, np.ndarray, np.ndarray] | None = field(init=False, repr=False, default=None)
    _words: tuple[str, Words] | None = field(init=False, repr=False, default=None)
    _dates: dict[str, np.ndarray] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._index = {name: i for i, name in enumerate(self.header)}

    def __len__(self) -> int:
        return self.count

    @classmethod
    def read(
        cls, path: Path, form: Form, keep: Collection[str] = (), *, only: Collection[str] | None = None
    ) -> "Sheet":
        """Read a file whose first line names the columns.

        Args:
            path: The file.
            form: How its values are written.
            keep: Columns whose texts are needed even where they are numbers.
            only: Columns that are needed, as far as they are there; None for all.
        """
        header, keep = read_header(path, form), set(keep)
        columns = {i: name in keep for i, name in enumerate(header) if only is None or name in only}
        return cls(path, form, header, *read_values(path, form, columns or {0: False}))

    def index(self, name: str) -> int:
        """Return the index of a column.

        Raises:
            ValueError: There is no such column.
        """
        if name not in self._index:
            names = ", ".join(map(repr, self.header[:_SHOWN]))
            more = f" ... ({len(self.header)} columns)" if len(self.header) > _SHOWN else ""
            raise ValueError(f"{self.path} has no column {name!r}, only {names}{more}")
        return self._index[name]

    def release(self, name: str) -> None:
        """Forget the values of a column, which are not needed any more; the texts would be read again."""
        del self.values[self.index(name)]
        self._last = self._words = None
        self._dates.pop(name, None)

    def words(self, name: str) -> Words:
        """Return the texts of a column; where a piece of it was read as numbers, the file is read once more."""
        index = self.index(name)
        if self._words is None or self._words[0] != name:
            values = self.values.get(index)
            if values is None or any(piece.dtype == np.float64 for piece in values.pieces):
                values = read_values(self.path, self.form, {index: True})[0][index]
            self._words = name, Words(list(values.words), values.joined())
        return self._words[1]

    def date_parts(self, name: str) -> np.ndarray:
        """Return ``DATE_PARTS`` of the different texts of a column (see :func:`dates`)."""
        if name not in self._dates:
            words, form = self.words(name), self.form
            values = np.full((len(words.texts), len(DATE_PARTS)), np.nan)
            for i, text in enumerate(words.texts):
                if text in form.missing:
                    continue
                if (moment := form.moment(text)) is None:
                    raise ValueError(
                        f"{self.at(words.first_row(text), name)} must be a date such as 2024-01-31, got {text!r}: correct it, "
                        f"give date_format, or list {name!r} in categorical or drop"
                    )
                values[i] = parts_of(moment)
            self._dates[name] = values.T
        return self._dates[name]

    def at(self, row: int, name: str) -> str:
        """Return the position of a value, for messages."""
        return f"{self.path}, line {line_of(self.path, self.form, row)}, column {name!r}"

    def numbers(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of a column, float64 ``(N,)``, nan where there is none; and the rows whose value is no number."""
        if self._last is None or self._last[0] != name:
            values, missing = self.values[self.index(name)], self.form.missing
            known = [np.nan if text in missing else self.form.number(text) for text in values.words]
            number = np.array([np.nan if value is None else value for value in known], np.float64)
            is_odd = np.array([text not in missing for text in values.words], bool) & np.isnan(number)
            numbers, odd = Values(), Values()
            for piece in values.pieces:
                is_number = piece.dtype == np.float64
                numbers.pieces.append(piece if is_number else number[piece])
                odd.pieces.append(np.zeros(len(piece), bool) if is_number else is_odd[piece])
            self._last = name, numbers.joined(), np.flatnonzero(odd.joined())
        return self._last[1:]

    def checked_numbers(self, name: str, missing: bool) -> np.ndarray:
        """Return the numbers of a column, nan where a value is missing.

        Args:
            name: Name of the column.
            missing: Whether values may be missing.

        Raises:
            ValueError: Another value is no finite number.
        """
        values, odd = self.numbers(name)
        wrong = ~((values >= -LARGEST) & (values <= LARGEST))  # nan too
        if missing:
            absent = np.isnan(values)
            absent[odd] = False
            wrong &= ~absent
        if wrong.any():
            raise self.no_number(int(wrong.argmax()), name)
        return values

    def no_number(self, row: int, name: str, cure: str = "") -> ValueError:
        """Return the error of a value that is no finite number.

        Args:
            row: Its row.
            name: Its column.
            cure: What else the user can do.
        """
        words = self.words(name)
        text = words.texts[words.index[row]]
        present = {word: count for word, count in words.counts().items() if word not in self.form.missing}
        options = self.form.hint(present) or self.form.hint({text: 1})
        how = f"give {options}" if options else "correct it"
        return ValueError(f"{self.at(row, name)} must be a finite number, got {text!r}: {how}{cure}")


def dates(sheet: Sheet, name: str, parts: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return parts (see ``DATE_PARTS``) of the different dates of a column, nan for a missing one, and the index of each row's.

    Shape:
        float64 ``(len(parts), dates)``, ``(N,)``.

    Raises:
        ValueError: A value is no date.
    """
    return sheet.date_parts(name)[[DATE_PARTS.index(part) for part in parts]], sheet.words(name).index
