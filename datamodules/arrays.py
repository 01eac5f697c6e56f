"""Tables in memory: rows of numbers, with a class or numbers to predict; given as arrays, or by a subclass."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.examples import Examples
from datamodules.splits import held_out

Kind = Literal["classification", "regression"]


class TableDataModule(DataModule):
    """Rows of numbers in memory; a subclass sets the names and gives the :meth:`table`.

    Batches are ``(x, y)``: x float32 in the table's own units (the task standardizes it with ``mean`` and ``std``), y int64
    ``(B,)`` for classification, float32 ``(B, K)`` in its own unit for regression.

    A test part that is not given is split off: ``test_fraction`` of the rows, stratified by class, always with seed 0, so it
    stays the same whatever ``split_seed`` is. Validation is ``val_fraction`` of what is left.

    Args:
        test_fraction: share of all rows that test where there is no test part, in [0, 1).
        batch_size, num_workers, val_fraction, split_seed: as in :class:`~datamodules.DataModule`.

    Attributes:
        kind: "classification" or "regression".
        mean, std: of the columns in the training split, ``(D,)``, after ``setup("fit")``; a constant column has std 1.
        target_mean, target_std: regression: of the targets in the training split, ``(K,)``, after ``setup("fit")``.
        class_counts, fingerprint: as in :class:`~datamodules.DataModule`.

    Raises:
        ValueError, TypeError: an argument out of its range, or a table that cannot be learned from.
    """

    kind: Kind = "classification"
    feature_names: list[str] = []
    target_names: list[str] = ["target"]  # of regression

    def __init__(
        self,
        test_fraction: float = 0.2,
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed)
        if not 0 <= test_fraction < 1:
            raise ValueError(f"test_fraction is a share of all rows in [0, 1), got {test_fraction}")
        self.test_fraction = test_fraction
        self.target_mean: Tensor | None = None
        self.target_std: Tensor | None = None

    # What a subclass gives ------------------------------------------------------------------------------------------

    def table(self) -> tuple[Any, Any]:
        """All rows ``(N, D)`` and their targets; without those of :meth:`test_table`, if that is not None."""
        raise TypeError(f"{type(self).__name__} does not say where its rows come from: define table()")

    def test_table(self) -> tuple[Any, Any] | None:
        """The rows and targets of the test part, if there is one."""
        return None

    # What can be asked before fit -----------------------------------------------------------------------------------

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(D,), the number of columns."""
        return (len(self.feature_names),)

    @property
    def num_outputs(self) -> int:
        """Numbers that a net has to give for a row: K classes, or K targets."""
        return len(self.target_names) if self.num_classes is None else self.num_classes

    @property
    def preparation(self) -> dict[str, Any]:
        """How the rows of a CSV file become x, as plain data: a model remembers it (:func:`~datamodules.sheet.encode_rows`)."""
        return {
            "columns": [{"name": name} for name in self.feature_names],
            "missing": [],
            "delimiter": ",",
            "encoding": "utf-8",
            "targets": self.target_names if self.kind == "regression" else [],
        }

    @property
    @override
    def has_test(self) -> bool:
        return self.test_fraction > 0 or self.test_table() is not None

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        test = self.test_table()
        if part == "test" and test is not None:
            return self._checked(*test, "the test part")
        rows = self._checked(*self.table(), "the table")
        if test is not None:
            return rows
        tests = self.test_rows(rows)
        if part == "test" and not tests.any():
            raise ValueError("there is no test part: give test_fraction > 0, or test rows of their own")
        return rows.subset(tests if part == "test" else ~tests)

    def test_rows(self, rows: Examples) -> Tensor:
        """Return the mask ``(N,)`` of the rows that are split off to test."""
        return held_out("test_fraction", self.test_fraction, len(rows), 0, self._checked_labels(rows))

    def _checked(self, x: Any, y: Any, name: str) -> Examples:
        x = as_columns(x, name)
        if x.shape[1] != self.input_shape[0]:
            raise ValueError(f"{name} has {x.shape[1]} columns, wanted {self.input_shape[0]}: {self.feature_names}")
        y = torch.as_tensor(y)
        y = y.long() if self.kind == "classification" else y.float().view(len(y), -1)
        if len(x) != len(y) or not len(x):
            raise ValueError(f"{name} must have one target a row, got {len(x)} rows and {len(y)} targets")
        return Examples(x, y)

    @override
    def describe(self, train: Examples) -> None:
        self.mean, self.std = column_statistics(train.x)
        if self.kind == "regression":
            self.target_mean, self.target_std = column_statistics(train.y)


