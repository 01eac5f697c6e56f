"""One process at a time writes a run. Imports no torch."""

from pathlib import Path

from filelock import FileLock, Timeout

from recipes.cli.errors import UserError

LOCK = ".lock"
_PATIENCE = 0.5  # seconds: longer than a look at the lock takes
_AFTER_KILL = 10.0  # seconds after which the loading processes of a killed run have ended, too


class Lock:
    """Hold the lock of a run folder, until it is released or the process ends, in whatever way.

    Args:
        folder: The run folder.
        killed: Whether the process that wrote the run is known to be gone: then its loading processes, which may have the lock
            for some seconds, are waited for.

    Raises:
        UserError: Another process writes the run.
    """

    def __init__(self, folder: Path, killed: bool = False) -> None:
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=_AFTER_KILL if killed else _PATIENCE)
        except Timeout:
            raise UserError(
                f"another process is writing the run {folder}: wait until it has ended, or stop it with Ctrl-C or SIGTERM there"
            ) from None

    def release(self) -> None:
        """Let another process write the run."""
        self._lock.release()


def is_held(folder: Path) -> bool:
    """Return whether a process writes the run; the folder is not changed."""
    path = folder / LOCK
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # another user's
        return False
    lock.release()
    return False
