"""``zoo runs``: a table of all runs, or remove some. Imports no torch."""

import contextlib
import csv
import math
import os
import shutil
import sys
from pathlib import Path

from recipes.cli.collection import RunRow, find_runs, is_run, lower_is_better, matching, natural, runs_below, waiting
from recipes.cli.errors import OK, UserError
from recipes.cli.many.comparison import number
from recipes.cli.run.lock import Lock, is_held
from recipes.cli.run.options import Parser
from recipes.cli.text import columns, printable
from zoo.spelling import suggest
from zoo.writing import replacing

HELP = """zoo runs [RUN ...] [options]: the runs, their state, their best value and what was measured; or remove some.

  RUN            a run, a folder of runs or a recipe; else a shell pattern or a part of such names: those that match
  --sort COLUMN  recipe (default), run, state, best, test, seed, time, size, started, or a metric, such as test/acc: the best first
  --csv FILE     write all of it, with every metric, as a table
  --delete       remove the runs, after a look at the list and a question; RUN is a whole name or a shell pattern here
  --yes          with --delete: do not ask
  --runs FOLDER  where the runs are (default: runs)

A run is running, done, stopped (by a signal, a time limit or a kill: zoo fit --resume goes on) or failed. Trials of zoo tune are
listed if RUN matches them.

Examples:
  zoo runs
  zoo runs lenet --sort test/acc
  zoo runs "cnn/*" --csv runs.csv
  zoo runs cnn/lenet_digits/version_3 --delete
"""
_COLUMNS = ("recipe", "run", "state", "best", "test", "seed", "time", "size", "started")


