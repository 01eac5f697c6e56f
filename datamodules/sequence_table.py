"""Your own series: a CSV file with a row for each, or arrays in an .npz file."""

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.arrays import Kind, as_columns, as_labels, classes_of
from datamodules.csv_reader import line_of, read_header
from datamodules.csv_target import classes_in, targets_in
from datamodules.examples import Series
from datamodules.sequence import SequenceDataModule, checked_series
from datamodules.sheet import Sheet
from datamodules.written import MISSING, Form


class SequenceTableDataModule(SequenceDataModule):
    """Series of your own, each with a class or numbers, or with one at each of its times.

    A CSV file has a row for each series: the columns ``t0``, ``t1`` ... hold its numbers in the order of time, and the column
    ``target`` its class or number. A row that is shorter ends in empty cells. Other columns are ignored.

    An .npz file (``numpy.savez(path, x=..., lengths=..., y=...)``) has the arrays ``x`` ``(N, T, D)``, D numbers at each time;
    ``lengths`` ``(N,)``, without which all series have T times (what is beyond the end is ignored); and ``target``: classes
    ``(N,)``, integers 0..K-1 or texts, or numbers ``(N,)`` or ``(N, K)``; with ``in_step``, classes ``(N, T)``, or numbers
    ``(N, T)`` or ``(N, T, K)``.

    Args:
        path: The file; one whose name ends in ``.npz`` holds arrays, any other is a CSV file with a header.
        target: Name of the column or array to predict.
        kind: Whether a class or numbers are predicted.
        in_step: Whether each time has a target (.npz files only).
        test: Another file of the same form as the test part; without it, ``test_fraction`` is split off.
        missing: Texts of a CSV file that stand for an empty cell.
        delimiter: Character between values of a CSV file; "\\t" for tabs.
        encoding: Encoding of a CSV file, by Python's name.
        decimal: Character before the decimals of numbers in a CSV file.
        **sequence: Arguments of :class:`~datamodules.SequenceDataModule`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read or learned from; the message names line and column, or array and row.
        TypeError: An array holds no numbers.

    Example:
        >>> from pathlib import Path
        >>> rows = ["t0,t1,t2,y", *["0.5,1,2,up", "3,1,,down"] * 10]
        >>> _ = Path("series.csv").write_text("\\n".join(rows))
        >>> data = SequenceTableDataModule("series.csv")
        >>> data.class_names, data.input_shape
        (['down', 'up'], (3, 1))
    """

    def __init__(
        self,
        path: str,
        target: str = "y",
        kind: Kind = "classification",
        in_step: bool = False,
        test: str | None = None,
        missing: Sequence[str] = MISSING,
        delimiter: str = ",",
        encoding: str = "utf-8",
        decimal: str = ".",
        **sequence: Any,
    ) -> None:
        super().__init__(**sequence)
        if kind not in ("classification", "regression"):
            raise ValueError(f'kind must be "classification" or "regression", got {kind!r}')
        self.kind = kind
        self.in_step = in_step
        self._path = str(path)
        self._form = Form(delimiter, encoding, missing, decimal)
        self._files = [self._read(name, target) for name in (path, test) if name is not None]
        (x, y), *others = self._files
        for other, y_test in others:
            if x.values.shape[2] != other.values.shape[2] or y.shape[1 + in_step :] != y_test.shape[1 + in_step :]:
                raise ValueError(
                    f"{test} must be like {path}: {x.values.shape[2]} numbers at a time and targets of shape "
                    f"{tuple(y.shape[1 + in_step :])}, got {other.values.shape[2]} and {tuple(y_test.shape[1 + in_step :])}"
                )
        longest = max(int(series.lengths.max()) for series, _ in self._files)
        self._files = [
            (Series(_resized(series.values, longest), series.lengths), _resized(y, longest) if in_step else y)
            for series, y in self._files
        ]
        self.input_shape = (longest, x.values.shape[2])
        if kind == "regression":
            count = y.shape[-1]
            self.target_names = [target] if count == 1 else [f"{target}{k}" for k in range(count)]

    @override
    def sequences(self) -> tuple[Series, Tensor]:
        return self._files[0]

    @override
    def test_sequences(self) -> tuple[Series, Tensor] | None:
        return self._files[1] if len(self._files) > 1 else None

    @property
    @override
    def input_file(self) -> str | None:
        return self._path

    @property
    def preparation(self) -> dict[str, Any]:
        """How a file becomes series, as plain data for a model to save (see :func:`read_series`)."""
        return self._form.plain()

    def _read(self, path: str, target: str) -> tuple[Series, Tensor]:
        """Return the series of a file and their targets: float64 ``(N, K)``, ``(N, T, K)``, or int64 ``(N,)``, ``(N, T)``."""
        if _is_arrays(path):
            arrays = _read_arrays(path, target)
            if target not in arrays:
                raise ValueError(f"{path} has no array {target!r} to predict, only {', '.join(arrays)}")
            return arrays["x"], self._targets(arrays[target], arrays["x"], f"{path}: {target}")
        if self.in_step:
            raise ValueError(
                f"in_step is for .npz files, which have a target for each time, not for {path}: a row of a CSV file has one"
            )
        x, sheet = _read_csv(path, self._form, target, as_text=self.kind == "classification")
        if self.kind == "classification" and self.class_names is None:
            self.class_names = classes_in(sheet, target)
        y = torch.from_numpy(targets_in(sheet, target, self.class_names))
        return x, y if self.kind == "classification" else y[:, None]

    def _targets(self, y: Any, x: Series, name: str) -> Tensor:
        steps = tuple(x.values.shape[: 1 + self.in_step])
        wanted = [steps] if self.kind == "classification" else [steps, (*steps, "K")]
        if tuple(y.shape[: len(steps)]) != steps or y.ndim not in map(len, wanted):
            shapes = " or ".join(str(shape).replace("'", "") for shape in wanted)
            cure = (
                ""
                if self.in_step or tuple(y.shape[:2]) != tuple(x.values.shape[:2])
                else ": or give in_step, if each time has one"
            )
            raise ValueError(f"{name} must have the shape {shapes}, got {y.shape}{cure}")
        values = _rows(y, x.lengths) if self.in_step else y
        if self.kind == "regression":
            numbers = as_columns(values, name, vector=True).double()
        else:
            self.class_names = self.class_names or classes_of(values, name)
            numbers = as_labels(values, self.class_names, name)
        if not self.in_step:
            return numbers
        padded = numbers.new_zeros(*steps, *numbers.shape[1:])
        padded[torch.arange(steps[1]) < x.lengths[:, None]] = numbers
        return padded


