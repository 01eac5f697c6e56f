"""Any map-style dataset of PyTorch's, with our splits, our order of training and our evaluation."""

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

_SAMPLE = 512  # training examples that tell mean and std


class DatasetDataModule(DataModule):
    """Map-style datasets of your own: each item is ``(x, y)``.

    x is a tensor or an array, the same shape for all items (a dataset of PIL images wants a transform such as torchvision's
    ``ToTensor``); floats become float32, uint8 is taken for pixels and becomes float32 in [0, 1], other integers stay. y is an
    integer (a class), a vector of integers 0 and 1 (several labels), or one or more floats (regression).

    What a transform draws from the global generators of torch, NumPy and Python is in training a function of (run seed, epoch,
    example), and in evaluation of the example: a run that was stopped anywhere continues exactly, with any number of workers and
    processes. A generator of the transform's own is beyond that. Validation examples that are split off ``train`` go through its
    transform: give ``val`` where that augments.

    All targets must be known: a dataset with ``targets`` (and no ``target_transform``) tells them, any other is read through once.
    The ``fingerprint`` is that of the targets, the shape of x and the split, not of x, which a transform may draw.

    Args:
        train: what is trained on; with ``__len__`` and ``__getitem__``.
        val: validates; None holds out ``val_fraction`` of ``train``.
        test: tests.
        class_names: of the classes 0..K-1; None takes ``train.classes``, else "0", "1" ... as far as the targets go.
        mean, std: of x, a number a channel (its first dimension) or one for all; None measures up to 512 training examples.
        batch_size, num_workers, val_fraction, split_seed: as in :class:`~datamodules.DataModule`.

    Attributes:
        target_mean, target_std: regression: of the training targets, ``(K,)``, after ``setup("fit")``.

    Raises:
        TypeError: no map-style dataset, or items of another form.
        ValueError: an empty dataset, labels that are none, items of different shapes.

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
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed)
        if (mean is None) != (std is None):
            raise ValueError("mean and std belong together: give both, or neither")
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
        places = torch.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).round().long()
        x = train.inputs(places)
        if x.is_floating_point() and x.ndim > 1:
            self.mean, self.std = column_statistics(x.movedim(1, -1).flatten(0, -2))  # (N, C, ...) -> (N ..., C)

    def _targets(self, name: str) -> Tensor:
        """All targets of a dataset: ``(N,)``, or ``(N, K)``."""
        if name not in self._y:
            dataset: Any = self._given[name]
            y = _told(dataset)
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
                f"{name} has the label {y.flatten()[wrong[0]].item()}, wanted 0..{top} for the classes {self.class_names}: number "
                f"them from 0, or add the missing class names"
            )
        return y


class Items(Examples):
    """Some items of a dataset, read one by one.

    Args:
        dataset: with items ``(x, y)``.
        y: the targets of the chosen ones.
        shape: of each x.
        name: of the dataset, for errors.
        places: of the chosen ones in the dataset; None takes all.
    """

    def __init__(
        self, dataset: Any, y: Tensor, shape: tuple[int, ...], name: str, places: Tensor | None = None
    ) -> None:
        super().__init__(torch.empty(0), y)
        self.dataset = dataset
        self.shape = shape
        self.name = name
        self.places = torch.arange(len(y)) if places is None else places

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        x, y = zip(*self._read(index), strict=True)
        return torch.stack(x), torch.stack(y)

    @override
    def inputs(self, index: Tensor) -> Tensor:
        return torch.stack([x for x, _ in self._read(index)])

    def targets(self) -> Tensor:
        """The targets of all: ``(N,)``, or ``(N, K)``."""
        return torch.stack([self._read(index)[0][1] for index in torch.arange(len(self)).split(1)])

    def _read(self, index: Tensor) -> list[tuple[Tensor, Tensor]]:
        found: list[tuple[Tensor, Tensor]] = []
        with isolate_rng(include_cuda=False):
            for place in self.places[index].tolist():
                self.seed(place)
                x, y = _item(self.dataset, place, self.name)
                if tuple(x.shape) != self.shape or (found and y.shape != found[0][1].shape):
                    raise ValueError(
                        f"{self.name}[{place}] has x {tuple(x.shape)} and y {tuple(y.shape)}, the first one x {self.shape}: "
                        f"all must have one shape; resize or pad in the dataset's transform"
                    )
                found.append((x, y))
        return found

    @override
    def subset(self, chosen: Tensor) -> "Items":
        return Items(self.dataset, self.y[chosen], self.shape, self.name, self.places[chosen])

    @override
    def fingerprint(self, validates: Tensor) -> str:
        return digest(str(self.shape), self.y, validates)


def _checked(dataset: Any, name: str) -> Any:
    """A dataset that can be numbered."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{name} must be a map-style dataset (__len__ and __getitem__), whose examples can be numbered and so seen exactly "
            f"once an epoch, got {type(dataset).__name__}: read a stream into a list, or write a loader of your own"
        )
    if not len(dataset):
        raise ValueError(f"{name} is empty: wanted a dataset of examples (x, y)")
    return dataset


def _told(dataset: Any) -> Tensor | None:
    """The targets that a dataset tells without being read: ``(N,)`` or ``(N, K)``; else None."""
    told = getattr(dataset, "targets", None)
    if told is None or len(told) != len(dataset) or getattr(dataset, "target_transform", None) is not None:
        return None
    try:
        y = torch.as_tensor(told)
    except (TypeError, ValueError, RuntimeError):
        return None
    return y.float().view(len(y), -1) if y.is_floating_point() else y.long()


def _item(dataset: Any, place: int, name: str) -> tuple[Tensor, Tensor]:
    """One example: x float32 (or integers) of any shape, y int64 or float32: ``()`` for a class, else ``(K,)``."""
    item = dataset[place]
    where = f"{name}[{place}]"
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise TypeError(f"{where} must be a pair (x, y), got {type(item).__name__}: wrap the dataset to give pairs")
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