def run(args: list[str]) -> int:
    """Run the verb ``runs``."""
    parser = Parser("zoo runs")
    parser.add_argument("words", metavar="RUN", nargs="*")
    parser.add_argument("--sort")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--delete", action="store_true")
    parser.add_argument("--yes", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_intermixed_args(args)
    if options.yes and not options.delete:
        raise UserError("--yes answers the question of --delete: give both, or none")
    if options.delete and (options.sort is not None or options.csv is not None):
        raise UserError("--delete goes without --sort and --csv: list the runs first, then remove them")
    if not options.runs.is_dir():
        raise UserError(f"there is no folder {options.runs}: train a run with zoo fit, or give the folder with --runs")
    rows = runs_below(options.runs)
    if options.delete:
        return _delete(rows, options.words, options.runs, options.yes)
    if not rows:
        print(f"no runs in {options.runs}")
        return OK
    shown = _meant(rows, options.words, options.runs) if options.words else [row for row in rows if not row.trial]
    listed = _sorted(shown, options.sort)
    if options.csv is not None:
        _write(listed, options.csv)
    print(_table(listed, options.sort))
    if hidden := len(rows) - len(listed) if not options.words else 0:
        print(f"\n{hidden} trial{'s' * (hidden != 1)} of zoo tune not listed: zoo runs tune_")
    return OK


def _meant(rows: list[RunRow], words: list[str], root: Path, part: bool = True) -> list[RunRow]:
    """Return the runs that words mean, each once.

    Raises:
        UserError: A word means none.
    """
    found: dict[Path, RunRow] = {}
    for word in words:
        pattern = _below(word, root)
        rows_of_word = matching(rows, pattern, part) if pattern else []
        if not rows_of_word and not part and pattern and (count := len(matching(rows, pattern))):
            raise UserError(
                f"no run, folder of runs or recipe in {root} is called {word!r}; it is a part of the names of {count}: to "
                f"remove {'them' if count > 1 else 'it'}, give the whole name, or '*{pattern}*'"
            )
        if not rows_of_word:
            raise UserError(f"no run in {root} matches {word!r}{suggest(pattern, [row.name for row in rows])}")
        found |= {row.folder: row for row in rows_of_word}
    return [*found.values()]


def _below(word: str, root: Path) -> str:
    """Return a pattern for names below the folder of all runs; the path of a run may have been given instead."""
    path, base = Path(os.path.abspath(word)), Path(os.path.abspath(root))
    given = os.path.isabs(word) or Path(word).is_relative_to(root)
    return (
        path.relative_to(base).as_posix() if given and path.is_relative_to(base) and path != base else word.rstrip("/")
    )


def _sorted(rows: list[RunRow], column: str | None) -> list[RunRow]:
    """Return the rows in the order of a column: the best of a metric first, the largest time or size, the latest begin.

    Raises:
        UserError: There is no such column.
    """
    if column in (None, "recipe"):
        return sorted(rows, key=lambda row: (row.recipe, natural(row.name)))
    if column in ("run", "state"):
        return sorted(rows, key=lambda row: (getattr(row, "name" if column == "run" else "state"), natural(row.name)))
    if column == "started":
        return sorted(rows, key=lambda row: row.started, reverse=True)
    if column == "seed":
        return sorted(rows, key=lambda row: (row.seed is None, row.seed or 0, natural(row.name)))
    if column in ("time", "size"):
        value = {"time": lambda row: row.seconds, "size": lambda row: row.size}[column]
        return sorted(rows, key=lambda row: _last_if_nan(value(row), low=False))
    if column in ("best", "test"):
        return sorted(rows, key=lambda row: _of_run(row, rows, column))
    metrics = {name for row in rows for name in [*row.metrics, *([row.best[0]] if row.best else [])]}
    if column not in metrics:
        hint = suggest(column, [*_COLUMNS, *metrics]) or f": {', '.join([*_COLUMNS, *sorted(metrics)])}"
        raise UserError(f"--sort must be a column or a metric, got {column!r}{hint}")
    low = lower_is_better(rows, column)
    return sorted(rows, key=lambda row: _last_if_nan(row.value(column), low))


def _of_run(row: RunRow, rows: list[RunRow], column: str) -> tuple[str, bool, float]:
    """Return a key of the best value or the test, which are of other metrics in other runs: these stay together."""
    pair = row.best[:2] if column == "best" and row.best else row.test if column == "test" else None
    if pair is None:
        return ("\uffff", True, 0.0)
    name, value = pair
    return (name, *_last_if_nan(value, lower_is_better(rows, name)))


def _last_if_nan(value: float | None, low: bool) -> tuple[bool, float]:
    if value is None or math.isnan(value):
        return True, 0.0
    return False, value if low else -value


def _table(rows: list[RunRow], sort: str | None) -> str:
    extra = [sort] if sort and sort not in _COLUMNS else []
    cells: list[list[object]] = [["recipe", "run", "state", *extra, "best", "test", "seed", "time", "size"]]
    for row in rows:
        best = f"{row.best[0]} {number(row.best[1])}" if row.best else ""
        test = f"{row.test[0]} {number(row.test[1])}" if row.test else ""
        seed = "" if row.seed is None else str(row.seed)
        inside = row.name.removeprefix(f"{row.recipe}/")
        measured = [number(row.value(name)) for name in extra]
        cells.append(
            [row.recipe, inside, row.state, *measured, best, test, seed, duration(row.seconds), size(row.size)]
        )
    told = [f"{row.name}: {row.state}, {row.message}" for row in rows if row.message]
    told = [printable(line) for line in [*told, *waiting(rows)]]
    return columns(cells) + ("\n\n" + "\n".join(told) if told else "")


def duration(seconds: float) -> str:
    """Return a time in its two largest units; an empty text for nan.

    Example:
        >>> duration(3.21), duration(75), duration(7380), duration(200_000)
        ('3.2 s', '1 m 15 s', '2 h 3 m', '2 d 7 h')
    """
    if math.isnan(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, below, length in (("d", "h", 86400), ("h", "m", 3600), ("m", "s", 60)):
        if whole >= length:
            rest = whole % length // {"h": 3600, "m": 60, "s": 1}[below]
            return f"{whole // length} {unit} {rest} {below}"
    return f"{whole} s"


def size(count: float) -> str:
    """Return a number of bytes in the largest unit.

    Example:
        >>> size(999), size(12_345), size(1_500_000_000)
        ('999 B', '12 kB', '1.5 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _write(rows: list[RunRow], path: Path) -> None:
    """Write a table of the runs with every metric.

    Raises:
        UserError: The file cannot be written.
    """
    metrics = sorted({name for row in rows for name in row.metrics})
    head = ["run", "recipe", "state", "message", "seed", "started", "seconds", "bytes", "epochs", "steps"]
    try:
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*head, "best_name", "best_value", *metrics])
            for row in rows:
                facts = (row.name, row.recipe, row.state, row.message, row.seed, row.started, row.seconds, row.size)
                best = row.best[:2] if row.best else ("", "")
                writer.writerow(
                    [*facts, row.epochs, row.steps, *best, *(row.metrics.get(name, "") for name in metrics)]
                )
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give another place with --csv") from error


# Removing -----------------------------------------------------------------------------------------------------------


def _delete(rows: list[RunRow], words: list[str], root: Path, sure: bool) -> int:
    """Remove the runs that words mean, after a question.

    Raises:
        UserError: None is named, one is running, or there is nobody to ask.
    """
    if not words:
        raise UserError("--delete needs to know which runs: zoo runs RUN --delete (`zoo runs` lists them)")
    rows = _meant(rows, words, root, part=False)
    if running := [row.name for row in rows if row.state == "running"]:
        raise UserError(f"{', '.join(running)} is running: stop it first, with Ctrl-C or SIGTERM; nothing was removed")
    total = f"{len(rows)} run{'s' * (len(rows) != 1)}, {size(sum(row.size for row in rows))}"
    if not sure and not sys.stdin.isatty():
        raise UserError(f"would remove {total}, and there is no terminal to ask: give --yes; nothing was removed")
    print(_table(rows, None))
    if not sure and _answer(f"\nRemove {total}? [y/N] ").strip().lower() not in ("y", "yes"):
        print("nothing was removed")
        return OK
    stays: dict[Path, None] = {}
    for row in rows:
        stays |= dict.fromkeys(_remove(row.folder, root))
    print(f"removed {total}")
    for folder in stays:
        with contextlib.suppress(OSError):  # others may remove it, too
            names = sorted(os.listdir(folder))
            print(printable(f"{folder} stays, with {', '.join(names[:5])}{' ...' * (len(names) > 5)}"))
    return OK


def _answer(question: str) -> str:
    try:
        return input(question)
    except EOFError:  # Ctrl-D
        print()
        return ""


def _remove(folder: Path, root: Path) -> list[Path]:
    """Remove a run and the folders that are empty then, up to that of all runs.

    Returns:
        The innermost folder without runs that has other files, and stays; none if there is none.

    Raises:
        UserError: Another process has begun to write it, it is another folder by now, or it cannot be removed.
    """
    inside = folder.resolve() == root.resolve() / folder.relative_to(root)  # no link stands on the way
    if os.path.lexists(folder) and not (inside and is_run(folder)):
        raise UserError(f"{folder} has changed since it was listed: it and those after it stay")
    if is_held(folder):
        raise UserError(f"another process is writing the run {folder} now: it and those after it stay")
    with contextlib.ExitStack() as stack:
        # a folder that cannot be written may still be removed, or says why not below
        with contextlib.suppress(OSError):
            if folder.is_dir():
                stack.callback(Lock(folder).release)
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            pass  # another process was faster
        except OSError as error:
            raise UserError(f"cannot remove {error.filename or folder}: {error.strerror}") from error
    for parent in folder.parents:
        if parent == root or not parent.is_relative_to(root):
            break
        if any(find_runs(parent)):
            break
        try:
            parent.rmdir()
        except OSError:  # something else is there
            return [parent]
    return []
