"""Map-style datasets of PyTorch."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset
from typing_extensions import override

from datamodules.arrays import column_statistics
from datamodules.base import DataModule
from datamodules.examples import Examples
from datamodules.splits import digest

_SAMPLE = 512  # number of training examples that mean and std are estimated from


class DatasetDataModule(DataModule):
    """Your own map-style datasets, whose items are ``(x, y)``.

    x is a tensor or an array of the same shape for all items (a dataset of PIL images needs a transform such as torchvision's
    ``ToTensor``). Floats become float32, uint8 is taken for pixels and becomes float32 in [0, 1], other integers are kept. y is an
    integer (a class), a vector of integers 0 and 1 (several labels), or one or more floats (regression).

    Random numbers that a transform draws from the global generators of torch, NumPy and Python are, in training, a function of
    (run seed, epoch, example), and in evaluation of the example: a stopped run continues exactly, with any number of workers and
    processes. This does not hold for a generator of the transform's own. Validation examples that are split off ``train`` go
    through its transform: give ``val`` if that augments.

    All targets must be known: they are taken from ``targets`` of the dataset, if there is no ``target_transform``; otherwise the
    dataset is read once. The ``fingerprint`` is that of the targets, the shape of x and the split, not of x, which may be random.

    Args:
        train: Training dataset, with ``__len__`` and ``__getitem__``.
        val: Validation dataset; None holds out ``val_fraction`` of ``train``.
        test: Test dataset.
        class_names: Names of the classes 0..K-1. Default: ``train.classes``, or "0", "1" ... up to the largest target.
        mean, std: Statistics of x, one number for each channel (its first dimension) or one for all; None computes them from up to
            512 training examples.
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`.

    Attributes:
        target_mean, target_std: For regression, statistics of the training targets, ``(K,)``, after ``setup("fit")``.

    Raises:
        TypeError: A dataset is not map-style, or has items of another form.
        ValueError: A dataset is empty, has labels out of their range, or items of different shapes.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = DatasetDataModule(TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 2), class_names=["cat", "dog"])
        >>> data.num_classes, data.input_shape
        (2, (1, 8, 8))
    """

    def __init__(
        self,
        train: Dataset,
        val: Dataset | None = None,
        test: Dataset | None = None,
        *,
        class_names: Sequence[str] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed, drop_last)
        if (mean is None) != (std is None):
            raise ValueError("mean and std must be given together: give both, or neither")
        given = {"train": train, "val": val, "test": test}
        self._given = {name: _checked(dataset, name) for name, dataset in given.items() if dataset is not None}
        self._statistics = None if mean is None else (torch.as_tensor(mean).float(), torch.as_tensor(std).float())
        self._y: dict[str, Tensor] = {}
        with isolate_rng(include_cuda=False):
            x, y = _item(train, 0, "train")
        self._first = y
        self.kind = "regression" if y.is_floating_point() else "classification"
        self.input_shape = tuple(x.shape)
        self.target_mean: Tensor | None = None
        self.target_std: Tensor | None = None
        self.num_outputs = max(y.numel(), 1)
        if not y.is_floating_point():
            names = getattr(train, "classes", None) if class_names is None else class_names
            count = y.numel() if y.ndim else int(self._targets("train").max()) + 1
            self.class_names = [str(name) for name in (range(count) if names is None else names)]
            self.num_outputs = len(self.class_names)
            if len(self.class_names) < (1 if y.ndim else 2) or (y.ndim and len(self.class_names) != len(y)):
                raise ValueError(f"{self.class_names} cannot be the classes of targets such as {y.tolist()}")
        elif class_names is not None:
            raise ValueError(
                f"class_names are for integer targets, but train has {y.tolist()}: amounts have no classes"
            )

    @property
    @override
    def has_test(self) -> bool:
        return "test" in self._given

    @override
    def examples(self, part: Literal["train", "test"]) -> "Items":
        if part == "test" and "test" not in self._given:
            raise ValueError("there is no test part: give DatasetDataModule a dataset as test")
        names = ["train", "val"] if part == "train" and "val" in self._given else [part]
        y = torch.cat([self._targets(name) for name in names])
        dataset = self._given[part] if len(names) == 1 else ConcatDataset([self._given[name] for name in names])
        return Items(dataset, y, self.input_shape, part)

    @override
    def validation_mask(self, examples: Examples) -> Tensor:
        if "val" not in self._given:
            return super().validation_mask(examples)
        return torch.arange(len(examples)) >= len(self._targets("train"))

    @override
    def describe(self, train: Examples) -> None:
        if train.y.is_floating_point():
            self.target_mean, self.target_std = column_statistics(train.y)
        if self._statistics is not None:
            self.mean, self.std = self._statistics
            return
        indices = torch.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).round().long()
        x = train.inputs(indices)
        if x.is_floating_point() and x.ndim > 1:
            self.mean, self.std = column_statistics(x.movedim(1, -1).flatten(0, -2))  # (N, C, ...) -> (N ..., C)

    def _targets(self, name: str) -> Tensor:
        """Return all targets of a dataset: ``(N,)``, or ``(N, K)``."""
        if name not in self._y:
            dataset: Any = self._given[name]
            y = _stored_targets(dataset)
            if y is None:
                y = Items(dataset, torch.zeros(len(dataset)), self.input_shape, name).targets()
            if y.shape[1:] != self._first.shape or y.is_floating_point() != self._first.is_floating_point():
                raise ValueError(
                    f"{name} has targets of {y.dtype} {tuple(y.shape[1:])}, the first of train is {self._first}"
                )
            self._y[name] = y
        y = self._y[name]
        top = 1 if y.ndim > 1 else math.inf if self.class_names is None else len(self.class_names) - 1
        wrong = ((y < 0) | (y > top)).flatten().nonzero()
        if len(wrong) and not y.is_floating_point():
            raise ValueError(
                f"the labels of {name} must lie in 0..{top} for the classes {self.class_names}, got "
                f"{y.flatten()[wrong[0]].item()}: number them from 0, or add the missing class names"
            )
        return y


class Items(Examples):
    """Chosen items of a dataset, read one by one.

    Args:
        dataset: Dataset with items ``(x, y)``.
        y: Targets of the chosen items.
        shape: Shape of each x.
        name: Name of the dataset, for errors.
        indices: Indices of the chosen items in the dataset; None chooses all.
    """

    def __init__(
        self, dataset: Any, y: Tensor, shape: tuple[int, ...], name: str, indices: Tensor | None = None
    ) -> None:
        super().__init__(torch.empty(0), y)
        self.dataset = dataset
        self.shape = shape
        self.name = name
        self.indices = torch.arange(len(y)) if indices is None else indices

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        x, y = zip(*self._read(index), strict=True)
        return torch.stack(x), torch.stack(y)

    @override
    def inputs(self, index: Tensor) -> Tensor:
        return torch.stack([x for x, _ in self._read(index)])

    def targets(self) -> Tensor:
        """Return the targets of all items, read one by one: ``(N,)``, or ``(N, K)``."""
        return torch.stack([self._read(index)[0][1] for index in torch.arange(len(self)).split(1)])

    def _read(self, index: Tensor) -> list[tuple[Tensor, Tensor]]:
        items: list[tuple[Tensor, Tensor]] = []
        with isolate_rng(include_cuda=False):
            for place in self.indices[index].tolist():
                self.seed(place)
                x, y = _item(self.dataset, place, self.name)
                if tuple(x.shape) != self.shape or (items and y.shape != items[0][1].shape):
                    raise ValueError(
                        f"{self.name}[{place}] has x {tuple(x.shape)} and y {tuple(y.shape)}, the first one x {self.shape}: "
                        f"all must have one shape; resize or pad in the dataset's transform"
                    )
                items.append((x, y))
        return items

    @override
    def subset(self, chosen: Tensor) -> "Items":
        return Items(self.dataset, self.y[chosen], self.shape, self.name, self.indices[chosen])

    @override
    def fingerprint(self, validates: Tensor) -> str:
        return digest(str(self.shape), self.y, validates)


def _checked(dataset: Any, name: str) -> Any:
    """Return a dataset whose items have indices.

    Raises:
        TypeError: It is not map-style.
        ValueError: It is empty.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{name} must be a map-style dataset (__len__ and __getitem__), whose examples have indices and so can be seen exactly "
            f"once in each epoch, got {type(dataset).__name__}: read a stream into a list, or write a loader of your own"
        )
    if not len(dataset):
        raise ValueError(f"{name} is empty: it must have examples (x, y)")
    return dataset


def _stored_targets(dataset: Any) -> Tensor | None:
    """Return the targets ``(N,)`` or ``(N, K)`` that a dataset has without being read; None if it has none."""
    targets = getattr(dataset, "targets", None)
    if targets is None or len(targets) != len(dataset) or getattr(dataset, "target_transform", None) is not None:
        return None
    try:
        y = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    return y.float().view(len(y), -1) if y.is_floating_point() else y.long()


def _item(dataset: Any, place: int, name: str) -> tuple[Tensor, Tensor]:
    """Return an example: x float32 (or integers) of any shape, y int64 or float32, ``()`` for a class, otherwise ``(K,)``."""
    item = dataset[place]
    where = f"{name}[{place}]"
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise TypeError(
            f"{where} must be a pair (x, y), got {type(item).__name__}: wrap the dataset so that it returns pairs"
        )
    try:
        x = torch.as_tensor(item[0])
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{where}: x must be a tensor or an array, got {type(item[0]).__name__}: give the dataset a transform that makes one, "
            f"such as torchvision.transforms.ToTensor()"
        ) from error
    if x.dtype == torch.uint8:
        x = x.float() / 255
    return x.float() if x.is_floating_point() else x, _target(item[1], where)


def _target(value: Any, where: str) -> Tensor:
    try:
        y = torch.as_tensor(value)
        if y.ndim > 1:
            raise ValueError(f"its shape is {tuple(y.shape)}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{where}: y must be an integer (a class) or numbers, got {type(value).__name__}: {error}"
        ) from error
    return y.float().view(-1) if y.is_floating_point() else y.long()
