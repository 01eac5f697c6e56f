"""A short run of a recipe in a process of its own, as ``zoo fit`` and ``zoo fit --resume`` make it."""

import json
import multiprocessing
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recipes.cli.check.recorder import Record, Recorder
from recipes.cli.console import Console, captured_logs
from recipes.cli.errors import TERMINATED, Crash, explain, one_line
from recipes.cli.run.building import RecipeCLI
from recipes.cli.run.internals import exit_at_once, fork_again_without_a_gpu
from recipes.cli.run.options import parse
from recipes.cli.run.process import restored_process_state
from recipes.cli.run.session import train_or_evaluate


@dataclass(frozen=True)
class Part:
    """A run, or what follows after a stop.

    Args:
        args: Arguments of ``zoo fit``.
        folder: Folder for what it records.
        stop, batches, seconds: See :class:`Recorder`.
    """

    args: list[str]
    folder: Path
    stop: int | None = None
    batches: int | None = None
    seconds: float = 0.0


@dataclass
class Recorded:
    """What a run has met.

    Attributes:
        records: By process and batch, counted from 0.
        steps, epochs: Of each batch of the first process, the optimizer steps done at its end, and its epoch.
        end: By process, what was saved last.
        rows: The rows of ``metrics.csv``, as texts.
    """

    records: list[dict[int, Record]]
    steps: dict[int, int]
    epochs: dict[int, int]
    end: list[Record]
    rows: list[dict[str, str]]


class RunFailed(Exception):
    """A run was refused or has failed.

    Args:
        text: How, in one line.
        begun: Whether a batch was trained.
    """

    def __init__(self, text: str, begun: bool) -> None:
        super().__init__(text)
        self.begun = begun


def settings_of(args: list[str], overrides: list[str], folder: Path) -> dict[str, Any]:
    """Return the configuration of a recipe as plain data, built in a process of its own: what it imports is not imported here.

    Args:
        args: ``--config`` of each file, and the overrides.
        overrides: Those.
        folder: An empty folder.

    Raises:
        RunFailed: The recipe cannot be built.
    """
    _in_own_process(partial(_write_settings, args, overrides, folder), folder)
    settings: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    return settings


def _write_settings(args: list[str], overrides: list[str], folder: Path) -> None:
    with restored_process_state(), captured_logs(Console(silent=True)):
        cli = RecipeCLI(args, overrides, verb_options=("--json", "--resume"))
    (folder / "settings.json").write_text(json.dumps(cli.plain, default=str), encoding="utf-8")


def make(part: Part) -> None:
    """Run a part in a process of its own, and wait until it has ended.

    Raises:
        RunFailed: It did not end as it should.
    """
    _in_own_process(partial(_fit, part), part.folder)


def _in_own_process(work: Callable[[], None], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # a forked process has all that is imported by now; one that has used a GPU cannot be forked
    forked = sys.platform == "linux" and not torch.cuda.is_initialized()
    context: Any = multiprocessing.get_context("fork" if forked else "spawn")
    process = context.Process(target=_work_here, args=(work, folder, torch.cuda.is_available()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork.*", DeprecationWarning)
        process.start()
    try:
        process.join()
    finally:
        if process.is_alive():  # Ctrl-C
            process.terminate()
            process.join(10)
            process.kill()
            process.join()
    outcome = folder / "outcome.json"
    begun = any(folder.glob("record_*.pkl"))
    if not outcome.is_file():
        raise RunFailed(f"its process ended with code {process.exitcode}", begun)
    if text := json.loads(outcome.read_text(encoding="utf-8"))["error"]:
        raise RunFailed(text, begun)


def _work_here(work: Callable[[], None], folder: Path, gpu: bool) -> None:
    """Do something in this process, which then ends, and tell in a file what has failed."""
    output = (folder / "output.txt").open("w", encoding="utf-8", errors="backslashreplace")
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    sys.stdout = sys.stderr = output
    text = ""
    if not gpu:
        fork_again_without_a_gpu()
    try:
        work()
    except SystemExit as stop:
        text = "" if stop.code in (0, None, TERMINATED) else f"it ended with code {stop.code}"
    except Crash as crash:
        cause = crash.__cause__ or crash
        # of processes that Lightning forks, the first is stopped as it should be
        stopped = getattr(cause, "exit_code", None) == TERMINATED
        text = "" if stopped else f"{type(cause).__name__}: {one_line(str(cause))}"
    except Exception as error:
        text = explain(error)[1] or f"{type(error).__name__}: {one_line(str(error))}"
    (folder / "outcome.json").write_text(json.dumps({"error": text}), encoding="utf-8")
    output.flush()
    exit_at_once(0)


def _fit(part: Part) -> None:
    with restored_process_state():
        options = parse("fit", part.args)
        options.tests = False
        options.callbacks = [Recorder(part.folder, part.stop, part.batches, part.seconds)]
        console = Console(silent=True)
        with captured_logs(console):
            train_or_evaluate(options, console)


def read(folders: list[Path], rows: list[dict[str, str]]) -> Recorded:
    """Return what was recorded by the parts of a run, the later ones after the earlier ones."""
    count = max(len(list(folder.glob("record_*.pkl"))) for folder in folders)
    found = Recorded([{} for _ in range(count)], {}, {}, [{} for _ in range(count)], rows)
    for folder in folders:
        for rank in range(count):
            path = folder / f"record_{rank}.pkl"
            if not path.is_file():
                continue
            records, steps, epochs, end = pickle.loads(path.read_bytes())
            found.records[rank] |= records
            found.end[rank] = end
            if rank == 0:
                found.steps |= steps
                found.epochs |= epochs
    return found
