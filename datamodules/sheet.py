"""CSV files as numbers: reading a file, and encoding its columns."""

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.written import DATE_PARTS, Form, parts_of

_SHOWN = 20  # columns that a message names
_PIECE = 2**17  # values read before they become numbers, or 64 rows: the texts of a large file would fill the memory
_LARGEST = float(np.finfo(np.float32).max)


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
    sheet = Sheet.read(Path(path), form, keep=[each.name for each in columns if each.categories or each.parts])
    blocks, unseen = [], {}
    for column in columns:
        blocks.append(column.encode(sheet))
        if new := column.unseen(sheet):
            unseen[column.name] = new
    return Rows(torch.from_numpy(np.concatenate(blocks, axis=1)), _remark(sheet, unseen))


def _remark(sheet: "Sheet", unseen: Mapping[str, list[int]]) -> str | None:
    if not unseen:
        return None
    rows = len(set().union(*unseen.values()))
    columns = []
    for name, places in list(unseen.items())[:3]:
        texts = Counter(sheet.texts(name)[at] for at in places)
        shown = ", ".join(f"{text!r}" for text, _ in texts.most_common(3)) + " ..." * (len(texts) > 3)
        columns.append(f"column {name!r} ({shown}; {len(places)} row{'s' * (len(places) > 1)})")
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

    def encode(self, sheet: "Sheet") -> np.ndarray:
        """Return the features of a sheet's rows: ``(N, len(features))``."""
        if self.categories is not None:
            return self._places(sheet)[:, None] == np.arange(len(self.categories))
        if self.parts is not None:
            values = dates(sheet, self.name, list(self.parts))
            return np.where(np.isnan(values), list(self.parts.values()), values)
        values = sheet.checked_numbers(self.name, missing=self.fill is not None)
        return (values if self.fill is None else np.where(np.isnan(values), self.fill, values))[:, None]

    def unseen(self, sheet: "Sheet") -> list[int]:
        """Return the rows that have a category, and none of ``categories``."""
        if self.categories is None:
            return []
        texts = sheet.texts(self.name)
        return [int(at) for at in np.flatnonzero(self._places(sheet) < 0) if texts[at] not in sheet.form.missing]

    def _places(self, sheet: "Sheet") -> np.ndarray:
        """Return the index of each row's category, -1 for none; numbers are compared as numbers."""
        form = sheet.form
        exact = {text: i for i, text in enumerate(self.categories or [])}
        equal = {form.canonical(text): i for text, i in exact.items()}
        texts = sheet.texts(self.name)
        place = {text: exact.get(text, equal.get(form.canonical(text), -1)) for text in set(texts)}
        place |= dict.fromkeys(form.missing, -1)
        return np.array([place[text] for text in texts])


