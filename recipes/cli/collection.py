"""All runs of a folder: their state, their best value, what was measured, their size. Imports no torch."""

import contextlib
import math
import os
import re
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Any

from recipes.cli import catalog
from recipes.cli.errors import UserError
from recipes.cli.pages.curves import read_curves
from recipes.cli.run.folder import CHECKPOINTS, CONFIG, METRICS, RESULTS, read_results, runs_in
from recipes.cli.run.record import RECORD, Record, State, read_record, state_of

_RECIPE = re.compile(r"#\s+recipe\s+\S")
_SEED = re.compile(r"^seed_everything:\s*(\S+)", re.MULTILINE)
_STUDY = "study.db"  # of zoo tune, whose trials are runs
# parts of the names of metrics that are best when they are low
_LOW = re.compile(r"loss|error|mse|mae|rmse|nll|ece|brier|perplexity|bits|fid|distance|elbo_gap|ratio", re.IGNORECASE)


@dataclass(frozen=True)
class RunRow:
    """A run, as tables show it.

    Args:
        folder: The run folder.
        name: Its path below the folder of all runs, "cnn/lenet_digits/version_0".
        recipe: Name of the recipe.
        state: "running", "done", "stopped" or "failed".
        message: How it was stopped, or has failed.
        best: Name, value and mode ("min", "max") of the best value by the model's monitor; None without one.
        metrics: What was measured at the end, by name; values may be nan.
        seed: The seed; None if it is drawn.
        started: Its begin, UTC, as in ISO 8601; "" for older runs.
        seconds: Time of training and test; nan if it is unknown.
        size: Bytes of its files.
        epochs: Epochs that were trained; None if it has not ended.
        steps: Optimizer steps; None if it has not ended.
        trial: Whether it is a trial of ``zoo tune``.
        expected: Name of the metric that the recipe has a bound for; "" without one.
    """

    folder: Path
    name: str
    recipe: str
    state: State
    message: str = ""
    best: tuple[str, float, str] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    started: str = ""
    seconds: float = math.nan
    size: int = 0
    epochs: int | None = None
    steps: int | None = None
    trial: bool = False
    expected: str = ""

    @property
    def test(self) -> tuple[str, float] | None:
        """Name and value of the metric that says most of the test; None without a test.

        That of the recipe's bound, else that of the monitor, else the first.
        """
        if self.expected in self.metrics:
            return self.expected, self.metrics[self.expected]
        names = [name for name in self.metrics if name.startswith("test/")] or [*self.metrics]
        if not names:
            return None
        wanted = self.best[0].rpartition("/")[2] if self.best else ""
        name = next((name for name in names if name.rpartition("/")[2] == wanted), names[0])
        return name, self.metrics[name]

    def value(self, metric: str) -> float | None:
        """Return what was measured of a metric, or the best value of that name; None if it was not."""
        if metric in self.metrics:
            return self.metrics[metric]
        return self.best[1] if self.best is not None and self.best[0] == metric else None


def is_run(folder: Path) -> bool:
    """Return whether a folder is one that a run of ``zoo fit`` has written.

    Others write a ``config.yaml``, too, beside checkpoints and metrics: Lightning's own command line does. Ours names its recipe.
    """
    if not (folder / CONFIG).is_file():
        return False
    if any((folder / name).is_file() for name in (RECORD, RESULTS)):
        return True
    return ((folder / CHECKPOINTS).is_dir() or (folder / METRICS).is_file()) and _names_recipe(folder / CONFIG)


def _names_recipe(config: Path) -> bool:
    """Return whether the comment at the top of a configuration has the line of the recipe."""
    with contextlib.suppress(OSError), config.open(encoding="utf-8", errors="replace") as file:
        return any(_RECIPE.match(line) for line in takewhile(lambda line: line.startswith("#"), file))
    return False


def runs_below(root: Path) -> list[RunRow]:
    """Return all runs below a folder, in the order of their names; foreign files are passed over, links are not followed.

    A run that is removed meanwhile is left out; what is damaged in one is left out of its row.
    """
    return [row for folder in find_runs(root) if (row := read_row(folder, root)) is not None]


def find_runs(root: Path) -> list[Path]:
    """Return the folders of all runs below a folder, in the order of their names, numbers by their value."""
    found = []
    for place, folders, _ in os.walk(root):
        if place != str(root) and is_run(Path(place)):
            found.append(Path(place))
            folders.clear()  # what is inside belongs to the run
    return sorted(found, key=lambda path: natural(path.as_posix()))


