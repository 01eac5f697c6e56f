"""``zoo`` in a process of its own that kills itself by SIGKILL at a moment.

A moment is ``time:SECONDS`` after its start, ``never``, or ``write:NAME:N:HOW``, at the N-th time (from 1) that a file is written
whose name contains NAME: HOW is ``half``, with half of a piece of it in the file; ``before`` or ``after`` it replaces the old one.
"""

import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import recipes.cli.run.session  # noqa: F401 (imported before the clock begins, and once for all)
from recipes.cli.__main__ import main
from recipes.cli.run.internals import fork_again_without_a_gpu


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit code, or minus the number of a signal, and what it printed."""

    code: int
    out: str
    err: str


def session(moment: str, *args: str) -> Ended:
    """Run ``zoo`` with some arguments in a forked process; files of its output are in the folder ``..``."""
    paths = [Path("..", f"{name}_of_{Path.cwd().name}.txt") for name in ("out", "err")]
    gpu = torch.cuda.is_available()
    pid = os.fork()
    if pid == 0:
        _run(moment, args, paths, gpu)
    _, status = os.waitpid(pid, 0)
    return Ended(os.waitstatus_to_exitcode(status), *(path.read_text() for path in paths))


def _run(moment: str, args: tuple[str, ...], paths: list[Path], gpu: bool) -> None:
    code = 1
    try:
        files = [path.open("w") for path in paths]
        for descriptor, file in enumerate(files, 1):
            os.dup2(file.fileno(), descriptor)
        sys.stdout, sys.stderr = files
        if not gpu:
            fork_again_without_a_gpu()
        kind, _, rest = moment.partition(":")
        if kind == "time":
            at_time(float(rest))
        elif kind == "write":
            name, number, how = rest.split(":")
            at_write(name, int(number), how)
        code = main([*args])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> bool:
    """Return whether a process that is no child of this one ends, within a minute."""
    for _ in range(600):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class HalfWritten:
    """A file whose first write is cut in half by a kill."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        self.file.write(data[: max(1, len(data) // 2)])
        self.file.flush()
        kill()
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def at_write(name: str, number: int, how: str) -> None:
    """Kill this process at a write."""
    left = number

    def due(path: Any) -> bool:
        nonlocal left
        left -= name in Path(path).name
        return name in Path(path).name and left == 0

    if how == "half":
        open_ = Path.open

        def open_to_kill(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = open_(path, mode, *args, **kwargs)
            return HalfWritten(file) if mode != "r" and mode != "rb" and due(path) else file

        Path.open = open_to_kill  # type: ignore[method-assign, assignment]
    else:
        replace = os.replace

        def replace_to_kill(source: Any, target: Any, **kwargs: Any) -> None:
            now = due(target)
            if now and how == "before":
                kill()
            replace(source, target, **kwargs)
            if now:
                kill()

        os.replace = replace_to_kill  # type: ignore[assignment]


def at_time(seconds: float) -> None:
    """Kill this process after some seconds."""

    def wait() -> None:
        time.sleep(seconds)
        kill()

    threading.Thread(target=wait, daemon=True).start()
