"""Watch W&B's own process, which training would wait for without a limit if it were frozen."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path


class Watch:
    """Do something about a process that is frozen: stopped without an end, such as by SIGSTOP, or on a machine that hangs.

    It takes nothing more, so whoever writes to it waits as soon as the buffers are full. That it lives is seen by the file that it
    writes. Only seconds in which this process runs, too, count: a job that is suspended and goes on has lost nothing.

    Args:
        file: The file.
        act: What is done then, in another thread.

    Attributes:
        acted: Whether it was done.
        written: When the file was last seen to have grown, of ``time.monotonic``; 0 before.
    """

    def __init__(self, file: Path, act: Callable[[], None]) -> None:
        self.acted, self.written = False, 0.0
        self._file, self._act = file, act
        self._limit = math.inf  # while nothing waits
        self._still = 0  # seconds
        self._end = threading.Event()
        threading.Thread(target=self._look, name="wandb-watch", daemon=True).start()

    @contextlib.contextmanager
    def waiting(self, seconds: float) -> Iterator[None]:
        """Do what may wait for the process.

        Args:
            seconds: How long the file may stay as it is.
        """
        self._still, self._limit = 0, seconds
        try:
            yield
        finally:
            self._limit = math.inf

    def stop(self) -> None:
        """End the watch."""
        self._end.set()

    def _look(self) -> None:
        known = self._size()
        while not self._end.wait(1.0):
            size = self._size()
            if size != known:
                known, self._still, self.written = size, 0, time.monotonic()
            else:
                self._still += 1
            if self._still >= self._limit:
                self._limit, self.acted = math.inf, True
                self._act()

    def _size(self) -> int:
        try:
            return self._file.stat().st_size
        except OSError:
            return -1
