"""Progress of a run: one line per epoch, and a progress bar on a terminal."""

import math
import re
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

from recipes.cli.console import Console


class StartDetector(Callback):
    """Detect that the first batch is done; an error before that is one of the setup.

    Args:
        on_train_start: Called when training is about to start.
        on_first_batch: Called when the first batch is done.

    Attributes:
        started: Whether a batch of training, validation or test is done, in a forked process, too.
    """

    def __init__(self, on_train_start: Callable[[], None], on_first_batch: Callable[[], None]) -> None:
        self._begun = False
        self._started = torch.zeros((), dtype=torch.bool).share_memory_()
        self._on_train_start, self._on_first_batch = on_train_start, on_first_batch

    @property
    def started(self) -> bool:
        return bool(self._started)

    def _start(self, trainer: Trainer) -> None:
        if self._begun:
            return
        self._on_first_batch()  # each process for itself
        self._begun = True
        self._started.fill_(True)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._on_train_start()

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._start(trainer)

    @override
    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not trainer.sanity_checking:
            self._start(trainer)

    @override
    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._start(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)  # a run may resume after the last batch of an epoch


class LogInterval(Callback):
    """Set the trainer's ``log_every_n_steps`` by the length of the run: some 300 rows, at most 1 in 50 steps, 20 an epoch.

    Lightning's 50 leaves a short run without a point, and its curves empty. A resumed run goes on with the interval of its
    checkpoint, whatever its new length, so that the rows of ``metrics.csv`` are evenly spaced.
    """

    def __init__(self) -> None:
        self.every: int | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every is None:
            epoch = trainer.num_training_batches / trainer.accumulate_grad_batches  # infinite for a stream
            run = trainer.estimated_stepping_batches
            longest = max(50, epoch // 20) if math.isfinite(epoch) else 50
            self.every = max(1, int(min(run / 300, longest)))
        trainer.log_every_n_steps = self.every  # type: ignore[attr-defined]

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"every": self.every}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.every = state_dict["every"]


class EpochLines(Callback):
    """Print one line per epoch: its metrics and duration.

    The module logs an epoch's means after the callbacks' end-of-epoch hooks, so the line is printed in the next hook.
    Validation metrics appear only in the line of the epoch in which validation ran.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._pending: int | None = None  # the epoch whose line is not printed yet
        self._begin = 0.0
        self._validated = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.console.silent |= not trainer.is_global_zero  # a process that was forked with the console of the first

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin = time.monotonic()  # of an epoch that is resumed in its middle, which does not start again

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)
        self._validated = False
        self._begin = time.monotonic()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pending = trainer.current_epoch

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)

    def _print_line(self, trainer: Trainer) -> None:
        if self._pending is None:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # val/iou/cat ... would fill the screen: they are in metrics.csv
        stages = "train|val" if self._validated else "train"
        shown = [name for name in values if re.fullmatch(rf"({stages})/[^/]+(?<!_step)", name)]
        metrics = "  ".join(f"{name} {values[name]:.4f}" for name in sorted(shown))
        of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        self.console.print(f"epoch {self._pending + 1}{of}  {metrics}  {time.monotonic() - self._begin:.1f} s")
        self._pending = None


class Progress(RichProgressBar):
    """Rich's progress bar without the logger's version number."""

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics
