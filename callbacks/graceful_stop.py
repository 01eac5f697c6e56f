"""Save a checkpoint on a signal or after a time, and stop."""

import math
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from callbacks.checks import check_seconds
from callbacks.internals import (
    callbacks_of,
    can_resume_after_batch,
    go_on_with_next_epoch,
    is_ending,
    largest_over_ranks,
    set_callbacks,
)

# Windows has no SIGUSR1
SIGNALS = [signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class Stopped(SystemExit):
    """Raised when training was stopped and saved. Uncaught, it ends the program with exit code 128 + the signal's number.

    Args:
        signum: Number of the signal: ``SIGTERM`` (exit code 143), ``SIGINT`` (130) or ``SIGUSR1`` (138); 0 if the time was up
            (143, as if a scheduler had sent ``SIGTERM``).
        path: Checkpoint to resume from.

    Attributes:
        how: What has stopped it: "SIGTERM", "Ctrl-C", "SIGUSR1" or "the time limit".
        path: See above.
    """

    def __init__(self, signum: int, path: Path) -> None:
        super().__init__(128 + (signum or signal.SIGTERM))
        names = {0: "the time limit", signal.SIGINT: "Ctrl-C"}
        self.how = names[signum] if signum in names else signal.Signals(signum).name
        self.path = path
        self._signum = signum

    @override
    def __reduce__(self) -> tuple[type["Stopped"], tuple[int, Path]]:
        return type(self), (self._signum, self.path)


class GracefulStop(Checkpoint):
    """On SIGTERM, SIGINT (Ctrl-C) or SIGUSR1, or after a time, save ``last.ckpt`` and raise :class:`Stopped`.

    Lightning itself ends on SIGTERM with exit code 0 and saves nothing. With this callback, training goes on to the next step from
    which resuming is exact: the end of the first batch at which the optimizer has stepped (not inside an accumulation window) and
    no validation is due, or the end of the epoch; a checkpoint saved before a validation would skip it on resume. Values logged up
    to that point still reach the loggers. A second SIGINT interrupts at once without saving (KeyboardInterrupt). If training ends
    by itself before such a point (early stopping), it ends normally.

    A signal that the process ignores when training starts, as ``nohup ... &`` does, stays ignored.

    With several processes, the signal may reach any of them: all stop together. The time is that of the first process. The process
    that only waits for those that it has forked (``ddp_fork``) is none of them.

    To resume exactly, a run also needs :class:`~callbacks.RandomState` and a loader that can start in mid-epoch, such as those of
    :class:`~datamodules.DataModule`.

    Args:
        dirpath: Folder of ``last.ckpt``.
        time_limit: Seconds from now on, above 0, after which training stops as by a signal; None: no limit.

    Raises:
        TypeError, ValueError: ``dirpath`` is not a path, or the limit not a number above 0.

    Example:
        >>> GracefulStop("runs/digits/checkpoints").path.name
        'last.ckpt'
    """

    def __init__(self, dirpath: str | Path, time_limit: float | None = None) -> None:
        if not isinstance(dirpath, str | Path):
            raise TypeError(f"dirpath must be the path of a folder for last.ckpt, got {dirpath!r}")
        if time_limit is not None:
            check_seconds("time_limit", time_limit)
        self.path = Path(dirpath) / "last.ckpt"
        self._end = math.inf if time_limit is None else time.monotonic() + time_limit
        self._signum: int | None = None  # the signal received
        self._stopped_by: int | None = None  # that signal, 0 for the time limit, once it is saved
        self._previous: dict[int, Any] = {}  # signal -> its handler before the fit

    # Signals --------------------------------------------------------------------------------------------------------

    def _install_handlers(self) -> None:
        if not self._previous and threading.current_thread() is threading.main_thread():
            self._signum, self._stopped_by = None, None
            # what is ignored at the start, as in the background of a shell, stays ignored
            heard = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
            self._previous = {signum: signal.signal(signum, self._on_signal) for signum in heard}

    def _restore_handlers(self) -> None:
        for signum, handler in self._previous.items():
            if signal.getsignal(signum) == self._on_signal:
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.ask(signum)

    def ask(self, signum: int) -> None:
        """Ask a fit that is running to stop, as the signal of this number does; the first one counts."""
        self._signum = self._signum or signum

    # Hooks ----------------------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # After the other checkpoint callbacks: what they do at the end of an epoch must be in our checkpoint.
        set_callbacks(trainer, [*(c for c in callbacks_of(trainer) if c is not self), self])

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install_handlers()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install_handlers()
        go_on_with_next_epoch(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (self._asked(trainer) or trainer.world_size > 1) and can_resume_after_batch(trainer):
            self._save_if_asked(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_if_asked(trainer)

    def _asked(self, trainer: Trainer) -> int:
        """Return 0 to go on, 1 if the time is up, the signal's number + 1 after a signal."""
        if self._signum is not None:
            return self._signum + 1
        return int(trainer.is_global_zero and time.monotonic() >= self._end)

    def _save_if_asked(self, trainer: Trainer) -> None:
        if is_ending(trainer):
            return
        asked = torch.tensor(self._asked(trainer), device=trainer.strategy.root_device)
        if (asked_of_any := int(largest_over_ranks(trainer, asked))) > 0:
            trainer.save_checkpoint(self.path)
            self._stopped_by = asked_of_any - 1

    # The exception is raised in the next hook: between the save and that hook the trainer writes the logged values.

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
        if self._stopped_by is not None:
            raise Stopped(self._stopped_by, self.path)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore_handlers()
