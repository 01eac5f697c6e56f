"""Throughput, waiting and memory, by a clock that is moved by hand."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from kit import Memory, quiet_trainer
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from callbacks import DataWait, PeakMemory, Throughput
from callbacks import peak_memory as memory


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose only entry is the time."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


class Slow(IterableDataset):
    """Six batches of 2 to 7 examples, 3 s each."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def __iter__(self) -> Iterator[Tensor]:
        for size in range(2, 8):
            self.clock[0] += 3.0
            yield torch.ones(size, 1)


class Module(LightningModule):
    """A step of 5 s, a validation of 1000 s."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.fc, self.clock = nn.Linear(1, 1), clock

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.clock[0] += 5.0
        return self.fc(batch).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.clock[0] += 1000.0

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(clock: list[float], *callbacks: Any, **options: Any) -> Memory:
    logger = Memory()
    trainer = quiet_trainer(*callbacks, **({"max_epochs": 2, "logger": logger} | options))
    val = DataLoader(torch.ones(2, 1))
    trainer.fit(Module(clock), DataLoader(Slow(clock), batch_size=None), val)
    return logger


@pytest.mark.parametrize(
    "options", [{}, {"num_sanity_val_steps": 2}, {"val_check_interval": 3}, {"val_check_interval": 2}]
)
def test_waiting_is_the_share_of_loading_without_validation(clock: list[float], options: dict[str, Any]) -> None:
    logger = fit(clock, DataWait(every_n_steps=3), Throughput(every_n_steps=3), **options)
    assert [step for step, _ in logger.values("data_wait")] == [2, 5, 8, 11]
    # Lightning loads a batch ahead, before the first epoch starts, but within the second
    fetches = [3, 2, 4, 2]
    seconds = [15 + 3 * n for n in fetches]
    shares = [3 * n / s for n, s in zip(fetches, seconds, strict=True)]
    assert [value for _, value in logger.values("data_wait")] == pytest.approx(shares, rel=1e-5)
    rates = [n / s for n, s in zip([9, 18, 9, 18], seconds, strict=True)]
    assert [value for _, value in logger.values("throughput")] == pytest.approx(rates, rel=1e-5)


def test_throughput_counts_all_batches_of_a_window(clock: list[float]) -> None:
    logger = fit(clock, Throughput(), accumulate_grad_batches=3, max_epochs=1)
    assert [step for step, _ in logger.values("throughput")] == [0, 1]
    assert [value for _, value in logger.values("throughput")] == pytest.approx([9 / 24, 18 / 21], rel=1e-5)


def test_a_trainer_that_is_used_again_is_watched_once(clock: list[float]) -> None:
    trainer = quiet_trainer(DataWait(), max_epochs=1)
    trainer.fit(Module(clock), DataLoader(Slow(clock), batch_size=None), DataLoader(torch.ones(2, 1)))
    assert not {"_on_before_fetch", "_on_after_fetch"} & vars(trainer.fit_loop.epoch_loop).keys()


def test_memory_is_the_peak_of_the_process_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter(range(1, 20))
    monkeypatch.setattr(memory, "peak_memory", lambda device: next(used) * 2_000_000)
    logger = fit([0.0], PeakMemory(every_n_steps=3))
    assert logger.values("peak_memory") == [(2, 4.0), (5, 6.0), (8, 8.0), (11, 10.0)]
    monkeypatch.undo()
    cpu = torch.device("cpu")
    before = memory.peak_memory(cpu)
    block = torch.ones(60_000_000, dtype=torch.uint8) * 2
    assert before is not None
    assert (memory.peak_memory(cpu) or 0) >= before
    assert 50e6 < before < 100e9
    del block


def test_a_system_that_does_not_tell_its_memory_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "resource", None)
    assert not fit([0.0], PeakMemory()).values("peak_memory")
