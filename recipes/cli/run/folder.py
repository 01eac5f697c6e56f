"""The run folder ``runs/<recipe>/<version>/``: making it, finding it again, cutting back its metrics. Imports no torch."""

import contextlib
import csv
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.cli.errors import UserError
from zoo.writing import replacing

CONFIG, METRICS, LOG, CHECKPOINTS = "config.yaml", "metrics.csv", "log.txt", "checkpoints"
BEST, LAST = "best.ckpt", "last.ckpt"
FOLDER_VARIABLE = "ZOO_RUN_FOLDER"  # by it the processes that rank zero starts know the folder


def is_main_process() -> bool:
    """Whether this process is rank zero, as far as the launcher's variables tell before training starts."""
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
        recipe: the recipe's name.
        made: the folders that were made for it, outermost first; none for a run that is resumed.
    """

    folder: Path
    recipe: str
    made: tuple[Path, ...] = ()

    def discard(self) -> None:
        """Remove a folder that was made for nothing: one without a checkpoint."""
        if not self.made or any((self.folder / CHECKPOINTS).glob("*.ckpt")):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in reversed(self.made):
            with contextlib.suppress(OSError):  # not empty: another run is in there
                path.rmdir()


def create_run(root: Path, recipe: str) -> Run:
    """Make the next ``version_N`` of a recipe; two runs that start at once get two folders.

    Raises:
        UserError: the folder cannot be made.
    """
    parent = root / recipe
    missing = [path for path in (parent, *parent.parents) if not path.exists()][::-1]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = parent / f"version_{1 + max((_number(path) for path in parent.iterdir()), default=-1)}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue  # another run was faster
            run = Run(folder, recipe, (*missing, folder))
            (folder / CHECKPOINTS).mkdir()
            return run
    except OSError as error:
        Run(parent / "none", recipe, tuple(missing)).discard()
        raise UserError(
            f"cannot make a run folder in {parent}: {error.strerror}; give another place with --runs FOLDER"
        ) from error


def newest_run(root: Path, recipe: str) -> Path | None:
    """The newest run of a recipe that can be resumed or tested; None without one."""
    runs = [path for path in (root / recipe).glob("version_*") if (path / CONFIG).is_file() and _checkpoints(path)]
    return max(runs, key=_number, default=None)


def find_run(text: str, root: Path, recipe: str | None) -> Path:
    """The run folder meant by a path, by a version's name, or by a checkpoint inside it.

    Raises:
        UserError: there is none.
    """
    places = [Path(text), root / text, *([root / recipe / text] if recipe else [])]
    for place in places:
        folder = place.parent.parent if place.suffix == ".ckpt" and place.is_file() else place
        if (folder / CONFIG).is_file():
            return folder
    if Path(text).suffix == ".ckpt" and Path(text).is_file():
        raise UserError(f"{text} lies in no run folder (no {CONFIG} beside its checkpoints/): --resume continues a run")
    raise UserError(f"no run {text!r}: looked for {', '.join(str(place / CONFIG) for place in places)}")


def checkpoint_of(run: Path, text: str, names: tuple[str, ...]) -> Path:
    """The checkpoint meant: the file itself, or the first of ``names`` that the run holds."""
    if Path(text).suffix == ".ckpt" and Path(text).is_file():
        return Path(text)
    for name in names:
        if (run / CHECKPOINTS / name).is_file():
            return run / CHECKPOINTS / name
    raise UserError(f"the run {run} holds no checkpoint ({' or '.join(names)}): it was stopped before its first one")


def recipe_name(folder: Path, root: Path) -> str:
    """The recipe a run folder belongs to: its place under ``root``, or its parent's name."""
    parent = folder.resolve().parent
    root = root.resolve()
    return parent.relative_to(root).as_posix() if parent.is_relative_to(root) and parent != root else parent.name


def _number(path: Path) -> int:
    found = re.fullmatch(r"version_(\d+)", path.name)
    return int(found[1]) if found else -1


def _checkpoints(run: Path) -> bool:
    return any((run / CHECKPOINTS / name).is_file() for name in (LAST, BEST))


def drop_rows_from(path: Path, step: int) -> None:
    """Remove the rows of a metrics file from optimizer step ``step`` on; the head stays.

    A resumed run does those steps again, and none shall stand there twice.
    """
    if not path.is_file():
        return
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        rows = [row for row in reader if (row.get("step") or "").isdigit() and int(row["step"]) < step]
    write_rows(path, names, rows)


def write_rows(path: Path, names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a metrics file anew, in one step."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
