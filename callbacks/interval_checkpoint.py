"""Checkpoints within an epoch, by the clock or by steps."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from callbacks.checks import check_integer, check_seconds
from callbacks.internals import callbacks_of, can_resume_after_batch, can_resume_after_validation, set_callbacks


class IntervalCheckpoint(Checkpoint):
    """Save ``last.ckpt`` within epochs, so that a kill loses little: after a time, or a number of optimizer steps.

    A checkpoint is saved at the end of the first batch from which resuming is exact: the optimizer has stepped (an accumulation
    window is never cut: its gradients are in no file) and the epoch goes on; if a validation is due, after it. The time is counted
    from the last save of this callback or the last end of an epoch, at which others save. With several processes, the clock of the
    first decides, and tells the others at the ends of such batches.

    To resume exactly, a run also needs :class:`~callbacks.RandomState` and a loader that can start in mid-epoch, such as those of
    :class:`~datamodules.DataModule`.

    Args:
        dirpath: Folder of ``last.ckpt``.
        seconds: Time between two saves, above 0; None: ``steps`` counts.
        steps: Number of optimizer steps between two saves (in manual optimization: batches), 1 or more: it is saved as soon as
            their number has reached the next multiple.

    Raises:
        TypeError, ValueError: An argument is of another type or out of range, or not exactly one of the two is given.

    Example:
        >>> IntervalCheckpoint("runs/digits/checkpoints", seconds=600).path.name
        'last.ckpt'
    """

    def __init__(self, dirpath: str | Path, seconds: float | None = None, steps: int | None = None) -> None:
        if not isinstance(dirpath, str | Path):
            raise TypeError(f"dirpath must be the path of a folder for last.ckpt, got {dirpath!r}")
        if (seconds is None) == (steps is None):
            raise ValueError(f"give seconds or steps, one of the two; got seconds={seconds}, steps={steps}")
        if seconds is not None:
            check_seconds("seconds", seconds)
        else:
            check_integer("steps", steps, 1)
        self.path = Path(dirpath) / "last.ckpt"
        self.seconds, self.steps = seconds, steps
        self._saved_at, self._saved_step = 0.0, 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # after all others: what they do at the end of a batch must be in our checkpoint
        set_callbacks(trainer, [*(c for c in callbacks_of(trainer) if c is not self), self])

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count_from_now(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if can_resume_after_batch(trainer):
            self._save_if_due(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if can_resume_after_validation(trainer):
            self._save_if_due(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count_from_now(trainer)

    def _save_if_due(self, trainer: Trainer) -> None:
        if self._is_due(trainer):
            trainer.save_checkpoint(self.path)
            self._count_from_now(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        if self.steps is not None:
            return trainer.global_step // self.steps > self._saved_step // self.steps
        assert self.seconds is not None
        due = trainer.is_global_zero and time.monotonic() - self._saved_at >= self.seconds
        return trainer.strategy.reduce_boolean_decision(due, all=False)

    def _count_from_now(self, trainer: Trainer) -> None:
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
