"""Share of the time that training waits for data."""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from callbacks.internals import largest_over_ranks, watch_fetches
from callbacks.monitor import TimedMonitor


class DataWait(TimedMonitor):
    """Log ``data_wait``: the share of the training time since the last measurement that went into waiting for the next batch.

    Unit: none, in [0, 1]. Waiting is what ``next`` of the dataloader takes: with ``num_workers=0`` all of loading, with loading
    processes what they have not done in time. Training time is that of batches, without validation and what is between epochs. Of
    several ranks, it is the largest share, as the others wait for that rank. On a GPU that is not waited for, steps seem short
    to the host only until its queue is full, so a small interval may show too large a share.

    Healthy is near 0: above 0.1 the device is idle a tenth of the time; more loading processes or smaller images help (PyTorch,
    "Performance Tuning Guide").

    Args:
        every_n_steps: Optimizer steps from one measurement to the next; by default those at which the trainer writes a row
            (``log_every_n_steps``, of which 0 turns this callback off).

    Raises:
        ValueError: ``every_n_steps`` is out of its range.

    Example:
        >>> DataWait().every_n_steps is None
        True
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)
        self._waited = 0.0
        self._since: float | None = None  # when the wait that goes on has begun
        self._unwatch: Callable[[], None] | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._end_watch()
        self._waited = 0.0
        self._unwatch = watch_fetches(trainer, self._fetch_begins, self._fetch_ends)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_watch()
        super().on_train_end(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end_watch()
        super().on_exception(trainer, pl_module, exception)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.is_due_now(trainer):
            share = torch.tensor([min(self._waited / max(self.lap(), 1e-9), 1.0)], device=pl_module.device)
            self.keep(trainer, ["data_wait"], largest_over_ranks(trainer, share))
            self._waited = 0.0
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _fetch_begins(self) -> None:
        self._since = time.perf_counter() if self.is_running else None

    def _fetch_ends(self) -> None:
        if self._since is not None:
            self._waited += time.perf_counter() - self._since
        self._since = None

    def _end_watch(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
        self._unwatch = None
