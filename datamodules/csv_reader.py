"""Reading CSV files: by pyarrow where it is sure to read the same, otherwise by Python's ``csv``."""

import csv
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.written import Form

if TYPE_CHECKING:
    from pyarrow import StringArray

_Number = Callable[[str], float | None]
LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 20  # columns that a message names
_SMALL = 2**20  # bytes of a file that Python has read before pyarrow is imported
_CHUNK = 2**20  # characters that pyarrow gets at once, more where there are many columns
_PIECE = (
    2**17
)  # values that Python reads before they become numbers, or 64 rows: texts of a large file would fill the memory


@dataclass
class Values:
    """Values of a column, without the spaces around them.

    Args:
        pieces: For some rows after another, float64 numbers with nan for what is missing; or int32 indices in ``words``, where not
            all are numbers or the texts are needed.
        words: The different texts with their indices, in the order of their first rows.
    """

    pieces: list[np.ndarray] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)
    _room: np.ndarray = field(init=False, repr=False, default_factory=lambda: np.empty(0))

    def add(self, piece: np.ndarray, expected: int) -> None:
        """Add a copy of a piece to the last one, in memory for ``expected`` rows that is given back as soon as it is free."""
        start = len(self.pieces[-1]) if self.pieces else 0
        if len(self._room) < start + len(piece) or self._room.dtype != piece.dtype:
            size = max(expected, len(piece)) * piece.itemsize
            self._room, start = np.frombuffer(mmap.mmap(-1, size), piece.dtype), 0
        self._room[start : start + len(piece)] = piece
        self.pieces[-1 if start else len(self.pieces) :] = [self._room[: start + len(piece)]]

    def joined(self) -> np.ndarray:
        """Return all pieces, which are of one type, in one."""
        return self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)

    def add_words(self, texts: Sequence[str]) -> np.ndarray:
        """Return the indices of texts in ``words``, after adding the new ones."""
        return np.array([self.words.setdefault(text, len(self.words)) for text in texts], np.int32)


def read_header(path: Path, form: Form) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The first line does not name the columns.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is not a file: give the path of a CSV file")
    _, header = next(_rows(path, form), (0, []))
    if not header:
        raise ValueError(f"{path} is empty: it must have a header and rows")
    _check_header(path, header, form.delimiter)
    return header


def read_values(path: Path, form: Form, columns: Mapping[int, bool]) -> tuple[dict[int, Values], int]:
    """Return the values of columns, and the number of rows.

    Args:
        path: The file.
        form: How its values are written.
        columns: Indices of the columns, and for each whether its texts are needed even where they are numbers.

    Raises:
        ValueError: The file cannot be read; the message names the line.
    """
    values, count = (path.stat().st_size >= _SMALL and _read_by_arrow(path, form, columns)) or _read_by_python(
        path, form, columns
    )
    if not count:
        raise ValueError(f"{path} has a header but no rows")
    return values, count


def line_of(path: Path, form: Form, row: int) -> int:
    """Return the line on which a row ends."""
    return next(islice(_rows(path, form), row + 1, None))[0]


# By Python's csv -------------------------------------------------------------------------------------------------------