@dataclass
class Sheet:
    """The values of a CSV file by column, and the line that each row ends on.

    Args:
        path: The file.
        form: How its values are written.
        header: Names of the columns.
        pieces: Pieces of each column: numbers with nan for what is missing, or the texts where not all are numbers.
        lines: Line of the file that each row ends on.
    """

    path: Path
    form: Form
    header: list[str]
    pieces: list[list[np.ndarray | tuple[str, ...]]]
    lines: list[int]
    _index: dict[str, int] = field(init=False, repr=False)
    _last: tuple[str, np.ndarray, np.ndarray] | None = field(init=False, repr=False, default=None)
    _texts: tuple[str, tuple[str, ...]] | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self._index = {name: i for i, name in enumerate(self.header)}

    def __len__(self) -> int:
        return len(self.lines)

    @classmethod
    def read(cls, path: Path, form: Form, keep: Collection[str] = ()) -> "Sheet":
        """Read a file whose first line names the columns.

        Args:
            path: The file.
            form: How its values are written.
            keep: Columns whose texts are needed even where they are numbers.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path.absolute()} is not a file: give the path of a CSV file")
        records = _records(path, form)
        _, header = next(records, (0, []))
        if not header:
            raise ValueError(f"{path} is empty: it must have a header and rows")
        _check_header(path, header, form.delimiter)
        lines: list[int] = []
        kept = [name in set(keep) for name in header]
        pieces: list[list[np.ndarray | tuple[str, ...]]] = [[] for _ in header]
        while part := list(islice(records, max(min(64, _PIECE), _PIECE // len(header)))):
            lines += [line for line, _ in part]
            for i, texts in enumerate(zip(*(row for _, row in part), strict=True)):
                values = None if kept[i] else _all_numbers(texts, form)
                pieces[i].append(texts if values is None else values)
        if not lines:
            raise ValueError(f"{path} has a header but no rows")
        return cls(path, form, header, pieces, lines)

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

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the texts of a column; where a piece of it was read as numbers, the file is read once more."""
        index = self.index(name)
        if self._texts is None or self._texts[0] != name:
            pieces = [piece for piece in self.pieces[index] if isinstance(piece, tuple)]
            if len(pieces) < len(self.pieces[index]):
                pieces = [tuple(row[index] for _, row in islice(_records(self.path, self.form), 1, None))]
            self._texts = name, tuple(chain.from_iterable(pieces))
        return self._texts[1]

    def at(self, row: int, name: str) -> str:
        """Return the position of a value, for messages."""
        return f"{self.path}, line {self.lines[row]}, column {name!r}"

    def numbers(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of a column, float64 ``(N,)``, nan where there is none; and the rows whose value is no number."""
        if self._last is None or self._last[0] != name:
            pieces = self.pieces[self.index(name)]
            values = np.concatenate([p if isinstance(p, np.ndarray) else _numbers(p, self.form) for p in pieces])
            odd = np.empty(0, int)
            if any(isinstance(piece, tuple) for piece in pieces):
                texts = self.texts(name)
                odd = np.array(
                    [at for at in np.flatnonzero(np.isnan(values)) if texts[at] not in self.form.missing], int
                )
            self._last = name, values, odd
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
        wrong = ~(np.abs(values) <= _LARGEST)
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
        texts = self.texts(name)
        options = self.form.hint(t for t in texts if t not in self.form.missing) or self.form.hint([texts[row]])
        how = f"give {options}" if options else "correct it"
        return ValueError(f"{self.at(row, name)} must be a finite number, got {texts[row]!r}: {how}{cure}")


def dates(sheet: Sheet, name: str, parts: Iterable[str]) -> np.ndarray:
    """Return parts of the dates of a column: float64 ``(N, len(parts))``, nan where a date is missing.

    Raises:
        ValueError: A value is no date.
    """
    texts, form = sheet.texts(name), sheet.form
    moments = {text: form.moment(text) for text in set(texts) - set(form.missing)}
    if None in moments.values():
        at = next(at for at, text in enumerate(texts) if moments.get(text, 0) is None)
        raise ValueError(
            f"{sheet.at(at, name)} must be a date such as 2024-01-31, got {texts[at]!r}: correct it, give date_format, or list "
            f"{name!r} in categorical or drop"
        )
    chosen = [DATE_PARTS.index(part) for part in parts]
    rows = {text: [parts_of(moment)[i] for i in chosen] for text, moment in moments.items() if moment is not None}
    rows |= {text: [np.nan] * len(chosen) for text in form.missing}
    return np.array([rows[text] for text in texts], dtype=np.float64)


def _numbers(texts: tuple[str, ...], form: Form) -> np.ndarray:
    """Return texts as numbers, nan for what is missing or no number."""
    missing, nan = form.missing, float("nan")
    if form.as_python:
        try:
            values = [nan if text in missing else float(text) for text in texts]
            if "_" not in "".join(texts):  # Python reads 1_000
                return np.array(values)
        except ValueError:
            pass  # not all are numbers, or some are written otherwise
    distinct = {text: nan if text in missing or (n := form.number(text)) is None else n for text in set(texts)}
    return np.array([distinct[text] for text in texts])


def _all_numbers(texts: tuple[str, ...], form: Form) -> np.ndarray | None:
    """Return texts as numbers, nan for what is missing; None if one is no finite number."""
    values = _numbers(texts, form)
    others = np.flatnonzero(~(np.abs(values) <= _LARGEST))
    return values if all(texts[at] in form.missing for at in others) else None


def _records(path: Path, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row ends, and its values, the header first; without empty lines."""
    _check_encoding(path, form)
    count = 0
    with path.open(encoding=form.encoding, newline="") as file:
        reader = csv.reader(_without_mark(file), delimiter=form.delimiter, strict=True)
        try:
            for row in reader:
                if not row:
                    continue
                count = count or len(row)
                if len(row) != count:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(row)} columns, but the header has {count} (delimiter "
                        f"{form.delimiter!r})"
                    )
                yield reader.line_num, [text.strip() for text in row]
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}: check the quotes and the delimiter") from error


def _without_mark(lines: Iterator[str]) -> Iterator[str]:
    yield next(lines, "").removeprefix("\ufeff")
    yield from lines


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    for other in {";", "\t", "|", ","} - {delimiter}:
        if len(header) == 1 and other in header[0]:
            raise ValueError(
                f"{path}, line 1: {header[0]!r} is one column: is the delimiter {other!r} instead of {delimiter!r}?"
            )
    if all(Form().number(name) is not None for name in header):
        raise ValueError(f"{path}, line 1 must name the columns, got the numbers {header[:_SHOWN]}: add a header")
    first: dict[str, int] = {}
    for i, name in enumerate(header):
        if not name:
            raise ValueError(
                f"{path}, line 1: column {i + 1} has no name: add one (pandas writes its index this way; give index=False)"
            )
        if name in first:
            raise ValueError(
                f"{path}, line 1: columns {first[name] + 1} and {i + 1} are both named {name!r}: rename one"
            )
        first[name] = i


def _check_encoding(path: Path, form: Form) -> None:
    content = path.read_bytes()
    try:
        content.decode(form.encoding)
    except LookupError as error:
        raise ValueError(
            f"encoding must be one of Python's, such as utf-8 or latin-1, got {form.encoding!r}"
        ) from error
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("latin-1")
        line = before.rpartition("\n")[2]
        raise ValueError(
            f"{path}, line {before.count(chr(10)) + 1}, column {line.count(form.delimiter) + 1}: byte "
            f"0x{content[error.start]:02x} is not valid {form.encoding}: give the file's encoding, such as latin-1 or utf-16"
        ) from error
