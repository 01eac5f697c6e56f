"""Output of a run: on the terminal, and the same as plain text in its ``log.txt``. Imports no torch."""

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from recipes.cli.errors import formatted, one_line

# Lightning's lines that are of no use to the user of a recipe: advertisements, and settings that are the default
_CHATTER = re.compile(
    r"^(💡|GPU available: False|TPU available|HPU available|Seed set to|Restor|Loaded model weights|LOCAL_RANK|---"
    r"|`Trainer\.(fit|validate|test)` stopped|All distributed processes|Initializing distributed|distributed_backend"
    r"|`weights_only` was not set|\[rank: \d+\] (Seed set to|Received SIGTERM)|Received SIGTERM|You are using a CUDA device"
    r"|Terminating process \d+ via)"
    r"|litlogger|litmodels"
)
# warnings that do not apply here, with the reason
_UNFOUNDED = (
    ".*LeafSpec.*",  # between torch and Lightning
    ".*does not have many workers.*",  # images are in memory, where workers are slower
    ".*smaller than the logging interval.*",  # the epoch's means are logged anyway
    ".*Using `DistributedSampler` with the dataloaders.*",  # the evaluation sampler repeats no example
    ".*resuming from a checkpoint that ended before the epoch ended.*",  # the training sampler resumes in mid-epoch
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*`ckpt_path=None` was called without a model.*",
    ".*callbacks used to create the checkpoint need to be provided.*",  # evaluation needs none of them
)


class Console:
    """Print to the terminal and to ``log.txt``.

    Args:
        silent: Whether to print and log nothing, as processes other than rank zero do.
        quiet: Whether to print nothing, and log.
    """

    def __init__(self, silent: bool = False, quiet: bool = False) -> None:
        self.silent, self.quiet = silent, quiet
        self._pending = io.StringIO()  # logged before the file is known
        self._file: Path | None = None

    def print(self, text: str, error: bool = False) -> None:
        """Print one or more lines to stdout, or with ``error`` to stderr, and log them."""
        if not (self.silent or self.quiet):
            print(text, file=sys.stderr if error else sys.stdout, flush=True)
        self.log(text)

    def log(self, text: str) -> None:
        """Write one or more lines to the log only."""
        if self.silent:
            return
        if self._file is None:
            self._pending.write(text + "\n")
            return
        # a full disk is reported where the run itself writes
        # backslashreplace: a file name that is no valid text
        with contextlib.suppress(OSError), self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")

    def log_traceback(self, error: BaseException) -> None:
        """Write an exception with its traceback to the log only."""
        self.log(formatted(error))

    def open_log(self, path: Path, keep: bool = True) -> None:
        """Log to a file from now on, starting with everything logged so far unless ``keep`` is false."""
        if not self.silent:
            self._file = path
            if keep and (pending := self._pending.getvalue()):
                self.log(pending.rstrip("\n"))

    def close_log(self) -> None:
        """Stop logging to the file, because the run folder is removed."""
        self._file = None

    @staticmethod
    def is_terminal() -> bool:
        """Return whether stdout is a terminal."""
        return sys.stdout.isatty()


@contextlib.contextmanager
def any_text_prints() -> Iterator[None]:
    """Let stdout and stderr replace characters that their encoding lacks, such as those of a class name, by ``\\uXXXX``."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [(stream, stream.errors or "strict") for stream in streams]
    with contextlib.suppress(OSError, ValueError):  # closed
        for stream in streams:
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            for stream, errors in before:
                stream.reconfigure(errors=errors)


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip("\n")
        if not _CHATTER.search(text.strip()):
            self.console.print(text, error=record.levelno >= logging.WARNING)


@contextlib.contextmanager
def captured_logs(console: Console) -> Iterator[None]:
    """Send log lines of Lightning's and of processes, and all warnings to the console; drop those of no use here."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        console.print(f"warning: {one_line(str(message))} ({category.__name__})", error=True)

    handler = _Handler(console)
    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "torch.multiprocessing.spawn")
    ]
    before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    with warnings.catch_warnings():
        for message in _UNFOUNDED:
            warnings.filterwarnings("ignore", message)
        warnings.showwarning = show  # type: ignore[assignment]
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        try:
            yield
        finally:
            for logger, handlers, propagate in before:
                logger.handlers, logger.propagate = handlers, propagate


class NoCaches:
    """Prevent libraries from leaving caches in the home and the temporary folder while they are imported.

    matplotlib lists the system's fonts in ``~/.cache`` and torch makes an empty folder; neither belongs to the run.
    An existing cache is used.
    """

    def __enter__(self) -> None:
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._inductor = Path(tempfile.gettempdir(), f"torchinductor_{_user()}")
        self._had_inductor = self._inductor.exists()
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        if "MPLCONFIGDIR" not in os.environ and not (home / "matplotlib").is_dir():
            self._scratch = tempfile.TemporaryDirectory(prefix="zoo-")
            os.environ["MPLCONFIGDIR"] = self._scratch.name

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._scratch is not None:
            del os.environ["MPLCONFIGDIR"]
            self._scratch.cleanup()
        if not self._had_inductor:
            with contextlib.suppress(OSError):  # not empty: another process compiles
                self._inductor.rmdir()


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
