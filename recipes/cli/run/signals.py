"""Signals that stop a run, and processes that end with the one that has started them. Imports no torch."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from recipes.cli.run.internals import exit_at_once

# Windows has no SIGUSR1
STOPPING = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
ENDING = tuple(signum for signum in STOPPING if signum != signal.SIGINT)  # Ctrl-C is an exception
_PR_SET_PDEATHSIG = 1  # of prctl(2)
KILL = 9  # SIGKILL, which Windows does not have


@contextlib.contextmanager
def handling_signals(
    handler: Callable[[int, FrameType | None], None], signals: Sequence[signal.Signals] = STOPPING
) -> Iterator[None]:
    """Handle signals while the block runs, in the main thread; one that is ignored, as in the background of a shell, stays so."""
    main = threading.current_thread() is threading.main_thread()
    heard = [signum for signum in signals if main and signal.getsignal(signum) is not signal.SIG_IGN]
    previous = {signum: signal.signal(signum, handler) for signum in heard}
    try:
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before or signal.SIG_DFL)


def end_with_parent(parent: int | None = None) -> None:
    """Let the system kill this process when the one that has started it ends; Linux alone can.

    Args:
        parent: The process that has started it, which may have ended by now; None: not known.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, KILL)
    if parent is not None and os.getppid() != parent:
        exit_at_once(128 + KILL)
