"""What a run folder holds, read for a page: what is missing or damaged is left out and noted. Imports no torch."""

import csv
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.cli import catalog
from recipes.cli.catalog import Recipe
from recipes.cli.errors import UserError
from recipes.cli.pages.curves import Curve, read_curves
from recipes.cli.run.folder import CONFIG, CONFUSION, LOG, METRICS, RESULTS, read_results
from recipes.cli.run.record import RECORD, Record, read_record
from recipes.cli.yaml_files import read_recipe

DIAGNOSES, SAMPLES = "diagnoses.json", "samples"
_LOG_BYTES = 40_000  # at the end of the log
_TEXT_BYTES = 20_000  # of a sample
_JSON_BYTES = 20_000_000
_ROWS = 50  # of a table
_SAMPLE = re.compile(r"epoch_(\d+)_(.+)\.(png|txt|csv)", re.DOTALL)


@dataclass(frozen=True)
class Sample:
    """What a model made of fixed examples after an epoch: a file of ``samples/``.

    Args:
        name: "examples".
        epoch: Epochs done.
        path: The file, a picture, a text or a table.
    """

    name: str
    epoch: int
    path: Path


@dataclass
class Content:
    """What a run folder holds.

    Args:
        folder: The run folder.
        record: Its ``run.json``; None without one.
        recipe: The header of its ``config.yaml``.
        config: Its ``config.yaml`` as a text, and as plain data.
        results: How it has ended; None if it has not.
        diagnoses: Of ``diagnoses.json``.
        confusion: Of ``confusion.json``.
        curves: Of ``metrics.csv``.
        samples: Files of ``samples/``.
        pictures: The PNG files beside ``config.yaml``.
        tables: The CSV files there, but ``metrics.csv``.
        log: The end of ``log.txt``.
        notes: What is damaged.
    """

    folder: Path
    record: Record | None = None
    recipe: Recipe | None = None
    config: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] | None = None
    diagnoses: list[dict[str, Any]] = field(default_factory=list)
    confusion: dict[str, Any] | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    log: str = ""
    notes: list[str] = field(default_factory=list)


def read_content(folder: Path, within: Path | None = None) -> Content:
    """Read a run folder; nothing in it is changed.

    Args:
        folder: The run folder.
        within: A folder, resolved, that no file may be outside of: links that lead elsewhere are left out. None: any file.
    """
    found = Content(folder)

    def has(path: Path) -> bool:
        return is_inside(path, within) and path.is_file()

    def part(name: str, read: Callable[[Path], Any]) -> Any:
        try:
            return read(folder / name) if has(folder / name) else None
        except (OSError, UserError, ValueError, TypeError, KeyError, RecursionError):
            found.notes.append(f"{name} is damaged, or cannot be read")
            return None

    if part(RECORD, lambda path: _object(path)) is not None:
        found.record = read_record(folder)
    found.recipe = part(CONFIG, lambda path: catalog.read(path, folder.parent.name))
    found.settings = part(CONFIG, read_recipe) or {}
    found.config = part(CONFIG, lambda path: _end(path, 1_000_000)) or ""
    found.results = part(RESULTS, lambda _: read_results(folder))
    found.diagnoses = part(DIAGNOSES, _diagnoses) or []
    found.confusion = part(CONFUSION, _confusion)
    found.log = part(LOG, lambda path: _end(path, _LOG_BYTES)) or ""
    found.curves, damaged = part(METRICS, read_curves) or ({}, 0)
    if damaged:
        found.notes.append(f"{METRICS} has {damaged} damaged line{'s' * (damaged != 1)}, left out")
    names = _names(folder)
    found.pictures = [folder / name for name in names if name.endswith(".png") and has(folder / name)]
    found.tables = [folder / name for name in names if name.endswith(".csv") and name != METRICS and has(folder / name)]
    for name in _names(folder / SAMPLES) if is_inside(folder / SAMPLES, within) else []:
        if (match := _SAMPLE.fullmatch(name)) and has(path := folder / SAMPLES / name):
            found.samples.append(Sample(match[2], int(match[1]), path))
    found.samples.sort(key=lambda sample: (sample.name, sample.epoch))
    found.notes = list(dict.fromkeys(found.notes))
    return found


def is_inside(path: Path, within: Path | None) -> bool:
    """Return whether a path, its links followed, is in a folder; anything is inside None."""
    try:
        return within is None or path.resolve().is_relative_to(within)
    except (OSError, RuntimeError, ValueError):  # a circle of links
        return False


def read_table(path: Path) -> tuple[list[list[str]], bool]:
    """Return the first rows of a table, and whether there are more.

    Raises:
        OSError, ValueError: It cannot be read.
    """
    rows: list[list[str]] = []
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.reader(line.replace("\0", "\ufffd") for line in file):
                if len(rows) > _ROWS:
                    return rows, True
                rows.append(row)
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return rows, False


def read_text(path: Path) -> tuple[str, bool]:
    """Return the beginning of a text, and whether there is more.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(_TEXT_BYTES + 1)
    return content[:_TEXT_BYTES].decode("utf-8", "replace"), len(content) > _TEXT_BYTES


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _end(path: Path, most: int) -> str:
    """Return the end of a text, from the beginning of a line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        content = file.read(most).decode("utf-8", "replace")
    return content if size <= most else content.partition("\n")[2]


def _json(path: Path) -> Any:
    if path.stat().st_size > _JSON_BYTES:
        raise ValueError(f"{path} is too large")
    return json.loads(path.read_text(encoding="utf-8"))


def _object(path: Path) -> dict[str, Any]:
    return {**_json(path)}


def _diagnoses(path: Path) -> list[dict[str, Any]]:
    return [{key: each[key] for key in ("name", "evidence", "cure", "epoch", "step")} for each in _json(path)]


def _confusion(path: Path) -> dict[str, Any]:
    """Return the content of ``confusion.json``.

    Raises:
        ValueError, KeyError, TypeError: It is damaged.
    """
    content = _object(path)
    names, count = [str(name) for name in content["names"]], len(content["names"])
    if "labels" in content:
        labels = [[[int(n) for n in row] for row in each] for each in content["labels"]]
        if len(labels) != count or any([len(row) for row in each] != [2, 2] for each in labels):
            raise ValueError("other numbers than names")
        return {**content, "names": names, "labels": labels}
    for key in ("true", "predicted", "right"):
        content[key] = [int(n) for n in content[key]]
        if len(content[key]) != count:
            raise ValueError("other numbers than names")
    content["pairs"] = [(int(i), int(j), int(n)) for i, j, n in content["pairs"]]
    if any(not (0 <= i < count and 0 <= j < count) for i, j, _ in content["pairs"]):
        raise ValueError("a pair without a name")
    return {**content, "names": names, "further": int(content["further"])}
