"""Stop on a signal, saved, so that the run can be continued as if nothing had happened."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from callbacks.internals import callbacks_of, can_resume_after_batch, go_on_with_next_epoch, is_ending, set_callbacks

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """Training was stopped by a signal and saved; uncaught, it ends the program with 128 + the signal's number.

    Args:
        signum: the signal: ``SIGTERM`` (code 143) or ``SIGINT`` (130).
        path: the checkpoint to resume from.
    """

    def __init__(self, signum: int, path: Path) -> None:
        super().__init__(128 + signum)
        self.path = path


class GracefulStop(Checkpoint):
    """On SIGTERM or SIGINT (Ctrl-C) save ``last.ckpt`` at the next step from which resuming is exact, and raise :class:`Stopped`.

    Stock Lightning ends on SIGTERM with exit code 0 and saves nothing. Here training goes on to the end of the first batch
    after which the optimizer has stepped (not inside an accumulation window) and no validation is due, or to the end of the
    epoch: a checkpoint from before a validation would skip it on resume. Values logged up to there still reach the loggers.
    A second SIGINT interrupts at once, without saving (KeyboardInterrupt). If training ends by itself before such a point
    (early stopping), it ends normally.

    With several processes, the signal may reach any of them: all stop together.

    Exactness takes more than this callback: :class:`~callbacks.RandomState`, and a loader that can start in mid-epoch such as
    those of our datamodules.

    Args:
        dirpath: folder of ``last.ckpt``.

    Raises:
        TypeError: ``dirpath`` is no path.

    Example:
        >>> GracefulStop("runs/digits/checkpoints").path.name
        'last.ckpt'
    """

    def __init__(self, dirpath: str | Path) -> None:
        if not isinstance(dirpath, str | Path):
            raise TypeError(f"dirpath must be a folder for last.ckpt, got {dirpath!r}")
        self.path = Path(dirpath) / "last.ckpt"
        self._signum: int | None = None  # the signal that came
        self._saved = False
        self._previous: dict[int, Any] = {}  # signal -> its handler before ours

    # Signals --------------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        if not self._previous and threading.current_thread() is threading.main_thread():
            self._signum, self._saved = None, False
            self._previous = {signum: signal.signal(signum, self._note) for signum in SIGNALS}

    def _give_signals_back(self) -> None:
        for signum, handler in self._previous.items():
            if signal.getsignal(signum) == self._note:
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._signum = self._signum or signum

    # Hooks ----------------------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Behind the other checkpoint callbacks: what they do at the end of an epoch must be done, and in our checkpoint.
        set_callbacks(trainer, [*(c for c in callbacks_of(trainer) if c is not self), self])

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_signals()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_signals()
        go_on_with_next_epoch(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if can_resume_after_batch(trainer):
            self._save_if_asked(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_if_asked(trainer)

    def _save_if_asked(self, trainer: Trainer) -> None:
        if not is_ending(trainer) and trainer.strategy.reduce_boolean_decision(self._signum is not None, all=False):
            trainer.save_checkpoint(self.path)
            self._saved = True

    # The exception waits for the next hook: between the save and that hook the loggers get what was logged.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._raise_if_saved()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._raise_if_saved()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._raise_if_saved()

    def _raise_if_saved(self) -> None:
        if self._saved:
            raise Stopped(self._signum or signal.SIGTERM, self.path)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._give_signals_back()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._give_signals_back()
