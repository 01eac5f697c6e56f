"""Writing files so that the previous one survives a failure."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what was written there replaces ``path`` when the block ends without an error.

    The temporary file is in the same folder, so that the replacement is one atomic step. A failure leaves the old file as it
    was and removes the temporary one; a kill leaves at most ``.<name>.tmp``, which the next write replaces.

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
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
