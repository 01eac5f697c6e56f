"""Datasets of PyTorch's own kind: what becomes of their items, splits, exact resuming although they draw, errors."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import assert_resumes, quiet_trainer, record_batches, same_batches
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset

from datamodules import DatasetDataModule


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


class Given(list[Any]):
    """Items as they are."""


X = torch.randint(0, 256, (60, 3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(60) % 3
IMAGES = TensorDataset(X, LABELS)


class Noisy:
    """Draws from all three global generators."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = torch.tensor([float(torch.rand(())), random.random(), np.random.random()])  # noqa: NPY002
        return torch.cat([drawn, torch.tensor([float(index)])]), index % 3


def test_what_can_be_asked_before_fit() -> None:
    data = DatasetDataModule(IMAGES)
    assert (data.class_names, data.num_classes, data.num_outputs, data.input_shape) == (list("012"), 3, 3, (3, 4, 5))
    data = DatasetDataModule(Given([(np.zeros(4), 0.5)] * 9))
    assert (data.class_names, data.num_classes, data.num_outputs, data.input_shape) == (None, None, 1, (4,))
    data = DatasetDataModule(Given([([1.0, 2.0], [0, 1, 1])] * 9), class_names=["a", "b", "c"])
    assert (data.num_classes, data.num_outputs, data.input_shape) == (3, 3, (2,))


def test_every_item_is_in_one_split_with_its_own_target() -> None:
    data = DatasetDataModule(IMAGES, test=TensorDataset(X[:7], LABELS[:7]), val_fraction=0.2)
    data.setup()
    parts = data._parts
    assert {name: len(part) for name, part in parts.items()} == {"train": 48, "val": 12, "test": 7}
    assert (parts["val"].y.bincount().tolist(), data.class_counts) == ([4, 4, 4], [16, 16, 16])
    for part in parts.values():
        x, y = part.__getitems__(list(range(len(part))))
        at = (X[None] == (x * 255).round().byte()[:, None]).flatten(2).all(2).int().argmax(1)
        assert torch.equal(x, X[at] / 255)
        assert torch.equal(y, LABELS[at])
        assert torch.equal(y, part.y)
    train = torch.cat([x[None] for x, _ in (parts["train"][i] for i in range(48))])
    torch.testing.assert_close(data.mean, train.mean((0, 2, 3)))
    torch.testing.assert_close(data.std, train.std((0, 2, 3), correction=0))


def test_a_validation_part_that_is_given_is_the_validation_part() -> None:
    data = DatasetDataModule(IMAGES, val=TensorDataset(X[:5], LABELS[:5]), mean=0.5, std=[0.1, 0.2, 0.3])
    data.setup("fit")
    assert (len(data._parts["train"]), len(data._parts["val"])) == (60, 5)
    assert torch.equal(data._parts["val"].inputs(torch.arange(5)), X[:5] / 255)
    assert data.mean is not None
    assert (data.mean.item(), data.std.tolist()) == (0.5, pytest.approx([0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("y", "wanted", "shape"), [(2, torch.int64, ()), (0.5, torch.float32, (1,)), ([0.5, 1.0], torch.float32, (2,))]
)
def test_targets_of_every_kind(y: Any, wanted: torch.dtype, shape: tuple[int, ...]) -> None:
    items = Given([([1.0], 0 if y == 2 else y), ([2.0], 1 if y == 2 else y), ([3.0], y)] * 5)
    data = DatasetDataModule(items, val_fraction=0.0, batch_size=15)
    data.setup("fit")
    _, found = next(iter(data.train_dataloader()))
    assert (found.dtype, found.shape) == (wanted, (15, *shape))
    if wanted == torch.float32:
        torch.testing.assert_close(data.target_mean, torch.tensor(y).view(-1))


def test_several_labels_are_counted() -> None:
    data = DatasetDataModule(Given([([1.0], [1, 0]), ([2.0], [1, 1])] * 5), val_fraction=0.0)
    data.setup("fit")
    assert data.class_counts == [10, 5]


def test_targets_that_are_told_spare_a_reading() -> None:
    class Told(Noisy):
        targets = [index % 3 for index in range(60)]
        classes = ["a", "b", "c"]
        read = 0

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            Told.read += 1
            return super().__getitem__(index)

    data = DatasetDataModule(Told(), mean=0.0, std=1.0)
    data.setup("fit")
    assert (Told.read, data.class_names, data.class_counts) == (1, ["a", "b", "c"], [18, 18, 18])
    Told.target_transform = str  # type: ignore[attr-defined]
    DatasetDataModule(Told())
    assert Told.read == 1 + 1 + 60


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_dataset_draws_is_drawn_again_after_resuming(tmp_path: Path, workers: int) -> None:
    def make(workers: int = workers) -> DatasetDataModule:
        return DatasetDataModule(Noisy(), batch_size=9, num_workers=workers)

    seen = assert_resumes(tmp_path, make, step=8)
    assert len({*torch.cat([x[:, :3] for x, _ in seen]).flatten().tolist()}) == 12 * 9 * 3  # each epoch its own
    assert same_batches(seen, record_batches(make(0), max_epochs=2).seen["train"])


def test_evaluation_draws_the_same_each_time_and_nobody_elses_numbers_move() -> None:
    data = DatasetDataModule(Noisy(), test=Noisy())  # type: ignore[arg-type]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    data.setup("test")
    first, second = (list(data.test_dataloader()) for _ in range(2))
    assert same_batches(first, second)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_an_example_that_does_not_count_has_weight_zero() -> None:
    data = DatasetDataModule(IMAGES)
    data.setup("fit")
    x, y, weight = data._parts["val"].__getitems__([3, -1])
    assert (len(x), len(y), weight.tolist()) == (2, 2, [1.0, 0.0])


def test_the_fingerprint_tells_targets_and_split() -> None:
    def mark(y: Tensor = LABELS, **kwargs: Any) -> str | None:
        data = DatasetDataModule(TensorDataset(X, y), **kwargs)
        data.setup("fit")
        return data.fingerprint

    assert len({mark(), mark(LABELS.roll(1)), mark(split_seed=1), mark(val_fraction=0.2)}) == 4
    assert mark() == mark(num_workers=2, batch_size=3)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(2), 0)])


