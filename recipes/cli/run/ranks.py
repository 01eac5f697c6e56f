"""The processes that Lightning forks for a run (``ddp_fork``): they fail, stop and end as one process does.

The process that forks them only waits. What ends one of them is raised here as if it had happened here; a signal that reaches this
process alone, as that of ``kill PID``, of a service manager or to a container's first process, is passed on to those that train.
"""

import contextlib
import itertools
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException
from typing_extensions import override

from callbacks import GracefulStop
from recipes.cli.errors import TRACEBACK, MachineError, UserError, causes, formatted
from recipes.cli.run.hooks import leave_out_empty_hooks
from recipes.cli.run.internals import forked_processes, in_forked_processes, start_method
from recipes.cli.run.signals import KILL, end_with_parent, handling_signals

_KINDS = (
    OSError,
    KeyError,
    ImportError,
    ValueError,
    TypeError,
)  # of errors, as they are told apart in recipes.cli.errors


class Killed(MachineError):
    """A process of a run was killed."""


class Ranks:
    """The forked processes of a trainer; none, if it forks none.

    Args:
        trainer: The trainer.

    Raises:
        UserError: It starts processes in another way, to which the parts of a run cannot be sent.
    """

    def __init__(self, trainer: Trainer) -> None:
        method = start_method(trainer)
        if method not in (None, "fork"):
            raise UserError(
                f"trainer.strategy starts its processes by {method!r}, to which a run cannot be sent: give ddp_fork, or ddp"
            )
        self._trainer = trainer
        self.forked = method is not None
        self._relay = _Relay(trainer)
        leave_out_empty_hooks([self._relay])
        if self.forked:
            trainer.callbacks.insert(0, self._relay)  # type: ignore[attr-defined]
        self._signum: int | None = None  # the signal received

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Let a fit, validation or test in the block fail and stop as in one process.

        Raises:
            BaseException: What has ended the first of the processes that did not end well.
            Killed: One was killed.
        """
        if not self.forked:
            yield
            return
        self._signum, self._pid = None, os.getpid()
        self._relay.reset()
        with tempfile.TemporaryDirectory(prefix="zoo-") as folder, handling_signals(self._on_signal):
            in_forked_processes(self._trainer, _InRank(os.getpid(), Path(folder)))
            failed = None
            try:
                yield
            except ProcessException as error:
                failed = error
            if failed is not None:  # with the causes that it has there
                raise _end_of(failed, Path(folder))

    # Signals --------------------------------------------------------------------------------------------------------

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:
            again = self._signum is not None and signum == signal.SIGINT
            if self._relay.trains and not again:
                self._signum = self._signum or signum
                self._relay.pass_on(self._signum)
                return
            for process in forked_processes(self._trainer):  # one that waits for another would not hear a signal
                process.kill()
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signum)


class _Relay(Callback):
    """Hand a signal from the process that forks to :class:`GracefulStop` of those that train."""

    def __init__(self, trainer: Trainer) -> None:
        self._stop = next((c for c in trainer.checkpoint_callbacks if isinstance(c, GracefulStop)), None)
        self._shared = torch.zeros(2, dtype=torch.long).share_memory_()  # whether a fit has begun; the signal

    @property
    def trains(self) -> bool:
        """Whether one of the processes trains, and will stop when it is asked."""
        return bool(self._shared[0])

    def reset(self) -> None:
        self._shared.zero_()

    def pass_on(self, signum: int) -> None:
        self._shared[1] = signum

    def _begin(self) -> None:
        self._shared[0] = self._stop is not None

    def _look(self) -> None:
        if self._stop is not None and (signum := int(self._shared[1])):
            self._stop.ask(signum)

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    @override
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._look()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look()


# How a process ends -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _InRank:
    """Do the work of a forked process, and tell in a file what has ended it.

    Args:
        parent: The process that forks.
        folder: Folder of the files.
    """

    parent: int
    folder: Path

    def __call__(self, work: Callable[[], None], rank: int) -> None:
        end_with_parent(self.parent)
        try:
            work()
        except BaseException as error:
            told = (time.monotonic(), [_packed(cause) for cause in causes(error)], formatted(error))
            with contextlib.suppress(OSError):  # a full disk: the parent shows the traceback that torch gives it
                (self.folder / f"{rank}.pkl").write_bytes(pickle.dumps(told))
            raise


def _packed(error: BaseException) -> bytes:
    """Return an exception as bytes; one of a class that is not made from its own text as one of the same name and kind."""
    try:
        data = pickle.dumps(error)
        if str(pickle.loads(data)) == str(error):
            return data
    except Exception:  # a class of the user's may fail with anything here
        pass
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), Exception)
    return pickle.dumps((type(error).__name__, kind, error.args[0] if kind is KeyError and error.args else str(error)))


def _unpacked(data: bytes) -> BaseException:
    error: Any = pickle.loads(data)  # of a file that only our own processes write
    if isinstance(error, tuple):
        name, kind, text = error
        error = type(name, (kind,), {})(text)
    assert isinstance(error, BaseException)
    return error


def _end_of(error: ProcessException, folder: Path) -> BaseException:
    """Return what has ended a fit whose processes did not end well: the first failure, as others follow from it."""
    if isinstance(error, ProcessExitedException) and error.exit_code == -KILL:
        return Killed(f"process {error.error_index} of the run was killed, as it happens when the memory is full")
    files = [pickle.loads(path.read_bytes()) for path in folder.glob("*.pkl")]
    if not files:
        return error
    _, chain, text = min(files, key=lambda told: told[0])
    errors = [_unpacked(data) for data in chain]
    for one, cause in itertools.pairwise(errors):
        one.__cause__ = cause
    setattr(errors[0], TRACEBACK, text)
    return errors[0]
