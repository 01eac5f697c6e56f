"""``drop_last=False``: the last batch of an epoch is short, and each training example is seen in each epoch."""

import inspect
import math
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
from kit import BatchRecorder, Memory, Patterns, quiet_trainer, record_batches, same_batches
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import TensorDataset

import datamodules
from callbacks import LRSchedule
from datamodules import (
    ArrayDataModule,
    DataModule,
    DatasetDataModule,
    MaskFolderDataModule,
    Multi30kDataModule,
    ShapesDataModule,
)
from zoo import ClassificationTask

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

X, Y = torch.arange(23.0)[:, None], torch.arange(23) % 2
MODULES = [
    value
    for name in datamodules.__all__
    if isinstance(value := getattr(datamodules, name), type) and issubclass(value, DataModule)
]


@pytest.mark.parametrize("cls", MODULES, ids=lambda cls: cls.__name__)
def test_every_data_module_takes_it(cls: type[DataModule]) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    skip = {"train", "val", "test"} if cls is DatasetDataModule else set()
    parser.add_class_arguments(cls, "data", skip=skip)
    parameters = inspect.signature(cls).parameters.values()
    named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    words = [f"--data.{name}=1" for name in ("x", "y", "root", "path", "target", "text") if name in named]
    words += ["--data.class_names=[a, b]"] if cls is MaskFolderDataModule else []
    words = [word for word in words if cls is not Multi30kDataModule or "target" not in word]  # a language
    assert parser.parse_args(words).data.drop_last is True
    assert parser.parse_args([*words, "--data.drop_last=false"]).data.drop_last is False
    assert "--data.drop_last" in parser.format_help()


def sizes(seen: list[Any]) -> list[int]:
    return [len(batch[1]) for batch in seen]


@pytest.mark.parametrize("batch_size", [10, 64])
def test_each_example_is_seen_once_an_epoch(batch_size: int) -> None:
    def given(drop_last: bool) -> list[DataModule]:
        how: dict[str, Any] = {"batch_size": batch_size, "drop_last": drop_last}
        return [
            ArrayDataModule(X, Y, X, Y, val_fraction=0, **how),
            DatasetDataModule(TensorDataset(X, Y), val_fraction=0, **how),
            ShapesDataModule(23, size=8, val_fraction=0, **how),
        ]

    full, rest = ([10, 10], [3]) if batch_size == 10 else ([], [23])
    for data in given(drop_last=False):
        seen = record_batches(data, max_epochs=2).seen["train"]
        assert sizes(seen) == [*full, *rest] * 2
        assert all(len(batch) == 2 for batch in seen)  # no weights in one process
        if not isinstance(data, ShapesDataModule):
            for epoch in (seen[: len(seen) // 2], seen[len(seen) // 2 :]):
                assert sorted(torch.cat([batch[0] for batch in epoch]).flatten().tolist()) == list(range(23))
    for data in given(drop_last=True):
        assert sizes(record_batches(data).seen["train"]) == (full or [23])


class Write(Callback):
    """Each rank writes the batches that it got, or its weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(exist_ok=True)
        what = pl_module.seen["train"] if isinstance(pl_module, BatchRecorder) else pl_module.state_dict()
        torch.save(what, self.folder / f"{trainer.global_rank}.pt")


def on_ranks(model: LightningModule, data: DataModule, folder: Path, ranks: int, **options: Any) -> list[Any]:
    seed_everything(3, verbose=False)
    quiet_trainer(Write(folder), ranks=ranks, **{"max_epochs": 2, **options}).fit(model, datamodule=data)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def test_a_rank_without_an_example_gets_one_that_does_not_count(tmp_path: Path) -> None:
    data = ArrayDataModule(X[:17], Y[:17], X, Y, val_fraction=0, batch_size=4, drop_last=False)
    first, second = on_ranks(BatchRecorder(), data, tmp_path, 2, max_epochs=1)
    assert sizes(first) == [4, 4, 1]
    assert sizes(second) == [4, 4, 1]
    assert [len(batch) for batch in first] == [2, 2, 2]
    assert [len(batch) for batch in second] == [2, 2, 3]
    assert second[-1][2].tolist() == [0]
    assert sorted(torch.cat([batch[0] for batch in [*first, *second[:2]]]).flatten().tolist()) == list(range(17))


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize(
    "global_batch", [8, 12, 16, 128]
)  # 69 images: 5, 9 (5 and 4) and 5 are left; less than a batch
def test_augmented_images_train_two_processes_like_one(tmp_path: Path, global_batch: int) -> None:
    ends = []
    for ranks in (1, 2):
        images: dict[str, Any] = {"val_fraction": 0, "crop": 1, "flip": True, "cutout": 2, "drop_last": False}
        torch.manual_seed(0)
        task = ClassificationTask(Net(), 3, lr=0.05, optimizer="SGD")
        data = Patterns(global_batch // ranks, **images)
        ends.append(on_ranks(task, data, tmp_path / str(ranks), ranks, precision="64-true"))
    (one,), (two, other) = ends
    assert all(torch.equal(two[name], other[name]) for name in two)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-9


def test_mixed_images_of_a_short_batch(tmp_path: Path) -> None:
    """One image has no partner; two processes train with the one that does not count."""
    data = Patterns(17, val_fraction=0, mixup=0.5, cutmix=0.5, drop_last=False)  # 69 = 4 * 17 + 1
    assert sizes(record_batches(data).seen["train"]) == [17] * 4 + [1]
    for end in on_ranks(ClassificationTask(Net(), 3), data, tmp_path, 2, max_epochs=1):
        assert all(value.isfinite().all() for value in end.values())


class Rates(Callback):
    """The learning rate of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_schedule_counts_the_short_batch(accumulate: int) -> None:
    data = Patterns(16, val_fraction=0, drop_last=False)  # four batches and a rest: five
    rates = Rates()
    trainer = quiet_trainer(
        LRSchedule(schedule="cosine"), rates, logger=Memory(), max_epochs=2, accumulate_grad_batches=accumulate
    )
    trainer.fit(ClassificationTask(Net(), 3, lr=0.01), datamodule=data)
    steps = 2 * math.ceil(5 / accumulate)
    assert trainer.global_step == trainer.estimated_stepping_batches == steps
    wanted = [0.005 * (1 + math.cos(math.pi * k / steps)) for k in range(steps)]
    done = [step for _ in range(2) for step in range(5)]  # of an epoch's batches
    places = [batch // accumulate + (steps // 2) * (i >= 5) for i, batch in enumerate(done)]
    assert rates.seen == pytest.approx([wanted[k] for k in places], abs=1e-9)


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
def test_overfitting_takes_the_first_batches_as_before() -> None:
    data = [Patterns(16, val_fraction=0, drop_last=drop_last) for drop_last in (True, False)]
    before, now = (record_batches(each, overfit_batches=2).seen["train"] for each in data)
    assert sizes(now) == [16, 16]
    assert same_batches(before, now)