def _read_by_python(path: Path, form: Form, columns: Mapping[int, bool]) -> tuple[dict[int, Values], int]:
    _check_encoding(path, form)
    rows = _rows(path, form)
    _, header = next(rows)
    values = {i: Values() for i in columns}
    count = 0
    while part := [row for _, row in islice(rows, max(min(64, _PIECE), _PIECE // len(header)))]:
        count += len(part)
        for i, as_texts in columns.items():
            texts = [row[i] for row in part]
            numbers = None if as_texts else _all_numbers(texts, form, form.number)
            values[i].pieces.append(values[i].add_words(texts) if numbers is None else numbers)
    return values, count


def _all_numbers(texts: Sequence[str], form: Form, number: _Number) -> np.ndarray | None:
    """Return texts as numbers, nan for what is missing; None if one is no finite number."""
    missing, nan = form.missing, float("nan")
    numbers: list[float] = []
    with suppress(ValueError):  # not all are numbers, or some are written otherwise
        if form.as_python and "_" not in "".join(texts):  # Python reads 1_000
            numbers = [nan if text in missing else float(text) for text in texts]
    if not numbers:
        known = dict.fromkeys(form.missing, nan)
        for text in dict.fromkeys(texts):
            value = known.get(text) if text in known else number(text)
            if value is None:
                return None
            known[text] = value
        numbers = [known[text] for text in texts]
    values = np.array(numbers)
    others = np.flatnonzero(~(np.abs(values) <= LARGEST))
    return values if all(texts[at] in missing for at in others.tolist()) else None


def _rows(path: Path, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row ends, and its values, the header first; without empty lines."""
    count = 0
    try:
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
                            + f": put a value with {form.delimiter!r} in it in quotes"
                            * (len(row) > count)
                        )
                    yield reader.line_num, [text.strip() for text in row]
            except csv.Error as error:
                raise ValueError(
                    f"{path}, line {reader.line_num}: {error}: check the quotes and the delimiter"
                ) from error
    except (LookupError, UnicodeError):
        _check_encoding(path, form)
        raise


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
    try:
        with path.open(encoding=form.encoding, newline="") as file:
            while file.read(_CHUNK):
                pass
    except LookupError as error:
        raise ValueError(
            f"encoding must be one of Python's, such as utf-8 or latin-1, got {form.encoding!r}"
        ) from error
    except UnicodeError as error:
        content = path.read_bytes()
        try:
            content.decode(form.encoding)
        except UnicodeDecodeError as at:
            before = content[: at.start].decode("latin-1")
            line = before.rpartition("\n")[2]
            raise ValueError(
                f"{path}, line {before.count(chr(10)) + 1}, column {line.count(form.delimiter) + 1}: byte "
                f"0x{content[at.start]:02x} is not valid {form.encoding}: give the file's encoding, such as latin-1 or utf-16"
            ) from at
        raise ValueError(f"{path} is not {form.encoding}: {error}: give the file's encoding") from error


# By pyarrow ------------------------------------------------------------------------------------------------------------


class _InDoubtError(Exception):
    """Something that pyarrow may read otherwise than Python, or that is an error."""


def _read_by_arrow(path: Path, form: Form, columns: Mapping[int, bool]) -> tuple[dict[int, Values], int] | None:
    """Return what :func:`_read_by_python` returns; None for a file with anything that is in doubt."""
    import pyarrow
    from pyarrow import csv as arrow

    line, header = next(_rows(path, form))
    if line != 1 or not form.delimiter.isascii() or form.delimiter in '"\r\n\0':
        return None
    types = {str(i): pyarrow.string() for i in columns}
    to_strings = arrow.ConvertOptions(
        check_utf8=False, column_types=types, include_columns=list(types), strings_can_be_null=False
    )
    values = {i: Values() for i in columns}
    number = lru_cache(2**16)(form.number)  # the same texts come in many chunks
    count = 0
    try:
        missing = pyarrow.array(sorted(form.missing), pyarrow.string())
        for chunk in _chunks(path, form, min(max(_CHUNK, _CHUNK // 64 * len(header)), 2**24)):
            table = arrow.read_csv(
                pyarrow.BufferReader(chunk),
                arrow.ReadOptions(
                    use_threads=False, block_size=len(chunk) + 1, column_names=[str(i) for i in range(len(header))]
                ),
                arrow.ParseOptions(delimiter=form.delimiter, newlines_in_values=b'"' in chunk),
                to_strings,
            )
            count += table.num_rows
            for (i, as_texts), column in zip(columns.items(), table.columns, strict=True):
                texts = column.combine_chunks()
                were_words = values[i].pieces and values[i].pieces[-1].dtype != np.float64
                piece = None if as_texts or were_words else _arrow_numbers(texts, form, missing)
                if piece is None:
                    piece = _piece_of(texts, form, None if as_texts else number, values[i])
                values[i].add(piece, expected=int(1.1 * table.num_rows * path.stat().st_size / len(chunk)))
    except (_InDoubtError, UnicodeError, pyarrow.ArrowException):
        return None
    pyarrow.default_memory_pool().release_unused()
    return values, count


def _arrow_numbers(texts: "StringArray", form: Form, missing: "StringArray") -> np.ndarray | None:
    """Return texts as numbers, nan for what is missing; None where one is not plainly a finite number.

    pyarrow reads a text as Python does, or refuses it; only nan(1) and the like are no numbers for Python.
    """
    import pyarrow
    from pyarrow import compute

    if form.thousands is not None or form.units or form.decimal not in (".", ","):
        return None
    for trim in (False, True):
        trimmed = compute.ascii_trim(texts, " \t") if trim else texts
        known = compute.if_else(compute.is_in(trimmed, value_set=missing), None, trimmed)
        if form.decimal == ",":
            if compute.any(compute.match_substring(known, ".")).as_py():
                return None
            known = compute.replace_substring(known, ",", ".")
        with suppress(pyarrow.ArrowInvalid):
            numbers = compute.cast(known, pyarrow.float64()).to_numpy(zero_copy_only=False)
            finite = np.count_nonzero(np.abs(numbers) <= LARGEST)
            return numbers if finite + known.null_count == len(numbers) else None
    return None


def _piece_of(texts: "StringArray", form: Form, number: _Number | None, values: Values) -> np.ndarray:
    """Return a piece of a column, by its different texts; as indices without ``number``, which reads one as a number."""
    encoded = texts.dictionary_encode()
    words = [word.strip() for word in encoded.dictionary.to_pylist()]
    numbers = None if number is None else _all_numbers(words, form, number)
    return (values.add_words(words) if numbers is None else numbers)[encoded.indices.to_numpy()]


def _chunks(path: Path, form: Form, size: int) -> Iterator[bytes]:
    """Yield the rows after the header, some at a time, in UTF-8.

    Raises:
        _InDoubtError: Something may be read otherwise than by Python.
        UnicodeError: The text is not in the form's encoding.
    """
    with path.open(encoding=form.encoding, newline="") as file:
        if not file.readline().endswith("\n"):  # the header
            raise _InDoubtError
        text, rest = file.read(size), b""
        while text or rest:
            data = rest + text.encode()
            text = file.read(size)
            end = _end_of_rows(data, form.delimiter, is_last=not text)
            if data[:end].strip(b"\r\n"):
                yield data[:end]
            rest = data[end:]


def _end_of_rows(data: bytes, delimiter: str, is_last: bool) -> int:
    """Return the end of the last whole row of what begins with a row.

    Raises:
        _InDoubtError: A carriage return is not before a line feed, a quote neither around a value nor doubled in one, a value as
            long as Python may refuse, or a null character.
    """
    code = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(code == ord("\n")) + 1
    quotes = np.flatnonzero(code == ord('"')) if b'"' in data else np.empty(0, int)
    ends = ends[np.searchsorted(quotes, ends) % 2 == 0]  # the others are in quotes
    if is_last and (not len(ends) or ends[-1] < len(data)):
        ends = np.append(ends, len(data))
    if not len(ends):
        if len(data) > 2**25:
            raise _InDoubtError
        return 0
    end = int(ends[-1])
    quotes = quotes[quotes < end]
    if len(quotes):
        opens, closes = quotes[::2], quotes[1::2]
        beside = np.array([ord(delimiter), ord("\n"), ord('"'), ord("\r")])
        framed = np.append(code[:end], ord("\n"))  # framed[-1] is also what is before the first
        if (
            len(quotes) % 2
            or not np.isin(framed[opens - 1], beside[:3]).all()
            or not np.isin(framed[closes + 1], beside).all()
        ):
            raise _InDoubtError
    rows = data[:end]
    if b"\0" in rows or rows.count(b"\r") != rows.count(b"\r\n"):
        raise _InDoubtError
    limit = csv.field_size_limit()
    if np.diff(ends, prepend=0).max() > limit:  # a row; its values may be shorter
        breaks = np.flatnonzero((code[:end] == ord("\n")) | (code[:end] == ord(delimiter)))
        if len(quotes) or np.diff(breaks, prepend=0, append=end).max() > limit:
            raise _InDoubtError
    return end
