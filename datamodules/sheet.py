"""CSV files as numbers: reading a file, and encoding its columns."""

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
    """Return the features of the rows of a CSV file. It needs no target; other columns are ignored.

    Args:
        path: The file.
        preparation: Encoding, from a datamodule (:attr:`~datamodules.TableDataModule.preparation`) or from a trained model.

    Returns:
        float64 ``(N, D)``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read or lacks a column; the message names line and column.
    """
    sheet = Sheet.read(Path(path), preparation["delimiter"], preparation["encoding"])
    columns = [Column(**column) for column in preparation["columns"]]
    return torch.from_numpy(encode_sheet(sheet, columns, preparation["missing"]))


def encode_sheet(sheet: "Sheet", columns: Collection["Column"], missing: Collection[str]) -> np.ndarray:
    """Return the features of a sheet: ``(N, D)``."""
    return np.concatenate([column.encode(sheet, missing) for column in columns], axis=1)


@dataclass(frozen=True)
class Column:
    """Encoding of a column: as one number, or as one feature for each of ``categories``.

    Args:
        name: Name in the header.
        fill: Replacement of a missing number; None refuses it.
        categories: None for a column of numbers.
    """

    name: str
    fill: float | None = None
    categories: list[str] | None = None

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        return [self.name] if self.categories is None else [f"{self.name}={text}" for text in self.categories]

    def encode(self, sheet: "Sheet", missing: Collection[str]) -> np.ndarray:
        """Return the features of a sheet's rows: ``(N, len(features))``."""
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
    """The texts of a CSV file, and the line that each row ends on."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    @classmethod
    def read(cls, path: Path, delimiter: str, encoding: str) -> "Sheet":
        """Read a file whose first line names the columns."""
        if not path.is_file():
            raise FileNotFoundError(f"{path.absolute()} is not a file: give the path of a CSV file")
        reader = csv.reader(io.StringIO(_text(path, delimiter, encoding), newline=""), delimiter=delimiter, strict=True)
        lines, rows = [], []
        try:
            for row in reader:
                if row:  # not an empty line
                    rows.append([text.strip() for text in row])
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}: check the quotes and the delimiter") from error
        if not rows:
            raise ValueError(f"{path} is empty: it must have a header and rows")
        sheet = cls(path, rows[0], rows[1:], lines[1:])
        _check_header(sheet, delimiter)
        if not sheet.rows:
            raise ValueError(f"{path} has a header but no rows")
        return sheet

    def column(self, name: str) -> list[str]:
        """Return the texts of a column."""
        if name not in self.header:
            raise ValueError(f"{self.path} has no column {name!r}, only {', '.join(map(repr, self.header))}")
        index = self.header.index(name)
        return [row[index] for row in self.rows]

    def at(self, row: int, name: str) -> str:
        """Return the position of a value, for messages."""
        return f"{self.path}, line {self.lines[row]}, column {name!r}"

    def number(self, row: int, name: str, text: str, cure: str = "") -> float:
        """Return a text of the sheet as a finite number.

        Raises:
            ValueError: It is not one; ``cure`` is added to the message.
        """
        value = number(text)
        if value is None or not abs(value) <= float(np.finfo(np.float32).max):
            how = ", decimals with a point" if value is None and like_number(text) else ""
            raise ValueError(f"{self.at(row, name)} must be a finite number, got {text!r}: correct it{how}{cure}")
        return value


def _check_header(sheet: Sheet, delimiter: str) -> None:
    header = sheet.header
    for other in {";", "\t", "|", ","} - {delimiter}:
        if len(header) == 1 and other in header[0]:
            raise ValueError(
                f"{sheet.path}, line 1: {header[0]!r} is one column: is the delimiter {other!r} instead of {delimiter!r}?"
            )
    if all(number(name) is not None for name in header):
        raise ValueError(f"{sheet.path}, line 1 must name the columns, got the numbers {header}: add a header")
    for i, name in enumerate(header):
        if not name:
            raise ValueError(
                f"{sheet.path}, line 1: column {i + 1} has no name: add one (pandas writes its index this way; give index=False)"
            )
        if (first := header.index(name)) != i:
            raise ValueError(
                f"{sheet.path}, line 1: columns {first + 1} and {i + 1} are both named {name!r}: rename one"
            )
    for row, line in zip(sheet.rows, sheet.lines, strict=True):
        if len(row) != len(header):
            raise ValueError(
                f"{sheet.path}, line {line}: {len(row)} columns, but the header has {len(header)} (delimiter {delimiter!r})"
            )


def number(text: str) -> float | None:
    """Return a text as a number, None if it is not one; unlike in Python, ``1_000`` is not."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def like_number(text: str) -> bool:
    """Whether a text is a number, also with a decimal comma."""
    return number(text.replace(",", ".")) is not None


def _text(path: Path, delimiter: str, encoding: str) -> str:
    content = path.read_bytes()
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise ValueError(f"encoding must be one of Python's, such as utf-8 or latin-1, got {encoding!r}") from error
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("latin-1")
        line = before.rpartition("\n")[2]
        raise ValueError(
            f"{path}, line {before.count(chr(10)) + 1}, column {line.count(delimiter) + 1}: byte "
            f"0x{content[error.start]:02x} is not valid {encoding}: give the file's encoding, such as latin-1 or utf-16"
        ) from error
