"""One run of many, in a folder that has its ``config.yaml``: begun, continued where it was stopped, or left as it is done.

``python -m recipes.cli.many.one FOLDER`` does so in a process of its own, where a run starts further processes.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from recipes.cli import catalog
from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import Crash, UserError
from recipes.cli.run.folder import CHECKPOINTS, CONFIG, is_main_process, read_results, resumable
from recipes.cli.run.options import Options, logger_of, saving_of
from recipes.cli.run.process import exiting_at_once, logged_exit, restored_process_state
from recipes.cli.run.signals import end_with_parent, handling_signals
from recipes.cli.yaml_files import read_recipe


def check_launcher() -> None:
    """Refuse to be started by a launcher of several processes: each of the runs starts its own.

    Raises:
        UserError: It is.
    """
    if not is_main_process() or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "many runs start their processes by themselves: give --trainer.devices, and run zoo without a launcher"
        )


def check_seeds(first: int, count: int) -> None:
    """Refuse seeds that no generator takes, before the first run.

    Raises:
        UserError: The last one is too large.
    """
    if first + count > 2**32:
        raise UserError(
            f"{count} seeds from {first} on go beyond {2**32 - 1}, the largest: give a smaller --seed_everything"
        )


def child_environment() -> dict[str, str]:
    """Return the environment of a process of ours: none of the user's modules in the current folder hides ours."""
    return {**os.environ, "PYTHONSAFEPATH": "1"}


def run_one(
    folder: Path,
    console: Console,
    tests: bool = True,
    callbacks: Sequence[Any] = (),
    deadline: float | None = None,
) -> dict[str, Any]:
    """Train the run of a folder, unless it is done, and return how it ended.

    Args:
        folder: It has the run's ``config.yaml``. What a run left there that was killed before its first checkpoint is removed.
        console: Output.
        tests: Whether to test the best checkpoint.
        callbacks: Further callbacks.
        deadline: Time of ``time.monotonic`` at which it is stopped.

    Raises:
        Crash, Exception: The run failed.
    """
    results = read_results(folder)
    if results is not None:
        return results
    if _launches(read_recipe(folder / CONFIG).get("trainer") or {}):
        _in_its_own_process(folder, console, tests, callbacks, deadline)
    else:
        _here(folder, console, tests, callbacks, deadline)
    results = read_results(folder)
    if results is None:
        raise RuntimeError(f"the run {folder} ended without results")
    return results


def _here(folder: Path, console: Console, tests: bool, callbacks: Sequence[Any], deadline: float | None) -> None:
    with restored_process_state():
        with NoCaches(), exiting_at_once():
            from recipes.cli.run.session import train_or_evaluate
        with captured_logs(console), logged_exit(console):
            options = _options(folder, tests, callbacks)
            options.deadline = deadline
            train_or_evaluate(options, console)


def _options(folder: Path, tests: bool, callbacks: Sequence[Any]) -> Options:
    recipe = catalog.read(folder / CONFIG, "recipe")
    options = Options("fit", recipe, [folder / CONFIG], tests=tests, callbacks=[*callbacks])
    logger, options.artifacts = logger_of(recipe)
    options.logger = logger or None
    options.save_every, options.keep = saving_of(recipe)
    if saved := resumable(folder):
        options.resumed, options.checkpoint = folder, saved[0]
        options.command = ["fit", "--resume", str(folder)]
        return options
    if is_main_process():
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != CONFIG:
                path.unlink()
        (folder / CHECKPOINTS).mkdir()
    options.folder = folder
    options.command = ["fit", "-c", str(folder / CONFIG)]
    return options


def _launches(trainer: dict[str, Any]) -> bool:
    """Whether a fit starts its further processes by calling the program again."""
    strategy = trainer.get("strategy", "auto")
    forks = isinstance(strategy, str) and any(word in strategy for word in ("fork", "spawn", "notebook"))
    return not forks and (trainer.get("devices", 1) not in (1, "1") or trainer.get("num_nodes", 1) > 1)


def _in_its_own_process(
    folder: Path, console: Console, tests: bool, callbacks: Sequence[Any], deadline: float | None
) -> None:
    left = [] if deadline is None else [f"--seconds-left={max(deadline - time.monotonic(), 1)}"]
    words = [str(folder), *left, *(["--no-test"] * (not tests)), *(word for each in callbacks for word in each.words)]
    output = subprocess.DEVNULL if console.quiet else None
    command = [sys.executable, "-m", "recipes.cli.many.one", *words]
    code = _joined(subprocess.Popen(command, stdout=output, env=child_environment()))
    if code < 0 or code >= 128:
        raise SystemExit(code if code > 0 else 128 - code)
    if code:
        raise Crash from RuntimeError(f"the run {folder} failed with exit code {code}, see above")


def _joined(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process of ours, which gets the signals that reach this one, and return its exit code, or that of the signal."""
    received: list[int] = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if signum == signal.SIGINT and len(received) > 1:
            process.kill()
        else:  # the Ctrl-C of a terminal reaches it, too, and a second one would end it at once
            process.send_signal(signal.SIGTERM if signum == signal.SIGINT else signum)

    with handling_signals(pass_on):
        code = process.wait()
    return 128 + received[0] if received else code


def main(args: list[str]) -> int:
    """Train the run of a folder; the same in each of its processes."""
    end_with_parent()
    folder, *words = args
    deadline = None
    if words and words[0].startswith("--seconds-left="):
        deadline = time.monotonic() + float(words.pop(0).partition("=")[2])
    callbacks = []
    if len(words) > 1:  # of a trial; other runs do without optuna, which is an extra
        from recipes.cli.many.study import reporter

        callbacks.append(reporter(words[-2:]))
    _here(Path(folder), Console(silent=not is_main_process()), "--no-test" not in words, callbacks, deadline)
    return 0


if __name__ == "__main__":
    from recipes.cli.__main__ import guarded

    sys.exit(guarded(main, sys.argv[1:]))
