"""CSV files of the user's own: what the columns are is found out, and everything learned comes from training rows."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.arrays import Kind, TableDataModule

MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")


class CSVDataModule(TableDataModule):
    """A CSV file with a header: one column is the target, the others are features.

    A column whose values are all numbers is one feature; a missing value becomes the mean of the training rows. Any other column
    is categorical: one feature a category that training rows have; a missing or new value is 0 in all of them. Standardizing is
    the task's business (``mean`` and ``std``, of training rows). The file is read when the datamodule is built.

    Args:
        path: the file; its first line names the columns.
        target: name of the column to predict; every row must have it.
        kind: what is predicted: a class (the different texts of the column) or a number.
        test: another file with the same columns, in any order, that tests; without it ``test_fraction`` is split off.
        drop: columns to leave out: identifiers, whatever is known only after the target.
        categorical: columns that are categories although they look like numbers, such as postal codes.
        missing: texts that mean: no value.
        delimiter: one character between values; "\\t" for tabulators.
        encoding: of the text, by Python's name.
        max_categories: a column with more is refused: it is an identifier, or numbers with something else among them.
        **table: those of :class:`~datamodules.TableDataModule`.

    Attributes:
        columns: how each feature column is encoded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read or learned from; the message names line and column.

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
        max_categories: int = 50,
        **table: Any,
    ) -> None:
        super().__init__(**table)
        if kind not in ("classification", "regression"):
            raise ValueError(f'kind must be "classification" or "regression", got {kind!r}')
        if isinstance(delimiter, str) and delimiter == "\\t":  # as a shell hands it over
            delimiter = "\t"
        if not isinstance(delimiter, str) or len(delimiter) != 1:
            raise ValueError(f"delimiter must be one character, got {delimiter!r}")
        self.kind = kind
        self.target = target
        self.missing = frozenset(missing)
        self._form = delimiter, encoding
        whole = Sheet.read(Path(path), *self._form)
        for name in (target, *drop, *categorical):
            whole.column(name)  # raises where there is none
        names = [name for name in whole.header if name != target and name not in drop]
        if not names:
            raise ValueError(f"{path} has no feature: its columns are {whole.header}, {target!r} is the target")
        if kind == "regression":
            self.target_names = [target]
        else:
            self.class_names = self._classes(whole)
        y = self._targets(whole)
        trains = self._training_rows(torch.from_numpy(y), test is not None).numpy()
        self.columns = [self._learn(whole, name, trains, name in categorical, max_categories) for name in names]
        self.feature_names = [feature for column in self.columns for feature in column.features]
        self._whole = self._encoded(whole), y
        self._test: tuple[np.ndarray, np.ndarray] | None = None
        if test is not None:
            sheet = Sheet.read(Path(test), *self._form)
            self._test = self._encoded(sheet), self._targets(sheet)

    @override
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        return self._whole

    @override
    def test_table(self) -> tuple[np.ndarray, np.ndarray] | None:
        return self._test

    def encode(self, path: str) -> Tensor:
        """The features of another file with these columns, which needs no target: float32 ``(N, D)``."""
        return torch.from_numpy(self._encoded(Sheet.read(Path(path), *self._form))).float()

    def _training_rows(self, y: Tensor, has_test: bool) -> Tensor:
        trains = torch.ones(len(y), dtype=torch.bool) if has_test else ~self.test_rows(y)
        trains[trains.clone()] = ~self._held_out(y[trains])
        return trains

    def _encoded(self, sheet: "Sheet") -> np.ndarray:
        return np.concatenate([column.encode(sheet, self.missing) for column in self.columns], axis=1)

    def _present(self, sheet: "Sheet") -> list[str]:
        """The target's texts; there must be one in each row."""
        texts = sheet.column(self.target)
        absent = [at for at, text in enumerate(texts) if text in self.missing]
        if absent:
            raise ValueError(
                f"{sheet.at(absent[0], self.target)}: the target is missing, in {len(absent)} of {len(texts)} rows: fill it in, "
                f"or remove those rows"
            )
        return texts

    def _classes(self, sheet: "Sheet") -> list[str]:
        texts = self._present(sheet)
        classes = sorted(set(texts))
        numbers = [number(text) for text in classes]
        if all(value is not None for value in numbers):
            classes = sorted(classes, key=float)
            at = next((i for i, text in enumerate(texts) if not float(text).is_integer()), None)
            if at is not None:
                raise ValueError(
                    f'{sheet.at(at, self.target)}: {texts[at]!r} is an amount, not a class: give kind="regression"'
                )
        if len(classes) < 2:
            raise ValueError(
                f"{sheet.path}: the target {self.target!r} has only one class, {classes[0]!r}: nothing to tell apart"
            )
        return classes

    def _targets(self, sheet: "Sheet") -> np.ndarray:
        texts = self._present(sheet)
        if self.kind == "regression":
            return np.array([sheet.number(at, self.target, text) for at, text in enumerate(texts)])
        place = {name: i for i, name in enumerate(self.class_names or [])}
        unknown = next((at for at, text in enumerate(texts) if text not in place), None)
        if unknown is not None:
            raise ValueError(
                f"{sheet.at(unknown, self.target)}: class {texts[unknown]!r} is none of {self.class_names}"
            )
        return np.array([place[text] for text in texts])

    def _learn(self, sheet: "Sheet", name: str, trains: np.ndarray, categorical: bool, most: int) -> "Column":
        texts = sheet.column(name)
        present = [at for at, text in enumerate(texts) if text not in self.missing]
        known = [texts[at] for at in present if trains[at]]
        if not known:
            raise ValueError(f"{sheet.path}: column {name!r} has no value in any training row: drop it, drop: [{name}]")
        odd = [at for at in present if number(texts[at]) is None]
        if not odd and not categorical:
            return Column(
                name, fill=float(np.mean([sheet.number(at, name, texts[at]) for at in present if trains[at]]))
            )
        categories = sorted(set(known))
        if len(categories) > most:
            what = (
                "" if categorical else f", the first that is no number at {sheet.at(odd[0], name)}: {texts[odd[0]]!r}"
            )
            raise ValueError(
                f"{sheet.path}: column {name!r} has {len(categories)} different texts, more than max_categories={most}{what}: "
                f"correct it, drop it, or allow more"
            )
        return Column(name, categories=categories)


