"""What a run says: on the terminal, and the same as plain text in its ``log.txt``. Imports no torch."""

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from recipes.cli.errors import one_line

# lines of Lightning that tell the user of a recipe nothing: adverts, and what was not asked
_CHATTER = re.compile(
    r"^(💡|GPU available: False|TPU available|HPU available|Seed set to|Restor|Loaded model weights|LOCAL_RANK|---"
    r"|`Trainer\.(fit|validate|test)` stopped|All distributed processes|Initializing distributed|distributed_backend"
    r"|`weights_only` was not set|\[rank: \d+\] (Seed set to|Received SIGTERM)|Received SIGTERM|You are using a CUDA device)"
    r"|litlogger|litmodels"
)
# warnings that do not hold here, with the reason
_UNFOUNDED = (
    ".*LeafSpec.*",  # torch's and Lightning's own business
    ".*does not have many workers.*",  # images in memory: workers are slower
    ".*smaller than the logging interval.*",  # the means of the epoch are logged anyway
    ".*Using `DistributedSampler` with the dataloaders.*",  # the evaluation sampler repeats nothing
    ".*resuming from a checkpoint that ended before the epoch ended.*",  # the training sampler starts there
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*`ckpt_path=None` was called without a model.*",
    ".*callbacks used to create the checkpoint need to be provided.*",  # an evaluation needs none of them
)


class Console:
    """Say things on the terminal and keep them for ``log.txt``.

    Args:
        silent: for a process that is not rank zero.
    """

    def __init__(self, silent: bool = False) -> None:
        self.silent = silent
        self._kept = io.StringIO()
        self._file: Path | None = None

    def say(self, text: str, error: bool = False) -> None:
        """One or more lines, to both."""
        if not self.silent:
            print(text, file=sys.stderr if error else sys.stdout, flush=True)
        self.keep(text)

    def keep(self, text: str) -> None:
        """To the log only."""
        if self.silent:
            return
        if self._file is None:
            self._kept.write(text + "\n")
            return
        with (
            contextlib.suppress(OSError),
            self._file.open("a", encoding="utf-8") as file,
        ):  # a full disk is told elsewhere
            file.write(text + "\n")

    def write_to(self, path: Path) -> None:
        """Keep everything, what was said before too, in a file."""
        if not self.silent:
            self._file = path
            if kept := self._kept.getvalue():
                self.keep(kept.rstrip("\n"))

    def forget_file(self) -> None:
        """Keep nothing from now on: the run folder goes away."""
        self._file = None

    @staticmethod
    def is_terminal() -> bool:
        """Whether standard output is a terminal."""
        return sys.stdout.isatty()

    def keep_traceback(self, error: BaseException) -> None:
        """An exception with its traceback, to the log only."""
        self.keep("".join(traceback.format_exception(error)).rstrip())


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip("\n")
        if not _CHATTER.search(text.strip()):
            self.console.say(text, error=record.levelno >= logging.WARNING)


@contextlib.contextmanager
def heard(console: Console) -> Iterator[None]:
    """Lightning's log lines and all warnings go through the console while this lasts; adverts do not."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        console.say(f"warning: {one_line(str(message))} ({category.__name__})", error=True)

    handler = _Handler(console)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
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
    """Keep the libraries from leaving caches in the home folder and the temporary one while they are imported.

    matplotlib lists the system's fonts into ``~/.cache`` and torch makes an empty folder; neither belongs to the run.
    A cache that is there already is used.
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
            with contextlib.suppress(OSError):  # not empty: somebody compiles
                self._inductor.rmdir()


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
