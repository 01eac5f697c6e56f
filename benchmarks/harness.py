"""How the benchmarks measure: the variants take turns in one process, on one thread, and ratios are taken turn by turn.

Time is the CPU time of the one thread, so that a busy machine disturbs little; on a GPU it is the wall clock between two
synchronizations. A ratio is the median over the rounds with its range. Peak memory is read in a fresh process.
"""

import gc
import logging
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    peer: str
    comparison: str
    target: str
    met: bool | None  # None: no target, only for comparison


@dataclass(frozen=True)
class Spread:
    """The median of some rounds and their range."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def spread(values: Iterable[float]) -> Spread:
    """Median and range."""
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def ratio(ours: list[float], peer: list[float]) -> Spread:
    """Ours over peer, round by round."""
    return spread(a / b for a, b in zip(ours, peer, strict=True))


def difference(ours: list[float], peer: list[float]) -> Spread:
    """Ours less peer, round by round."""
    return spread(a - b for a, b in zip(ours, peer, strict=True))


def clock(device: str = "cpu") -> float:
    """Seconds of CPU time of this thread; on a GPU, of the wall clock once the device is idle."""
    if device == "cpu":
        return time.thread_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def alternate(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Let the variants take turns, each round starting with another one, after one round that does not count.

    Args:
        variants: by name, a function that does its work and returns the seconds it took.
        rounds: how many turns each has.
    """
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            seconds = variants[name]()
            if turn >= 0:
                times[name].append(seconds)
    return times


def quiet() -> None:
    """Nothing but the tables: no device report, no advice."""
    warnings.filterwarnings("ignore")
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)


class Repeat:
    """One batch, again and again: a loader that costs nothing."""

    def __init__(self, batch: tuple[torch.Tensor, ...], times: int) -> None:
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return (self.batch for _ in range(self.times))


class StepTimer(Callback):
    """Seconds a training step takes, the first ``warmup`` ones left out, from the start of a step to that of a later one."""

    def __init__(self, steps: int, warmup: int, device: str) -> None:
        self.steps, self.warmup, self.device = steps, warmup, device
        self.seconds = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Read the clock at both ends."""
        if batch_idx == self.warmup:
            self.seconds = -clock(self.device)
        elif batch_idx == self.warmup + self.steps:
            self.seconds = (self.seconds + clock(self.device)) / self.steps


def time_fit(
    module: LightningModule,
    batch: tuple[torch.Tensor, ...],
    steps: int,
    *,
    warmup: int = 5,
    device: str = "cpu",
    callbacks: Iterable[Callback] = (),
    **options: Any,
) -> float:
    """Seconds a step of ``Trainer.fit`` takes on one batch again and again, with a CSV logger and its usual interval.

    ``options`` are more of the trainer's.
    """
    quiet()
    timer = StepTimer(steps, warmup, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu" if device == "cpu" else "gpu",
            devices=1,
            max_epochs=1,
            logger=CSVLogger(folder),
            callbacks=[timer, *callbacks],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(module, Repeat(batch, warmup + steps + 1))
    return timer.seconds


def peak_memory(function: Callable[[str], Any], device: str) -> float:
    """MB that ``function(device)``, a module-level one, takes at its peak beyond what its process held before (Linux)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (function, device))


def _peak_memory(function: Callable[[str], Any], device: str) -> float:
    torch.set_num_threads(1)
    if device != "cpu":
        function(device)
        return torch.cuda.max_memory_allocated() / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    function(device)
    return (_status("VmHWM") - before) / 1e3


def _status(field: str) -> float:
    """A field of this process's status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field))