def waiting(rows: list[RunRow]) -> list[str]:
    """Return, of the groups of some runs that have more seeds or folds than have begun, how many have."""
    told = []
    for folder in dict.fromkeys(row.folder.parent for row in rows):
        paths = runs_in(folder)
        if paths and (begun := sum(map(is_run, paths))) < len(paths):
            name = next(row.name for row in rows if row.folder.parent == folder).rpartition("/")[0]
            kind = f"{paths[0].name.partition('_')[0]}s"
            told.append(f"{name}: {begun} of {len(paths)} {kind} have begun")
    return told


def read_row(folder: Path, root: Path) -> RunRow | None:
    """Return the row of a run; None if its folder is gone.

    Args:
        folder: The run folder.
        root: The folder of all runs.
    """
    if not is_run(folder):
        return None
    name = folder.relative_to(root).as_posix()
    recipe, seed, expected = folder.parent.name, None, ""
    with contextlib.suppress(OSError, UserError):
        header = catalog.read(folder / CONFIG, catalog.as_name(Path(name).parent.as_posix()))
        recipe, expected = header.name, header.bound[0] if header.bound else ""
    with contextlib.suppress(OSError, ValueError):
        match = _SEED.search((folder / CONFIG).read_text(encoding="utf-8"))
        seed = int(match[1]) if match else None
    results: dict[str, Any] = {}
    with contextlib.suppress(OSError, UserError):
        results = read_results(folder) or {}
    record = read_record(folder)
    state, message = state_of(folder)
    best = results.get("best") or _best_so_far(folder, record)
    bytes_of_files = size_of(folder)
    if not is_run(folder):  # it has been removed while it was read
        return None
    return RunRow(
        folder,
        name,
        recipe,
        state,
        message,
        (str(best["name"]), float(best["value"]), str(best["mode"])) if best else None,
        {str(name): float(v) for name, v in results.get("metrics", {}).items() if isinstance(v, int | float)},
        seed,
        record.started if record else "",
        _seconds(folder, state, record.seconds if record else _number(results.get("seconds"))),
        bytes_of_files,
        results.get("epochs"),
        results.get("steps"),
        any((parent / _STUDY).is_file() for parent in folder.parents if parent.is_relative_to(root)),
        expected,
    )


def _best_so_far(folder: Path, record: Record | None) -> dict[str, Any] | None:
    """Return the best value of a run that has not ended."""
    if record is None or len(record.monitor) != 2:
        return None
    name, mode = record.monitor
    with contextlib.suppress(OSError):
        curve = read_curves(folder / METRICS)[0].get(name)
        if curve is not None and (values := curve.finite()):
            return {"name": name, "value": (min if mode == "min" else max)(values), "mode": mode}
    return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _seconds(folder: Path, state: State, before: float) -> float:
    """Return how long a run has taken: the sessions that have ended, and the one that goes on or was killed."""
    with contextlib.suppress(OSError):
        begin = (folder / RECORD).stat().st_mtime  # written when a session begins, and when it ends
        if state == "running":
            return before + max(time.time() - begin, 0.0)
        if (folder / METRICS).is_file() and not (folder / RESULTS).is_file():
            record = read_record(folder)
            if record is not None and record.state == "running":  # it was killed: until its last row
                return before + max((folder / METRICS).stat().st_mtime - begin, 0.0)
    return float(before)


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder; links count as themselves."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts names with the numbers in them by their value: version_2 before version_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def matching(rows: list[RunRow], pattern: str, part: bool = True) -> list[RunRow]:
    """Return the runs that a word means.

    The run, the folder of runs or the recipe that is called so; if there is none, those that match it as a shell pattern; or else
    those with the text in their name or recipe.

    Args:
        rows: The runs.
        pattern: The word.
        part: Whether it may be a part of a name. What removes runs says no: version_1 is a part of version_10.
    """
    whole = [row for row in rows if pattern == row.recipe or f"{row.name}/".startswith(f"{pattern}/")]
    if whole:
        return whole
    found = [row for row in rows if any(fnmatchcase(text, pattern) for text in (row.name, row.recipe))]
    if found or not part:
        return found
    return [row for row in rows if any(pattern.lower() in text.lower() for text in (row.name, row.recipe))]


def lower_is_better(rows: list[RunRow], metric: str) -> bool:
    """Return whether a metric is best when it is low: as a run that monitors it says, else by its name."""
    last = metric.rpartition("/")[2]
    for row in rows:
        if row.best is not None and row.best[0].rpartition("/")[2] == last:
            return row.best[2] == "min"
    return bool(_LOW.search(last))
