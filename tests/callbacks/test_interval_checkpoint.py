"""When it saves; resuming from what it saved is exact in tests/test_resume.py and tests/recipes/test_saving.py."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import IntervalCheckpoint

BATCHES = 7


class Model(LightningModule):
    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = self.weight * batch.sum()
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(torch.arange(float(BATCHES)))

    def val_dataloader(self) -> Any:
        return DataLoader(torch.arange(2.0))


class Saves(Callback):
    """The optimizer step and the batch of the epoch of each save."""

    def __init__(self) -> None:
        self.at: list[tuple[int, int]] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.at.append((trainer.global_step, trainer.fit_loop.epoch_loop.batch_idx))


def saves(folder: Path, manual: bool = False, ranks: int = 1, epochs: int = 2, **options: Any) -> list[tuple[int, int]]:
    keep = Saves()
    names = ("seconds", "steps")
    interval = IntervalCheckpoint(folder, **{name: options.pop(name) for name in names if name in options})
    quiet_trainer(interval, keep, max_epochs=epochs, ranks=ranks, **options).fit(Model(manual))
    return keep.at


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"steps": 1}, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]),  # at the end of an epoch others save
        ({"steps": 3}, [3, 6, 9, 12]),
        ({"steps": 4}, [4, 8, 12]),
        ({"steps": 7}, []),
        ({"steps": 5, "epochs": 3}, [5, 10, 15, 20]),
        ({"steps": 1, "accumulate_grad_batches": 2}, [1, 2, 3, 5, 6, 7]),
        ({"steps": 2, "accumulate_grad_batches": 3}, [2, 4]),
        ({"steps": 3, "val_check_interval": 3}, [3, 6, 9, 12]),  # after the validation
        ({"steps": 1, "val_check_interval": 1}, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]),
        ({"steps": 1, "val_check_interval": 1, "accumulate_grad_batches": 2}, [1, 2, 3, 5, 6, 7]),
        ({"steps": 3, "manual": True}, [3, 6, 9, 12]),
        ({"seconds": 1e-9}, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]),
        ({"seconds": 1e-9, "val_check_interval": 1, "accumulate_grad_batches": 2}, [1, 2, 3, 5, 6, 7]),
        ({"seconds": 1000.0}, []),
    ],
    ids=str,
)
def test_when_it_saves(tmp_path: Path, options: dict[str, Any], steps: list[int]) -> None:
    assert [step for step, _ in saves(tmp_path, **options)] == steps
    assert (tmp_path / "last.ckpt").is_file() is bool(steps)


def test_never_inside_an_accumulation_window(tmp_path: Path) -> None:
    """Its gradients are in no file."""
    batches = [batch for _, batch in saves(tmp_path, steps=1, accumulate_grad_batches=3, epochs=1)]
    assert [batch + 1 for batch in batches] == [3, 6]


def test_the_time_is_counted_from_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second a batch."""
    now = [0.0]

    class Clock(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            now[0] += 1.0

    keep = Saves()
    trainer = quiet_trainer(Clock(), IntervalCheckpoint(tmp_path, seconds=3.0), keep, max_epochs=2)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    trainer.fit(Model())
    assert [step for step, _ in keep.at] == [3, 6, 10, 13]  # an end of an epoch begins anew


class SlowOnTheSecond(Callback):
    """Only the second rank's clock says that it is time."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callback = next(c for c in trainer.callbacks if isinstance(c, IntervalCheckpoint))
        callback.seconds = 1e-9 if trainer.global_rank == self.rank else 1000.0

    def __init__(self, rank: int) -> None:
        self.rank = rank


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_ranks_clock_decides_for_all(tmp_path: Path, rank: int) -> None:
    """A rank that decided by itself would wait for the others in the save for ever."""
    interval = IntervalCheckpoint(tmp_path, seconds=1000.0)
    trainer = quiet_trainer(interval, SlowOnTheSecond(rank), max_epochs=1, ranks=2)
    trainer.fit(Model())
    assert (tmp_path / "last.ckpt").is_file() is (rank == 0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ValueError, "one of the two"),
        ({"seconds": 1.0, "steps": 1}, ValueError, "one of the two"),
        ({"seconds": 0}, ValueError, "above 0, got 0"),
        ({"seconds": math.nan}, ValueError, "above 0, got nan"),
        ({"seconds": "10m"}, TypeError, "number of seconds, got '10m'"),
        ({"steps": 0}, ValueError, "steps must be >= 1, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"dirpath": 3, "steps": 1}, TypeError, "dirpath must be the path"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        IntervalCheckpoint(**{"dirpath": "x", **options})