@dataclass(frozen=True)
class Column:
    """How a column becomes features: a number with ``fill`` for a missing one, or one feature for each of ``categories``."""

    name: str
    fill: float = 0.0
    categories: list[str] | None = None

    @property
    def features(self) -> list[str]:
        """Their names."""
        return [self.name] if self.categories is None else [f"{self.name}={text}" for text in self.categories]

    def encode(self, sheet: "Sheet", missing: frozenset[str]) -> np.ndarray:
        """The features of a sheet's rows: ``(N, len(features))``."""
        texts = sheet.column(self.name)
        if self.categories is not None:
            return np.array(texts)[:, None] == np.array(self.categories)[None, :]
        values = [self.fill if t in missing else sheet.number(at, self.name, t) for at, t in enumerate(texts)]
        return np.array(values)[:, None]


@dataclass(frozen=True)
class Sheet:
    """The texts of a CSV file, and on which line each row ends."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    @classmethod
    def read(cls, path: Path, delimiter: str, encoding: str) -> "Sheet":
        """Read a file whose first line names the columns, all rows equally long."""
        if not path.is_file():
            raise FileNotFoundError(f"{path.absolute()} is no file: give the path of a CSV file")
        reader = csv.reader(io.StringIO(_text(path, delimiter, encoding), newline=""), delimiter=delimiter, strict=True)
        lines, rows = [], []
        try:
            for row in reader:
                if row:  # an empty line is none
                    rows.append([text.strip() for text in row])
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}: mind the quotes and the delimiter") from error
        if not rows:
            raise ValueError(f"{path} is empty, wanted a header and rows")
        sheet = cls(path, rows[0], rows[1:], lines[1:])
        sheet._check(delimiter)
        if not sheet.rows:
            raise ValueError(f"{path} has a header but no rows")
        return sheet

    def _check(self, delimiter: str) -> None:
        header = self.header
        for other in {";", "\t", "|", ","} - {delimiter}:
            if len(header) == 1 and other in header[0]:
                raise ValueError(
                    f"{self.path}, line 1: {header[0]!r} is one column: is the delimiter {other!r} instead of {delimiter!r}?"
                )
        if all(number(name) is not None for name in header):
            raise ValueError(f"{self.path}, line 1: the names of the columns are wanted, got the numbers {header}")
        for i, name in enumerate(header):
            if not name:
                raise ValueError(
                    f"{self.path}, line 1: column {i + 1} has no name (pandas writes its index so: index=False)"
                )
            if (first := header.index(name)) != i:
                raise ValueError(
                    f"{self.path}, line 1: columns {first + 1} and {i + 1} are both called {name!r}: rename one"
                )
        for row, line in zip(self.rows, self.lines, strict=True):
            if len(row) != len(header):
                raise ValueError(
                    f"{self.path}, line {line}: {len(row)} columns, but the header has {len(header)} (delimiter {delimiter!r})"
                )

    def column(self, name: str) -> list[str]:
        """All texts of a column."""
        if name not in self.header:
            raise ValueError(f"{self.path} has no column {name!r}, only {', '.join(map(repr, self.header))}")
        place = self.header.index(name)
        return [row[place] for row in self.rows]

    def at(self, row: int, name: str) -> str:
        """Where a value stands, for a message."""
        return f"{self.path}, line {self.lines[row]}, column {name!r}"

    def number(self, row: int, name: str, text: str) -> float:
        """A text of this place as a finite number."""
        value = number(text)
        if value is None or not abs(value) <= float(np.finfo(np.float32).max):
            raise ValueError(f"{self.at(row, name)}: a finite number is wanted, got {text!r}")
        return value


def number(text: str) -> float | None:
    """The number that a text is, or None; as in data files, not as in Python (no ``1_000``)."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _text(path: Path, delimiter: str, encoding: str) -> str:
    content = path.read_bytes()
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise ValueError(
            f"encoding must be one that Python knows, such as utf-8 or latin-1, got {encoding!r}"
        ) from error
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("latin-1")
        line = before.rpartition("\n")[2]
        raise ValueError(
            f"{path}, line {before.count(chr(10)) + 1}, column {line.count(delimiter) + 1}: byte "
            f"0x{content[error.start]:02x} is no {encoding}: give the file's encoding, such as latin-1 or utf-16"
        ) from error
