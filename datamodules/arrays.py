"""Tables in memory: rows of numbers with a class or numbers to predict."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_share
from datamodules.examples import Examples
from datamodules.splits import held_out

Kind = Literal["classification", "regression"]
_PART = 2**16  # rows that are looked at together: memory for a part of a large table


class TableDataModule(DataModule):
    """Rows of numbers in memory. A subclass sets the names and defines :meth:`table`.

    Batches are ``(x, y)``: x float32 in the table's own units (the task standardizes it with ``mean`` and ``std``), y int64
    ``(B,)`` for classification, float32 ``(B, K)`` in its own unit for regression. Where float32 would lose digits that matter
    beside a column's deviation (timestamps, say), x or y is float64, and so are its statistics.

    Where there is no test part, ``test_fraction`` of the rows is split off, stratified by class, always with seed 0, so that it
    does not depend on ``split_seed``. The validation part is ``val_fraction`` of the rest.

    Args:
        test_fraction: Share of all rows for the test part where the table has none, in [0, 1).
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`.

    Attributes:
        kind: "classification" or "regression".
        mean, std: Statistics of the columns in the training split, ``(D,)``, after ``setup("fit")``; std of a constant column is 1.
        target_mean, target_std: For regression, those of the targets in the training split, ``(K,)``, after ``setup("fit")``.
        class_counts, fingerprint: See :class:`~datamodules.DataModule`.

    Raises:
        ValueError: An argument is out of its range, or the table cannot be learned from.
        TypeError: An argument or the table has another type.
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
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed, drop_last)
        check_share("test_fraction", test_fraction, "all rows")
        self.test_fraction = test_fraction
        self._dtypes: list[torch.dtype] = []  # of x and y, once they are known
        self.target_mean: Tensor | None = None
        self.target_std: Tensor | None = None

    # What a subclass defines ----------------------------------------------------------------------------------------

    def table(self) -> tuple[Any, Any]:
        """Return all rows ``(N, D)`` and their targets, without those of :meth:`test_table`."""
        raise TypeError(f"{type(self).__name__} must define table(), which returns its rows and targets")

    def test_table(self) -> tuple[Any, Any] | None:
        """Return the rows and targets of the test part; None if the table has none."""
        return None

    # What is known before fit ---------------------------------------------------------------------------------------

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(D,)``, the number of columns."""
        return (len(self.feature_names),)

    @property
    def num_outputs(self) -> int:
        """Number of outputs that a net needs: K classes, or K targets."""
        return len(self.target_names) if self.num_classes is None else self.num_classes

    @property
    def preparation(self) -> dict[str, Any]:
        """How rows of a CSV file become x, as plain data for a model to save (see :func:`~datamodules.sheet.read_rows`)."""
        return {
            "columns": [{"name": name} for name in self.feature_names],
            "missing": [],
            "delimiter": ",",
            "encoding": "utf-8",
            "targets": self.target_names if self.kind == "regression" else [],
            **self.seen_in_training,
        }

    @property
    @override
    def has_test(self) -> bool:
        return self.test_fraction > 0 or self.test_table() is not None

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        x, y = self._checked(*self.table(), "the table")
        self._dtypes = self._dtypes or [trained_dtype(part) for part in (x, y)]
        test = self.test_table()
        if part == "test" and test is not None:
            x, y = self._checked(*test, "the test part")
        x, y = x.to(self._dtypes[0]), y.to(self._dtypes[1])
        rows = Examples(x, y)
        if test is not None:
            return rows
        tests = self.test_rows(rows)
        if part == "test" and not tests.any():
            raise ValueError("there is no test part: give test_fraction > 0, or test rows")
        return rows.subset(tests) if part == "test" else TableRows(x, y, ~tests)

    def test_rows(self, rows: Examples) -> Tensor:
        """Return the mask ``(N,)`` of the rows that are split off to test."""
        return held_out("test_fraction", self.test_fraction, len(rows), 0, self._checked_labels(rows))

    def _checked(self, x: Any, y: Any, name: str) -> tuple[Tensor, Tensor]:
        """Return features, float32 or float64 ``(N, D)``, and targets, int64 ``(N,)`` or float64 ``(N, K)``."""
        x = as_columns(x, name)
        if x.shape[1] != self.input_shape[0]:
            raise ValueError(
                f"{name} must have {self.input_shape[0]} columns, {self.feature_names}, got {x.shape[1]}: all parts need the same "
                "columns"
            )
        y = torch.as_tensor(y)
        y = y.long() if self.kind == "classification" else y.double().view(len(y), -1)
        if len(x) != len(y) or not len(x):
            raise ValueError(f"{name} must have one target for each row, got {len(x)} rows and {len(y)} targets")
        return x, y

    @override
    def describe(self, train: Examples) -> None:
        self.mean, self.std = column_statistics(train.x)
        ranges = [part.aminmax(dim=0) for part in train.x.split(_PART)]
        self.seen = torch.stack([low for low, _ in ranges]).amin(0), torch.stack([high for _, high in ranges]).amax(0)
        if self.kind == "regression":
            self.target_mean, self.target_std = column_statistics(train.y)


class TableRows(Examples):
    """Rows of a table, whose inputs are copied where they are asked for: a subset is copied once.

    Args:
        x: Features of all rows ``(N, D)``.
        y: Targets of all rows ``(N, ...)``.
        chosen: Mask ``(N,)`` of the rows.
    """

    def __init__(self, x: Tensor, y: Tensor, chosen: Tensor) -> None:
        self._table = x
        self._chosen = chosen
        self.y = y[chosen]

    @property
    def x(self) -> Tensor:
        """A copy of the features."""
        return self._table[self._chosen]

    @override
    def subset(self, chosen: Tensor) -> Examples:
        return Examples(self._table[self._chosen.masked_scatter(self._chosen, chosen)], self.y[chosen])


class ArrayDataModule(TableDataModule):
    """Your own arrays: features ``(N, D)`` and a target for each row.

    Args:
        x: Features ``(N, D)``: a NumPy array, a tensor or nested lists of numbers.
        y: Targets ``(N,)``: for classification, integers 0..K-1, or texts, which are the class names; for regression, numbers
            ``(N,)`` or ``(N, K)``.
        x_test, y_test: Test part of the same form; without it, ``test_fraction`` of the rows is split off.
        kind: Whether a class or numbers are predicted.
        class_names: Names of the classes 0..K-1. Default: the texts in y, sorted, or "0", "1" ...
        feature_names: Names of the columns. Default: "x0", "x1" ...
        **table: Arguments of :class:`~datamodules.TableDataModule`.

    Raises:
        ValueError: An array has another shape, values that are not finite, or a single class.
        TypeError: An array holds no numbers.

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
            raise ValueError("x_test and y_test must be given together: give both, or neither")
        self.kind = kind
        self._x = as_columns(x, "x", copy=True)
        columns = self._x.shape[1]
        self.feature_names = [f"x{i}" for i in range(columns)] if feature_names is None else list(feature_names)
        if len(self.feature_names) != columns or len(set(self.feature_names)) != columns:
            raise ValueError(
                f"feature_names must be {columns} different names, one for each column, got {self.feature_names}"
            )
        if kind == "regression":
            self._y = as_columns(y, "y", vector=True, copy=True)
            self.target_names = ["target"] if self._y.shape[1] == 1 else [f"y{i}" for i in range(self._y.shape[1])]
        else:
            self.class_names = classes_of(y, "y") if class_names is None else list(class_names)
            self._y = as_labels(y, self.class_names, "y")
        self._test: tuple[Tensor, Tensor] | None = None
        if x_test is not None:
            as_targets = (
                as_columns(y_test, "y_test", vector=True, copy=True)
                if kind == "regression"
                else as_labels(y_test, self.class_names, "y_test")
            )
            self._test = as_columns(x_test, "x_test", copy=True), as_targets
            if kind == "regression" and self._test[1].shape[1] != self._y.shape[1]:
                raise ValueError(
                    f"y_test must have as many targets in a row as y, {self._y.shape[1]}, got {self._test[1].shape[1]}"
                )
        for part in ("train", "test") if x_test is not None else ("train",):
            self.examples(part)  # checks that all shapes fit together

    @override
    def table(self) -> tuple[Tensor, Tensor]:
        return self._x, self._y

    @override
    def test_table(self) -> tuple[Tensor, Tensor] | None:
        return self._test


def as_columns(values: Any, name: str, vector: bool = False, copy: bool = False) -> Tensor:
    """Return numbers that are finite, in float32 too, as a tensor ``(N, D)`` of float64, or of float32 if they are.

    Args:
        values: Array, tensor or nested lists ``(N, D)``.
        name: What they are called in errors.
        vector: Whether ``(N,)`` is allowed, which becomes ``(N, 1)``.
        copy: Whether an array or tensor that is changed later shall not change the result.

    Raises:
        TypeError: They are no numbers, or no table of rows of one length.
        ValueError: They have another shape, or are not finite in float32.
    """
    try:
        if isinstance(values, Tensor):
            array = values.detach().cpu()
            array = array.to(torch.float32 if array.dtype == torch.float32 else torch.float64, copy=copy)
        else:
            dtype = np.float32 if getattr(values, "dtype", None) == np.float32 else np.float64
            numbers = np.asarray(values, dtype)
            array = torch.from_numpy(numbers.copy() if copy or not numbers.flags.writeable else numbers)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a table of numbers with rows of one length: {error}") from error
    if array.ndim == 1 and vector:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        cure = "; for images subclass ImageDataModule" if array.ndim == 4 else ""
        raise ValueError(
            f"{name} must be a table (rows, columns) that is not empty, got the shape {tuple(array.shape)}{cure}"
        )
    if not all(bool(part.float().isfinite().all()) for part in array.split(_PART)):
        wrong = (~array.float().isfinite()).nonzero()
        row, column = wrong[0].tolist()
        raise ValueError(
            f"{name} has {float(array[row, column])} in row {row}, column {column} (of {len(wrong)} values that are not finite "
            f"in float32): fill or remove them"
        )
    return array


def classes_of(y: Any, name: str) -> list[str]:
    """Return the class names in targets: texts, sorted, or the numbers 0..K-1.

    Raises:
        ValueError: Integers are not all of 0..K-1.
    """
    labels = _labels(y, name)
    values = sorted(set(labels.tolist()))
    if labels.dtype.kind == "i" and values != list(range(len(values))):
        raise ValueError(
            f"{name} must have all of the labels 0..K-1, got {', '.join(map(str, values[:5]))}{' ...' * (len(values) > 5)}: number "
            f'the classes from 0, give their names (texts, or class_names), or kind="regression" if they are amounts'
        )
    return [str(value) for value in values]


def as_labels(y: Any, class_names: list[str] | None, name: str) -> Tensor:
    """Return targets as int64 indices in ``class_names``: ``(N,)``.

    Raises:
        ValueError: There are fewer than two class names, or a target is none of them.
    """
    names = class_names or []
    if len(set(names)) != len(names) or len(names) < 2:
        raise ValueError(f"classification needs two or more different classes, got {names}")
    labels = _labels(y, name)
    if labels.dtype.kind != "i":
        place = {text: i for i, text in enumerate(names)}
        unknown = [text for text in labels.tolist() if text not in place]
        if unknown:
            raise ValueError(f"{name} has the class {unknown[0]!r}, which is not one of {names}")
        return torch.tensor([place[text] for text in labels.tolist()])
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(wrong):
        raise ValueError(
            f"the labels in {name} must lie in 0..{len(names) - 1} for {names}, got {labels[wrong[0]]} in row {wrong[0]}"
        )
    return torch.from_numpy(labels)


def _labels(y: Any, name: str) -> np.ndarray:
    """Return labels ``(N,)`` as int64 or texts."""
    labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"{name} must hold one label for each row, (N,), got the shape {labels.shape}")
    if labels.dtype.kind not in "fiub":
        return labels.astype(str)
    whole = labels.astype(np.int64) if np.isfinite(labels).all() else np.zeros(len(labels), np.int64)
    wrong = np.flatnonzero(labels != whole)
    if len(wrong):
        raise ValueError(
            f'{name} has {labels[wrong[0]]} in row {wrong[0]}, which is not a class: give labels 0..K-1, or kind="regression"'
        )
    return whole


def column_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (over N) of each column; the latter is 1 for a constant column.

    They are computed in float64, and come in float64 for columns of float64, else in float32.
    """
    mean, std = _statistics(x)
    return (mean, std) if x.dtype == torch.float64 else (mean.float(), std.float())


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    parts = x.split(_PART)
    constant = torch.stack([(part == x[:1]).all(0) for part in parts]).all(0)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(x)
    mean = torch.where(constant, x[0].double(), mean)  # without the rounding of the sum
    squares = torch.stack([(part - mean).square_().sum(0) for part in parts]).sum(0)  # in float64
    return mean, torch.where(constant, 1.0, (squares / len(x)).sqrt())


def held_by_float32(columns: Tensor) -> bool:
    """Whether columns ``(N, D)`` that are standardized in float32 come out right, to a ten-thousandth."""
    mean, std = _statistics(columns)
    shift = (mean - mean.float()).abs()
    precise = all(
        bool(((part - part.float()).abs() + shift <= 1e-4 * (std + (part - mean).abs())).all())
        for part in columns.split(_PART)
    )
    return precise and bool((std >= torch.finfo(torch.float32).tiny).all())


def trained_dtype(part: Tensor) -> torch.dtype:
    """Return the dtype in which features or targets are trained."""
    if not part.is_floating_point():
        return part.dtype
    return torch.float32 if held_by_float32(part) else torch.float64
