"""Series in memory, each with a class or numbers, or with one at each of its times."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from datamodules.arrays import Kind, column_statistics, trained_dtype
from datamodules.base import DataModule
from datamodules.checks import check_share
from datamodules.examples import Examples, Series
from datamodules.samplers import SimilarLengthSampler
from datamodules.splits import held_out


class SequenceDataModule(DataModule):
    """Series in memory. A subclass sets the names and ``input_shape``, and defines :meth:`sequences`.

    Batches are ``(x, y)``: x float32 ``(B, T, D)`` where all series are equally long, otherwise a :class:`~datamodules.Series`,
    whose padding is cut to the longest of the batch. y belongs to the whole series (int64 ``(B,)`` for classification, float32
    ``(B, K)`` for regression) or, with ``in_step``, to each of its times (int64 ``(B, T)``, float32 ``(B, T, K)``, padded with 0).

    Where there is no test part, ``test_fraction`` of the series is split off, stratified by class, always with seed 0, so that it
    does not depend on ``split_seed``. The validation part is ``val_fraction`` of the rest.

    Args:
        test_fraction: Share of all series for the test part where there is none, in [0, 1).
        similar_lengths: Whether training batches are of series of similar length (see
            :class:`~datamodules.SimilarLengthSampler`); it changes nothing where all are equally long.
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`.

    Attributes:
        kind: "classification" or "regression".
        in_step: Whether each time has a target.
        input_shape: ``(T, D)``; T is the length of the longest series.
        mean, std: Statistics of the D numbers over all times of the training split, ``(D,)``, after ``setup("fit")``.
        target_mean, target_std: For regression, those of the targets in the training split, ``(K,)``, after ``setup("fit")``.
        class_counts: Number of series, with ``in_step`` of times, of each class in the training split, after ``setup("fit")``.

    Raises:
        ValueError: An argument is out of its range, or the series cannot be learned from.
        TypeError: An argument has another type.
    """

    kind: Kind = "classification"
    in_step: bool = False
    input_shape: tuple[int, ...]
    target_names: list[str] = ["target"]  # of regression

    def __init__(
        self,
        test_fraction: float = 0.2,
        similar_lengths: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed, drop_last)
        check_share("test_fraction", test_fraction, "all series")
        self.test_fraction = test_fraction
        self.similar_lengths = similar_lengths
        self.target_mean: Tensor | None = None
        self.target_std: Tensor | None = None

    # What a subclass defines ----------------------------------------------------------------------------------------

    def sequences(self) -> tuple[Any, Any]:
        """Return all series and their targets, without those of :meth:`test_sequences`.

        Shape:
            ``(N, T, D)`` or a :class:`~datamodules.Series`; ``(N,)``, ``(N, K)``, with ``in_step`` ``(N, T)``, ``(N, T, K)``.
        """
        raise TypeError(f"{type(self).__name__} must define sequences(), which returns its series and their targets")

    def test_sequences(self) -> tuple[Any, Any] | None:
        """Return the series of the test part and their targets; None if there are none."""
        return None

    # What is known before fit ---------------------------------------------------------------------------------------

    @property
    def num_outputs(self) -> int:
        """Number of outputs that a net needs: K classes, or K targets."""
        return len(self.target_names) if self.num_classes is None else self.num_classes

    @property
    @override
    def has_test(self) -> bool:
        return self.test_fraction > 0 or self.test_sequences() is not None

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        (x, y), test = self.sequences(), self.test_sequences()
        series = [checked_series(x, "the series")]
        if test is not None:
            series.append(checked_series(test[0], "the series of the test part"))
        dtype = trained_dtype(torch.cat([counted(each.values, each.lengths) for each in series]))
        steps = self.input_shape[0]
        equal = all(bool((each.lengths == steps).all()) for each in series)
        wanted: Series = series[-1] if part == "test" else series[0]
        y = self._checked_targets(test[1] if part == "test" and test is not None else y, wanted)
        if (got := tuple(wanted.values.shape[1:])) != tuple(self.input_shape):
            raise ValueError(f"{type(self).__name__} must give series of input_shape {self.input_shape}, got {got}")
        values = wanted.values.to(dtype)
        whole = Examples(values if equal else Series(values, wanted.lengths), y)
        if test is not None:
            return whole
        tests = held_out("test_fraction", self.test_fraction, len(whole), 0, self._checked_labels(whole))
        if part == "test" and not tests.any():
            raise ValueError("there is no test part: give test_fraction > 0, or test series")
        return whole.subset(tests if part == "test" else ~tests)

    def _checked_targets(self, y: Any, x: Series) -> Tensor:
        y = torch.as_tensor(y)
        y = y.long() if self.kind == "classification" else y.double()
        if self.kind == "regression" and y.ndim == 1 + self.in_step:
            y = y.unsqueeze(-1)
        wanted = (*x.values.shape[: 1 + self.in_step], *[self.num_outputs] * (self.kind == "regression"))
        if tuple(y.shape) != wanted:
            raise ValueError(
                f"{type(self).__name__} must give targets of shape {wanted}, one for each "
                f"{'time' if self.in_step else 'series'}, got {tuple(y.shape)}"
            )
        if not self.in_step:
            return y if self.kind == "classification" else y.to(trained_dtype(y))
        padding = torch.arange(y.shape[1]) >= x.lengths[:, None]
        y = y.masked_fill(padding.view(*padding.shape, *[1] * (y.ndim - 2)), 0)
        return y if self.kind == "classification" else y.to(trained_dtype(counted(y, x.lengths)))

    @override
    def describe(self, train: Examples) -> None:
        x = train.x if isinstance(train.x, Series) else Series(train.x, _full(train.x))
        self.mean, self.std = column_statistics(counted(x.values, x.lengths))
        y = counted(train.y, x.lengths) if self.in_step else train.y
        if self.kind == "regression":
            self.target_mean, self.target_std = column_statistics(y)
        elif self.in_step:
            self.class_counts = torch.bincount(y, minlength=self.num_outputs).tolist()

    # Batches --------------------------------------------------------------------------------------------------------

    @override
    def make_sampler(
        self, dataset: Examples, *, seed: int, epoch: int, start: int, num_replicas: int, rank: int
    ) -> Sampler[Any]:
        place = {"seed": seed, "epoch": epoch, "start": start, "num_replicas": num_replicas, "rank": rank}
        if not (self.similar_lengths and isinstance(dataset.x, Series)):
            return super().make_sampler(dataset, **place)
        return SimilarLengthSampler(dataset.x.lengths, self.batch_size, drop_last=self.drop_last, **place)

    @override
    def collate(self, batch: Any) -> Any:
        x, y, *weight = batch
        if not isinstance(x, Series):
            return batch
        longest = int(x.lengths.max())
        return (Series(x.values[:, :longest], x.lengths), y[:, :longest] if self.in_step else y, *weight)


def counted(values: Tensor, lengths: Tensor) -> Tensor:
    """Return what series have at their times, without the padding: ``(N, T, ...)`` -> ``(sum of lengths, ...)``."""
    return values[torch.arange(values.shape[1]) < lengths[:, None]]


def checked_series(x: Any, name: str) -> Series:
    """Return series whose padding is 0, with values of float64 or, if they are, of float32.

    Args:
        x: Numbers ``(N, T, D)``, or with ``values`` and ``lengths``.
        name: What they are called in errors.

    Raises:
        TypeError: They are no numbers, or the lengths no integers.
        ValueError: They have another shape, a length is out of its range, or a value is not finite.
    """
    values, lengths = (x.values, torch.as_tensor(x.lengths)) if isinstance(x, Series) else (x, None)
    try:
        values = torch.as_tensor(values)
        if values.is_complex():
            raise TypeError("complex numbers")
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f"an array of dtype {values.dtype}" if isinstance(values, np.ndarray | Tensor) else type(values).__name__
        raise TypeError(
            f"{name} must be numbers (series, times, numbers at a time), got {kind}: pad shorter series with 0 at the end, and "
            "give their lengths"
        ) from error
    if values.ndim != 3 or 0 in values.shape:
        cure = ": one number at each time is x[:, :, None]" if values.ndim == 2 else ""
        raise ValueError(
            f"{name} must have the shape (series, times, numbers at a time), not empty, got {tuple(values.shape)}{cure}"
        )
    values = values if values.dtype == torch.float32 else values.double()
    if lengths is None:
        lengths = _full(values)
    steps = values.shape[1]
    if lengths.shape != values.shape[:1]:
        raise ValueError(
            f"the lengths of {name} must be one for each of {len(values)}, got the shape {tuple(lengths.shape)}"
        )
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"the lengths of {name} must be integers, got {lengths.dtype}")
    lengths = lengths.long()
    wrong = ((lengths < 1) | (lengths > steps)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{name} has {steps} times, so lengths must lie in 1..{steps}, got {int(lengths[row])} in row {row}: "
            + ("remove the series, which is empty" if lengths[row] < 1 else "correct it")
        )
    beyond = torch.arange(steps) >= lengths[:, None]
    values = values.masked_fill(beyond[:, :, None], 0) if beyond.any() else values
    wrong = (~values.float().isfinite()).nonzero()
    if len(wrong):
        row, time, column = wrong[0].tolist()
        raise ValueError(
            f"{name} has {float(values[row, time, column])} in row {row}, time {time}, column {column} (of {len(wrong)} values "
            "that are not finite in float32): fill or remove them"
        )
    return Series(values, lengths)


def _full(values: Tensor) -> Tensor:
    """Return the lengths of series that are all as long as they can be."""
    return torch.full((len(values),), values.shape[1])
