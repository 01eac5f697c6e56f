"""Texts in a CSV file -> numbers: reading the file, and each column as it was learned."""

import csv
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")


def encode_rows(path: str | Path, preparation: Mapping[str, Any]) -> Tensor:
    """The features of a CSV file's rows, which needs no target: columns are found by their names, others do not matter.

    Args:
        path: the file.
        preparation: that of a table's datamodule (:attr:`~datamodules.TableDataModule.preparation`), or of a model trained on it.

    Shape:
        float32 ``(N, D)``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read, or without one of the columns; the message names line and column.
    """
    sheet = Sheet.read(Path(path), preparation["delimiter"], preparation["encoding"])
    columns = [Column(**column) for column in preparation["columns"]]
    return torch.from_numpy(encode_sheet(sheet, columns, preparation["missing"])).float()


def encode_sheet(sheet: "Sheet", columns: Collection["Column"], missing: Collection[str]) -> np.ndarray:
    """The features of a sheet: ``(N, D)``."""
    return np.concatenate([column.encode(sheet, missing) for column in columns], axis=1)


@dataclass(frozen=True)
class Column:
    """How a column becomes features: a number with ``fill`` for a missing one, or one feature for each of ``categories``.

    Args:
        name: in the header.
        fill: None where a missing number is refused.
        categories: None for a column of numbers.
    """

    name: str
    fill: float | None = None
    categories: list[str] | None = None

    @property
    def features(self) -> list[str]:
        """Their names."""
        return [self.name] if self.categories is None else [f"{self.name}={text}" for text in self.categories]

    def encode(self, sheet: "Sheet", missing: Collection[str]) -> np.ndarray:
        """The features of a sheet's rows: ``(N, len(features))``."""
        texts = sheet.column(self.name)
        if self.categories is not None:
            return np.array(texts)[:, None] == np.array(self.categories)[None, :]
        fill = self.fill
        values = [
            fill if fill is not None and t in missing else sheet.number(at, self.name, t) for at, t in enumerate(texts)
        ]
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
        _check_header(sheet, delimiter)
        if not sheet.rows:
            raise ValueError(f"{path} has a header but no rows")
        return sheet

    def column(self, name: str) -> list[str]:
        """All texts of a column."""
        if name not in self.header:
            raise ValueError(f"{self.path} has no column {name!r}, only {', '.join(map(repr, self.header))}")
        place = self.header.index(name)
        return [row[place] for row in self.rows]

    def at(self, row: int, name: str) -> str:
        """Where a value stands, for a message."""
        return f"{self.path}, line {self.lines[row]}, column {name!r}"

    def number(self, row: int, name: str, text: str, cure: str = "") -> float:
        """A text of this place as a finite number, or an error; ``cure``: what else could be done than to correct it."""
        value = number(text)
        if value is None or not abs(value) <= float(np.finfo(np.float32).max):
            how = ", decimals with a point" if value is None and like_number(text) else ""
            raise ValueError(f"{self.at(row, name)}: a finite number is wanted, got {text!r}: correct it{how}{cure}")
        return value


def _check_header(sheet: Sheet, delimiter: str) -> None:
    header = sheet.header
    for other in {";", "\t", "|", ","} - {delimiter}:
        if len(header) == 1 and other in header[0]:
            raise ValueError(
                f"{sheet.path}, line 1: {header[0]!r} is one column: is the delimiter {other!r} instead of {delimiter!r}?"
            )
    if all(number(name) is not None for name in header):
        raise ValueError(f"{sheet.path}, line 1: the names of the columns are wanted, got the numbers {header}")
    for i, name in enumerate(header):
        if not name:
            raise ValueError(
                f"{sheet.path}, line 1: column {i + 1} has no name (pandas writes its index so: index=False)"
            )
        if (first := header.index(name)) != i:
            raise ValueError(
                f"{sheet.path}, line 1: columns {first + 1} and {i + 1} are both called {name!r}: rename one"
            )
    for row, line in zip(sheet.rows, sheet.lines, strict=True):
        if len(row) != len(header):
            raise ValueError(
                f"{sheet.path}, line {line}: {len(row)} columns, but the header has {len(header)} (delimiter {delimiter!r})"
            )


def number(text: str) -> float | None:
    """The number that a text is, or None; as in data files, not as in Python (no ``1_000``)."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def like_number(text: str) -> bool:
    """Whether a text is a number, with a decimal comma too."""
    return number(text.replace(",", ".")) is not None


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
