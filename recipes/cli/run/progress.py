"""What a user sees while training runs: a line an epoch, and on a terminal a progress bar."""

import re
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override

from recipes.cli.console import Console


class Started(Callback):
    """Know whether the work itself has begun: until the first batch is done, an error is one of setting up.

    Args:
        on_fit: called when a fit is set up, after a checkpoint to resume from has been taken up.
    """

    def __init__(self, on_fit: Callable[[], None]) -> None:
        self.yes = False
        self.on_fit = on_fit

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_fit()

    @override
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.yes = True

    @override
    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.yes = self.yes or not trainer.sanity_checking

    @override
    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.yes = True


class Lines(Callback):
    """Say one line an epoch: its metrics and how long it took.

    The module logs the means of an epoch after the callbacks' end-of-epoch hooks, so the line waits for the next hook. What
    validation found stands in the line of the epoch in which it ran.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._open: int | None = None  # the epoch whose line is to come
        self._begin = 0.0
        self._validated = False

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say(trainer)
        self._validated = False
        self._begin = time.monotonic()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open = trainer.current_epoch

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say(trainer)

    def _say(self, trainer: Trainer) -> None:
        if self._open is None:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # val/iou/cat ... would fill the screen: they are in metrics.csv
        stages = "train|val" if self._validated else "train"
        shown = [name for name in values if re.fullmatch(rf"({stages})/[^/]+(?<!_step)", name)]
        metrics = "  ".join(f"{name} {values[name]:.4f}" for name in sorted(shown))
        of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        self.console.say(f"epoch {self._open + 1}{of}  {metrics}  {time.monotonic() - self._begin:.1f} s")
        self._open = None


class Progress(RichProgressBar):
    """Rich's bar for the epoch that runs; the version number, which says nothing, is left out."""

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics
