"""Batch norm on one value a channel: refused before training where it can be known, explained where it cannot."""

import re
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from datamodules import ArrayDataModule
from zoo.tasks import ClassificationTask

pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers", "ignore:You defined a `validation_step` but have no"
)


def task(*layers: nn.Module, width: int = 3) -> ClassificationTask:
    model = ClassificationTask(nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2)), 2)
    shape = (1, 6, 6) if any(isinstance(layer, nn.Conv2d) for layer in layers) else (width,)
    model.net.eval()(torch.zeros(1, *shape))
    model.input_shape = shape
    return model


def rows(count: int, **options: Any) -> ArrayDataModule:
    x = torch.randn(count, 3)
    return ArrayDataModule(x, torch.arange(count) % 2, test_fraction=0, val_fraction=0, **options)


def images(count: int, batch_size: int, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(torch.rand(count, 1, 6, 6), torch.arange(count) % 2), batch_size, **options)


def fit(model: ClassificationTask, data: Any, **options: Any) -> int:
    loader = {"train_dataloaders": data} if isinstance(data, DataLoader) else {"datamodule": data}
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, **options)
    trainer.fit(model, **loader)
    return trainer.global_step


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (lambda: rows(8, batch_size=1), "data.batch_size is 1"),
        (lambda: DataLoader(TensorDataset(torch.rand(8, 3), torch.arange(8) % 2), 1), "data.batch_size is 1"),
        (
            lambda: DataLoader(TensorDataset(torch.rand(9, 3), torch.arange(9) % 2), 4),
            "9 examples in batches of 4 leave one of 1 (data.batch_size 4)",
        ),
        (
            lambda: rows(9, batch_size=4, drop_last=False),
            "9 examples in batches of 4 leave one of 1 (data.batch_size 4)",
        ),
    ],
)
def test_a_batch_of_one_is_refused_before_the_first_step(data: Any, what: str) -> None:
    model = task(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = model.net[0].weight.clone()
    words = (
        f"batch norm cannot train on one value a channel, which 1 of Sequential sees: {what}; take data.batch_size 2"
    )
    with pytest.raises(ValueError, match=re.escape(words)):
        fit(model, data())
    assert torch.equal(model.net[0].weight, before)
    assert model.net[1].num_batches_tracked == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("count", "left"), [(10, 2), (11, 3)])
def test_two_processes_that_share_a_short_batch(count: int, left: int) -> None:
    """Of three examples one process has one, of two each has one."""
    with pytest.raises(Exception, match=rf"{count} examples in batches of 8 leave one of {left} \(data.batch_size 4\)"):
        fit(task(nn.Linear(3, 4), nn.BatchNorm1d(4)), rows(count, batch_size=4, drop_last=False), ranks=2)


@pytest.mark.parametrize(
    "data", [lambda: images(8, 1), lambda: images(9, 4)], ids=["every batch has one", "the last batch has one"]
)
def test_maps_of_one_pixel_are_one_value_and_larger_maps_are_not(data: Any) -> None:
    convolution, norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
    with pytest.raises(ValueError, match=r"which 2 of Sequential sees"):
        fit(task(convolution, nn.AdaptiveAvgPool2d(1), norm), data())
    assert fit(task(convolution, norm), data()) == len(data())
    frozen = task(convolution, nn.AdaptiveAvgPool2d(1), norm)
    frozen.freeze(-1)  # the norm does not train
    assert fit(frozen, data()) == len(data())
    assert fit(task(convolution, nn.AdaptiveAvgPool2d(1), nn.GroupNorm(1, 4)), data()) == len(data())


def test_a_last_batch_that_is_not_reached_is_no_cause() -> None:
    model = task(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert fit(model, rows(9, batch_size=4, drop_last=False), limit_train_batches=2) == 2


def test_a_dropped_last_batch_is_no_cause() -> None:
    model = task(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert fit(model, rows(9, batch_size=4)) == 2
    data = TensorDataset(torch.rand(9, 3), torch.arange(9) % 2)
    assert fit(model, DataLoader(data, 4, drop_last=True)) == 2


class Batches(torch.utils.data.IterableDataset[tuple[Tensor, Tensor]]):
    """A stream of batches of 3, 3 and 1 examples, which nobody can know before."""

    def __iter__(self) -> Any:
        for count in (3, 3, 1):
            yield torch.rand(count, 3), torch.arange(count) % 2


def test_what_torch_refuses_is_explained() -> None:
    model = task(nn.Linear(3, 4), nn.BatchNorm1d(4))
    words = "which 1 of Sequential sees: a batch has one example; take data.batch_size 2 or more, data.drop_last true"
    with pytest.raises(ValueError, match=words) as raised:
        fit(model, DataLoader(Batches(), batch_size=None))
    assert "Expected more than 1 value per channel" in str(raised.value.__cause__)