def read_series(path: str | Path, preparation: Mapping[str, Any]) -> Tensor | Series:
    """Return the series of a file, which needs no target: float64 ``(N, T, D)``, or a Series where they are not equally long.

    Args:
        path: The file, as for :class:`SequenceTableDataModule`.
        preparation: How it is written, from that datamodule or from a trained model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read; the message names line and column, or array and row.
        TypeError: An array holds no numbers.
    """
    path = str(path)
    x = _read_arrays(path)["x"] if _is_arrays(path) else _read_csv(path, Form.of(preparation))[0]
    longest = int(x.lengths.max())
    values = _resized(x.values, longest).double()
    return values if bool((x.lengths == longest).all()) else Series(values, x.lengths)


# CSV --------------------------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    x: Series
    sheet: Sheet


def _read_csv(path: str, form: Form, target: str | None = None, as_text: bool = False) -> _Table:
    """Return the series of a CSV file, and the file with its column ``target``, as texts or as numbers."""
    header = read_header(Path(path), form)
    known = {int(match[1]): match[0] for match in (re.fullmatch(r"t(0|[1-9]\d*)", name) for name in header) if match}
    names = [known[t] for t in range(len(known)) if t in known]
    if len(names) < len(known) or not names:
        lacks = next(t for t in range(len(known) + 1) if t not in known)
        also = f", but has t{max(known)}" if known else f", only {', '.join(map(repr, header[:20]))}"
        raise ValueError(f"{path} has no column 't{lacks}'{also}: name the columns of the numbers t0, t1, t2 ...")
    others = [] if target is None else [target]
    sheet = Sheet.read(Path(path), form, others if as_text else [], only=[*others, *names])
    for name in others:
        sheet.index(name)  # raises where there is none
    values = np.stack([sheet.checked_numbers(name, missing=True) for name in names], axis=1)  # (N, T)
    there = ~np.isnan(values)
    lengths = there.sum(1)
    if not lengths.all():
        line = line_of(Path(path), form, int(lengths.argmin()))
        raise ValueError(f"{path}, line {line}: the series has no number, and needs one or more: remove the row")
    gaps = np.argwhere(~there & (np.arange(len(names)) < lengths[:, None]))
    if len(gaps):
        row, time = gaps[0]
        raise ValueError(
            f"{sheet.at(int(row), names[time])} is empty, and a later time is not: only the end of a series may be; fill it in"
        )
    series = Series(torch.from_numpy(np.nan_to_num(values)[:, :, None]), torch.from_numpy(lengths))
    return _Table(series, sheet)


# Arrays -----------------------------------------------------------------------------------------------------------------


def _is_arrays(path: str) -> bool:
    return str(path).lower().endswith(".npz")


def _read_arrays(path: str, target: str | None = None) -> dict[str, Any]:
    """Return the series of an .npz file as "x", and the array ``target``, if there is one."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{Path(path).absolute()} is not a file: give the path of an .npz file")
    try:
        with zipfile.ZipFile(path):  # an .npy, or a pickle, is none
            pass
        with np.load(path, allow_pickle=False) as file:
            if "x" not in file.files:
                raise ValueError(f"{path} has no array 'x', only {', '.join(map(repr, file.files))}: {_HOW}")
            names = [name for name in ("x", "lengths", target) if name is not None and name in file.files]
            arrays: dict[str, Any] = {name: _array(file, name, path) for name in names}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as an .npz file ({error}): {_HOW}") from error
    lengths = arrays.pop("lengths", None)
    x = arrays["x"] if lengths is None else Series(arrays["x"], lengths)
    return {**arrays, "x": checked_series(x, f"{path}: x")}


_HOW = "write it with numpy.savez(path, x=..., lengths=..., y=...)"


def _array(file: Any, name: str, path: str) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:  # it would have to be unpickled
        raise TypeError(
            f"{path}: {name} is an array of dtype object, not of numbers: pad series of different lengths with 0 to (N, T, D), and "
            "give their lengths"
        ) from error


def _rows(y: np.ndarray, lengths: Tensor) -> np.ndarray:
    """Return the targets at the times of the series: ``(N, T, ...)`` -> ``(sum of lengths, ...)``."""
    return y[(torch.arange(y.shape[1]) < lengths[:, None]).numpy()]


def _resized(values: Tensor, steps: int) -> Tensor:
    """Return series cut or padded with 0 to a number of times: ``(N, T, ...)`` -> ``(N, steps, ...)``."""
    padding = values.new_zeros(len(values), max(steps - values.shape[1], 0), *values.shape[2:])
    return torch.cat([values[:, :steps], padding], dim=1)
