"""Writing files so that the previous one survives a failure."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what was written there replaces ``path`` when the block ends without an error.

    The temporary file is in the same folder, so that the replacement is one atomic step. A failure leaves the old file as it
    was and removes the temporary one; a kill leaves at most ``.<name>.tmp``, which the next write replaces.

    Args:
        path: The file.
        durable: Whether file and folder are on the disk when the block has ended, so that a loss of power loses neither.

    Example:
        >>> with replacing(Path("/tmp/numbers.txt")) as temporary:
        ...     _ = temporary.write_text("1 2 3")
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors leaves its files readable by their owner alone
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
        if durable and os.name != "nt":  # Windows opens no folders
            _flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
