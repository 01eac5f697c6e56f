"""The run folder ``runs/<recipe>/<version>/``: created and found, and its metrics written. Imports no torch."""

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.cli.errors import UserError, one_line
from zoo.writing import replacing

CONFIG, METRICS, LOG, CHECKPOINTS = "config.yaml", "metrics.csv", "log.txt", "checkpoints"
RESULTS = "results.json"  # of a run that has ended: its best value and what was measured on the test data
CONFUSION = "confusion.json"  # of a classifier that was tested
REPORT = "report.html"
BEST, LAST = "best.ckpt", "last.ckpt"
FOLDER_VARIABLE = "ZOO_RUN_FOLDER"  # tells the folder to the processes that rank zero starts


def is_main_process() -> bool:
    """Return whether this process is rank zero according to the launcher's variables, before training starts."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
    ranks = {name: os.environ[name] for name in names if name in os.environ}
    if "RANK" in ranks:
        return ranks["RANK"] == "0"
    return all(rank == "0" for rank in ranks.values())


@dataclass(frozen=True)
class Run:
    """A run folder.

    Args:
        folder: ``runs/<recipe>/<version>``.
        recipe: Name of the recipe.
        created: The folders created for the run, outermost first; none for a resumed run.
    """

    folder: Path
    recipe: str
    created: tuple[Path, ...] = ()

    def discard(self) -> None:
        """Remove the folders created for this run, unless it has a checkpoint."""
        if not self.created or any(self.folder.rglob("*.ckpt")):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in reversed(self.created):
            with contextlib.suppress(OSError):  # not empty: it holds another run
                path.rmdir()


def create_run(root: Path, recipe: str, kind: str = "version") -> Run:
    """Create the next ``version_N`` of a recipe; two runs that start at once get two folders.

    Args:
        root: The folder of all runs.
        recipe: Name of the recipe.
        kind: "version", or what a folder of several runs is called.

    Raises:
        UserError: The folder cannot be created.
    """
    parent = root / recipe
    missing = [path for path in (parent, *parent.parents) if not path.exists()][::-1]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = parent / f"{kind}_{1 + max((version(path, kind) for path in parent.iterdir()), default=-1)}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue  # another run was faster
            run = Run(folder, recipe, (*missing, folder))
            if kind == "version":
                (folder / CHECKPOINTS).mkdir()
            return run
    except OSError as error:
        Run(parent / "none", recipe, tuple(missing)).discard()
        raise UserError(
            f"cannot create a run folder in {parent}: {error.strerror}; give another place with --runs FOLDER"
        ) from error


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write how a run has ended."""
    with replacing(folder / RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def read_results(folder: Path) -> dict[str, Any] | None:
    """Return how a run has ended; None if it has not.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / RESULTS
    if not path.is_file():
        return None
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _, best = {**results["metrics"]}, results["best"]
        if best is not None:
            _ = best["name"], float(best["value"]), best["mode"]
        return results
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({one_line(str(error))}): remove it, and continue the run") from None


_OF_GROUP = re.compile(r"(seed|fold)_(\d+)")


def runs_in(folder: Path) -> list[Path]:
    """Return the runs of a group, in order of their seeds or folds; none if the folder is no group."""
    found = [(match[1], int(match[2]), path) for path in folder.glob("*") if (match := _OF_GROUP.fullmatch(path.name))]
    return [path for _, _, path in sorted(found) if (path / CONFIG).is_file()]


def group_of(run: Path) -> str | None:
    """Return the name of the folder of the group that a run is of, by its own name; None for a run by itself."""
    return run.resolve().parent.name if _OF_GROUP.fullmatch(run.name) else None


def no_single_run(folder: Path) -> str:
    """Return what to say where a run is wanted and a folder is a group of runs; empty if it is none."""
    runs = runs_in(folder)
    return (
        f"{folder} is a group of {len(runs)} runs: give one of them, such as {shlex.quote(str(runs[0]))}"
        if runs
        else ""
    )


def newest_run(root: Path, recipe: str) -> Path | None:
    """Return the newest run of a recipe that can be resumed or tested; None without one."""
    runs = [path for path in (root / recipe).glob("version_*") if (path / CONFIG).is_file() and resumable(path)]
    return max(runs, key=version, default=None)


def newer_runs(root: Path, recipe: str, run: Path | None) -> list[Path]:
    """Return the folders of a recipe after that of a run, or all: killed before their first checkpoint, or of evaluations."""
    folders = [path for path in (root / recipe).glob("version_*") if run is None or version(path) > version(run)]
    return sorted(folders, key=version)


def find_run(text: str, root: Path, recipe: str | None) -> Path:
    """Return the run folder given by a path, by the name of a version, or by a checkpoint in it.

    Raises:
        UserError: There is none.
    """
    places = [Path(text), root / text, *([root / recipe / text] if recipe else [])]
    for place in places:
        folder = place.parent.parent if place.suffix == ".ckpt" and place.is_file() else place
        if (folder / CONFIG).is_file():
            return folder
        if what := no_single_run(folder):
            raise UserError(what)
        if (folder / CHECKPOINTS).is_dir() and not resumable(folder):
            raise UserError(f"the run {folder} was ended before it began: start a new one")
    if Path(text).suffix == ".ckpt" and Path(text).is_file():
        raise UserError(
            f"{text} is not in a run folder (no {CONFIG} beside its checkpoints/): --resume continues a run"
        )
    raise UserError(f"no run {text!r}: tried {', '.join(str(place / CONFIG) for place in places)}")


def is_checkpoint(text: str) -> bool:
    """Return whether a text is the path of a checkpoint."""
    return Path(text).suffix == ".ckpt" and Path(text).is_file()


def checkpoint_of(run: Path, text: str, resume: bool = False) -> Path:
    """Return the checkpoint ``text`` if it is a file, else the best of a run, or with ``resume`` the last.

    Raises:
        UserError: The run has none.
    """
    if is_checkpoint(text):
        return Path(text)
    if paths := resumable(run):
        return paths[0] if resume else min(paths, key=lambda path: path.name != BEST)
    raise UserError(
        f"the run {run} has no checkpoint ({LAST} or {BEST}), it ended before its first one: start it again with "
        f"zoo fit -c {shlex.quote(str(run / CONFIG))}"
    )


def recipe_name(folder: Path, root: Path) -> str:
    """Return the recipe that a run folder belongs to: its path under ``root``, or the name of its parent."""
    parent = folder.resolve().parent
    root = root.resolve()
    return parent.relative_to(root).as_posix() if parent.is_relative_to(root) and parent != root else parent.name


def version(path: Path, kind: str = "version") -> int:
    """Return the number N of a folder ``version_N``, or of another kind; -1 for other names."""
    match = re.fullmatch(rf"{kind}_(\d+)", path.name)
    return int(match[1]) if match else -1


def kept(run: Path) -> list[Path]:
    """Return the checkpoints ``step_N.ckpt`` of a run, which were ``last.ckpt`` before, newest first."""
    found = [(int(match[1]), path) for path in (run / CHECKPOINTS).glob("*") if (match := _KEPT.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def resumable(run: Path) -> list[Path]:
    """Return the checkpoints of a run that it can be resumed from: the last one, those before it, the best one."""
    paths = [run / CHECKPOINTS / LAST, *kept(run), run / CHECKPOINTS / BEST]
    return [path for path in paths if path.is_file()]


_KEPT = re.compile(r"step_(\d+)\.ckpt")


def write_rows(path: Path, names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Replace a metrics file by these rows, atomically."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