class ArrayDataModule(TableDataModule):
    """Arrays of your own: features ``(N, D)`` and a target a row.

    Args:
        x: features, numbers ``(N, D)``: a numpy array, a tensor, nested lists. They are kept as float32.
        y: targets ``(N,)``: for classification integers 0..K-1 or, with their names as the classes, texts; for regression
            numbers, ``(N,)`` or ``(N, K)``.
        x_test, y_test: the test part, of the same form; without it ``test_fraction`` of the rows is split off.
        kind: what is predicted: a class or numbers.
        class_names: of classes 0..K-1; else the texts in y, sorted, or "0", "1" ...
        feature_names: of the columns; else "x0", "x1" ...
        **table: those of :class:`~datamodules.TableDataModule`.

    Raises:
        ValueError, TypeError: arrays of other shapes or types, values that are not finite, a single class.

    Example:
        >>> data = ArrayDataModule([[0.0, 1.0], [1.0, 0.0]] * 20, ["cat", "dog"] * 20)
        >>> data.class_names, data.input_shape, data.num_outputs
        (['cat', 'dog'], (2,), 2)
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        x_test: Any = None,
        y_test: Any = None,
        *,
        kind: Kind = "classification",
        class_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        **table: Any,
    ) -> None:
        super().__init__(**table)
        if kind not in ("classification", "regression"):
            raise ValueError(f'kind must be "classification" or "regression", got {kind!r}')
        if (x_test is None) != (y_test is None):
            raise ValueError("x_test and y_test belong together: give both, or neither")
        self.kind = kind
        self._x = as_columns(x, "x")
        columns = self._x.shape[1]
        self.feature_names = [f"x{i}" for i in range(columns)] if feature_names is None else list(feature_names)
        if len(self.feature_names) != columns or len(set(self.feature_names)) != columns:
            raise ValueError(f"{columns} columns want as many different feature_names, got {self.feature_names}")
        if kind == "regression":
            self._y = as_columns(y, "y", vector=True)
            self.target_names = ["target"] if self._y.shape[1] == 1 else [f"y{i}" for i in range(self._y.shape[1])]
        else:
            self.class_names = classes_of(y, "y") if class_names is None else list(class_names)
            self._y = as_labels(y, self.class_names, "y")
        self._test: tuple[Tensor, Tensor] | None = None
        if x_test is not None:
            as_targets = (
                as_columns(y_test, "y_test", vector=True)
                if kind == "regression"
                else as_labels(y_test, self.class_names, "y_test")
            )
            self._test = as_columns(x_test, "x_test"), as_targets
            if kind == "regression" and self._test[1].shape[1] != self._y.shape[1]:
                raise ValueError(f"y has {self._y.shape[1]} targets a row, y_test {self._test[1].shape[1]}")
        for part in ("train", "test") if x_test is not None else ("train",):
            self.examples(part)  # that all shapes fit together is found here

    @override
    def table(self) -> tuple[Tensor, Tensor]:
        return self._x, self._y

    @override
    def test_table(self) -> tuple[Tensor, Tensor] | None:
        return self._test


def as_columns(values: Any, name: str, vector: bool = False) -> Tensor:
    """Finite numbers as a float32 tensor ``(N, D)``; ``vector`` allows ``(N,)``, which becomes ``(N, 1)``."""
    try:
        array = (
            values.detach().cpu().double()
            if isinstance(values, Tensor)
            else torch.from_numpy(np.array(values, np.float64))
        )
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers in a table of equally long rows: {error}") from error
    if array.ndim == 1 and vector:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        cure = "; for images subclass ImageDataModule" if array.ndim == 4 else ""
        raise ValueError(
            f"{name} must be a table (rows, columns) that is not empty, got the shape {tuple(array.shape)}{cure}"
        )
    wrong = (~array.float().isfinite()).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(
            f"{name} has {float(array[row, column])} in row {row}, column {column} (of {len(wrong)} values that are not finite "
            f"in float32): fill or remove them"
        )
    return array.float()


def classes_of(y: Any, name: str) -> list[str]:
    """The class names that the targets themselves tell: texts, sorted, or the numbers 0..K-1."""
    labels = _labels(y, name)
    found = sorted(set(labels.tolist()))
    if labels.dtype.kind == "i" and found != list(range(len(found))):
        raise ValueError(
            f"{name} has the labels {', '.join(map(str, found[:5]))}{' ...' * (len(found) > 5)}, wanted all of 0..K-1: number the "
            f'classes from 0, give class_names, or kind="regression" if they are amounts'
        )
    return [str(label) for label in found]


def as_labels(y: Any, class_names: list[str] | None, name: str) -> Tensor:
    """Targets as int64 places in ``class_names``: ``(N,)``."""
    names = class_names or []
    if len(set(names)) != len(names) or len(names) < 2:
        raise ValueError(
            f"classification wants two different classes or more, got {names}: what is there to tell apart?"
        )
    labels = _labels(y, name)
    if labels.dtype.kind != "i":
        place = {text: i for i, text in enumerate(names)}
        unknown = [text for text in labels.tolist() if text not in place]
        if unknown:
            raise ValueError(f"{name} has the class {unknown[0]!r}, which is none of {names}")
        return torch.tensor([place[text] for text in labels.tolist()])
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(wrong):
        raise ValueError(
            f"{name} has the label {labels[wrong[0]]} in row {wrong[0]}, wanted 0..{len(names) - 1} for {names}"
        )
    return torch.from_numpy(labels)


def _labels(y: Any, name: str) -> np.ndarray:
    """Labels ``(N,)`` as int64 or texts."""
    labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"{name} must hold one label a row, (N,), got the shape {labels.shape}")
    if labels.dtype.kind not in "fiub":
        return labels.astype(str)
    whole = labels.astype(np.int64) if np.isfinite(labels).all() else np.zeros(len(labels), np.int64)
    wrong = np.flatnonzero(labels != whole)
    if len(wrong):
        raise ValueError(
            f'{name} has {labels[wrong[0]]} in row {wrong[0]}, which is no class: give labels 0..K-1, or kind="regression"'
        )
    return whole


def column_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (over N) of each column, computed in float64; 1 for a constant column."""
    columns = x.double()
    mean, std = columns.mean(0), columns.std(0, correction=0)
    constant = (columns == columns[:1]).all(0)
    return mean.float(), torch.where(constant, 1.0, std).float()
