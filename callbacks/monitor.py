"""What the callbacks that measure share: when they measure, and when their values are read from the device and logged."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.checks import check_integer
from callbacks.internals import (
    is_fit_validation,
    is_window_end,
    leaves,
    log_every_n_steps,
    logged_step,
    row_is_due,
)


class Monitor(Callback):
    """Measure at an interval, keep the values on the device, and log them when the trainer writes a row.

    Each value is logged with the step at which it was measured. Values are read from the device once a row, so measuring at every
    step synchronizes no more often.

    Args:
        every_n_steps: Optimizer steps from one measurement to the next; by default those at which the trainer writes a row
            (``log_every_n_steps``, of which 0 turns the monitor off).

    Raises:
        ValueError: ``every_n_steps`` is out of its range.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None:  # None: the trainer's log_every_n_steps
            check_integer("every_n_steps", every_n_steps, 1)
        self.every_n_steps = every_n_steps
        self._pending: list[tuple[int, list[str], Tensor]] = []  # (step, names, values on the device), not logged yet

    def interval(self, trainer: Trainer) -> int:
        """Return the number of steps from one measurement to the next, 0 if nothing is logged."""
        log_every = log_every_n_steps(trainer)
        return log_every and (self.every_n_steps or log_every)

    def is_due(self, trainer: Trainer) -> bool:
        """Whether the step of this batch, or of its accumulation window, is measured."""
        interval = self.interval(trainer)
        return interval > 0 and (logged_step(trainer) + 1) % interval == 0

    def is_due_now(self, trainer: Trainer) -> bool:
        """Whether the step is measured, and this batch is the one that ends it."""
        return self.is_due(trainer) and is_window_end(trainer)

    def keep(self, trainer: Trainer, names: list[str], values: Tensor) -> None:
        """Keep the values ``(number of names,)`` of this step until the trainer writes a row."""
        self._pending.append((logged_step(trainer), names, values))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if row_is_due(trainer):
            self.log_pending(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.log_pending(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.log_pending(trainer)

    def log_pending(self, trainer: Trainer) -> None:
        """Send the pending values to the loggers, each row with its own step."""
        for step, row in self.take_pending().items():
            for logger in trainer.loggers:
                logger.log_metrics(row, step=step)
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in row.items()})

    def take_pending(self) -> dict[int, dict[str, float]]:
        """Return the pending values by step and name, and keep them no longer."""
        if not self._pending:
            return {}
        values = iter(
            torch.cat([values for *_, values in self._pending]).tolist()
        )  # the only synchronization with the device
        rows: dict[int, dict[str, float]] = {}
        for step, names, _ in self._pending:
            rows.setdefault(step, {}).update({name: next(values) for name in names})
        self._pending.clear()
        return rows


class TimedMonitor(Monitor):
    """A monitor with a clock that runs during training and stands still during validation and between epochs."""

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.seconds = 0.0  # up to the last start
        self._started: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether the clock runs."""
        return self._started is not None

    def lap(self) -> float:
        """Return the seconds since the last lap, and begin the next."""
        now = time.perf_counter()
        seconds = self.seconds + (now - self._started if self._started is not None else 0.0)
        self.seconds, self._started = 0.0, None if self._started is None else now
        return seconds

    def _start(self) -> None:
        if self._started is None:
            self._started = time.perf_counter()

    def _stop(self) -> None:
        if self._started is not None:
            self.seconds += time.perf_counter() - self._started
            self._started = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds, self._started = 0.0, None

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_fit_validation(trainer):
            self._stop()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_fit_validation(trainer):
            self._start()


def batch_size_of(batch: Any) -> int:
    """Return the number of examples of a batch: the length of its first tensor, 1 if it has none."""
    return next((len(part) for part in leaves(batch) if isinstance(part, Tensor) and part.ndim), 1)
