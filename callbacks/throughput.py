"""Examples a second."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from callbacks.internals import sum_over_ranks
from callbacks.monitor import TimedMonitor, batch_size_of


class Throughput(TimedMonitor):
    """Log ``throughput``: training examples a second since the last measurement.

    Unit: examples / s, over all ranks and all batches of accumulation windows, by the clock of the first rank. Examples are the
    rows of a batch's first tensor. The clock runs while batches are loaded, trained and logged, and stands still during
    validation and between epochs. The first value includes the start (of loading processes, of kernels that are tuned). On a
    GPU, no step is waited for: the clock is read where the values before it were, which is exact over many steps.

    Healthy is a number that stays; compare it with that of a run without loading (one batch again and again).

    Args:
        every_n_steps: Optimizer steps from one measurement to the next; by default those at which the trainer writes a row
            (``log_every_n_steps``, of which 0 turns this callback off).

    Raises:
        ValueError: ``every_n_steps`` is out of its range.

    Example:
        >>> Throughput(every_n_steps=100).every_n_steps
        100
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)
        self._examples = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._examples = 0

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._examples += batch_size_of(batch)
        if self.is_due_now(trainer):
            examples = sum_over_ranks(trainer, torch.tensor([float(self._examples)], device=pl_module.device))
            self.keep(trainer, ["throughput"], examples / max(self.lap(), 1e-9))
            self._examples = 0
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