def pairs(*items: Any) -> Callable[[], Any]:
    return lambda: DatasetDataModule(Given(items)).setup("fit")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: DatasetDataModule(Stream()),
            TypeError,
            "train must be a map-style dataset .* got Stream: read a stream",
        ),
        (lambda: DatasetDataModule(IMAGES, test=3), TypeError, "test must be a map-style dataset .* got int"),  # type: ignore[arg-type]
        (pairs(), ValueError, "train is empty"),
        (pairs(torch.zeros(3)), TypeError, r"train\[0\] must be a pair \(x, y\), got Tensor"),
        (pairs((1, 2, 3)), TypeError, "must be a pair"),
        (pairs((Image.new("L", (3, 3)), 1)), TypeError, r"x must be a tensor or an array, got Image: .*ToTensor"),
        (pairs(([1.0], "cat")), TypeError, r"train\[0\]: y must be an integer \(a class\) or numbers, got str"),
        (pairs(([1.0], [[1]])), TypeError, r"got list: its shape is \(1, 1\)"),
        (
            pairs(([1.0], 0), ([1.0, 2.0], 1)),
            ValueError,
            r"train\[1\] has x \(2,\) .* the first one x \(1,\): all must",
        ),
        (pairs(([1.0], 0), ([1.0], 0)), ValueError, r"\['0'\] cannot be the classes"),
        (pairs(([1.0], 0), ([1.0], -1)), ValueError, "the labels of train must lie in 0.*, got -1"),
        (pairs(([1.0], [0, 2])), ValueError, r"the labels of train must lie in 0..1 .*, got 2"),
        (
            lambda: DatasetDataModule(IMAGES, class_names=["a", "b"]).setup("fit"),
            ValueError,
            "labels of train must lie in 0..1 .*, got 2",
        ),
        (
            lambda: DatasetDataModule(IMAGES, val=Given([(X[0], 0.5)])).setup("fit"),
            ValueError,
            "val has targets of torch.float32",
        ),
        (lambda: DatasetDataModule(Given([([1.0], 0.5)]), class_names=["a"]), ValueError, "amounts have no classes"),
        (lambda: DatasetDataModule(IMAGES, mean=0.5), ValueError, "mean and std must be given together"),
        (lambda: DatasetDataModule(IMAGES).setup("test"), ValueError, "there is no test part: give"),
    ],
)
def test_bad_datasets(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_training_and_testing_count_every_item() -> None:
    data = DatasetDataModule(IMAGES, test=IMAGES, batch_size=16)
    net = record_batches(data)
    quiet_trainer().test(net, datamodule=data, verbose=False)
    assert [sum(len(y) for _, y in net.seen[name]) for name in ("train", "val", "test")] == [48, 6, 60]
