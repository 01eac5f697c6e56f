"""From exceptions to one line and an exit code. Imports no torch."""

import errno
import re
import traceback
from collections.abc import Iterator

TRACEBACK = "traceback_text"  # attribute of an exception that another process has raised
OK, BUG, USER, MACHINE, INTERRUPTED, TERMINATED = 0, 1, 2, 75, 130, 143

# raised by components for bad input; any other exception is a bug and keeps its traceback
_INPUT_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError)
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(Exception):
    """An error that the user can fix: printed as one line, exit code 2."""


class MachineError(Exception):
    """A lack of resources such as disk space: printed as one line, exit code 75."""


class Crash(Exception):
    """A failure during training: its cause keeps its traceback, exit code 1."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception and its chain of causes and contexts."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def disk_full(error: BaseException) -> OSError | None:
    """Return the first "no space left" error (or quota, file size limit) among the causes, preferably one with a file name."""
    errors = [e for e in causes(error) if isinstance(e, OSError) and e.errno in _DISK_FULL][::-1]
    return next((e for e in errors if e.filename), errors[0] if errors else None)


def formatted(error: BaseException) -> str:
    """Return an exception with its traceback, that of the process in which it was raised."""
    text: str | None = getattr(error, TRACEBACK, None)
    return ("".join(traceback.format_exception(error)) if text is None else text).rstrip()


def explain(error: Exception) -> tuple[int, str | None]:
    """Return the exit code and the line to print; None in place of the line means a bug, whose traceback is to be shown."""
    if isinstance(error, MachineError):
        return MACHINE, one_line(str(error))
    full = disk_full(error)
    if full is not None:
        return MACHINE, f"cannot write {full.filename or 'a file'}: {full.strerror}; free some space and try again"
    if isinstance(error, UserError):
        return USER, one_line(str(error))
    if isinstance(error, _INPUT_ERRORS) or type(error).__name__ == "MisconfigurationException":
        return USER, one_line(message(error))
    return BUG, None


def message(error: Exception) -> str:
    """Return the text of an exception without what Python and worker processes wrap around it."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}"
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str(KeyError) is its repr, in quotes
    text = str(error) or type(error).__name__
    return text.strip().splitlines()[-1].partition(": ")[2] if _IN_WORKER.match(text) else text


_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker")  # the worker's whole traceback follows


def one_line(text: str) -> str:
    """Replace every run of whitespace by one space."""
    return re.sub(r"\s+", " ", text).strip()
