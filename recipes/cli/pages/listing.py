"""The page with all runs of a folder. Imports no torch."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recipes.cli import catalog
from recipes.cli.errors import UserError
from recipes.cli.many.comparison import number
from recipes.cli.pages.addresses import address_of
from recipes.cli.pages.content import is_inside, size_of
from recipes.cli.pages.html import element, text
from recipes.cli.pages.report import duration, moment
from recipes.cli.run.folder import CHECKPOINTS, CONFIG, METRICS, RESULTS, read_results
from recipes.cli.run.lock import LOCK
from recipes.cli.run.record import RECORD, Record, State, read_record, state_of

_SEED = re.compile(r"^seed_everything: *(\d+)", re.MULTILINE)
_HEAD_BYTES = 20_000  # of config.yaml, where the seed is


@dataclass(frozen=True)
class Row:
    """A run, as the list shows it.

    Args:
        name: Its folder below that of all runs.
        address: Of its page.
        state: The state that it is in.
        message: How it was stopped, or its error.
        best: Name and value of the best validation.
        test: Name and value of what its recipe expects, else of the accuracy, else of what comes first.
        seed: Of the run.
        seconds: Duration.
        size: Bytes of its folder.
        started: Begin, as in ISO 8601.
    """

    name: str
    address: str
    state: State
    message: str = ""
    best: tuple[str, float] | None = None
    test: tuple[str, float] | None = None
    seed: int | None = None
    seconds: float | None = None
    size: int = 0
    started: str = ""


def is_run(folder: Path, root: Path) -> bool:
    """Return whether a folder is that of a run, and all that tells its state is inside ``root``, which is resolved."""
    return (
        all(is_inside(folder / name, root) for name in (CONFIG, RECORD, RESULTS, LOCK))
        and (folder / CONFIG).is_file()
        and any((folder / name).exists() for name in (RECORD, METRICS, CHECKPOINTS))
    )


def folders_of(root: Path) -> Iterator[Path]:
    """Iterate over the run folders below a folder, which is resolved; links are not followed."""
    for place, folders, _ in os.walk(root):
        if is_run(Path(place), root):
            folders.clear()  # a run has no runs
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def row_of(folder: Path, root: Path) -> Row:
    """Read what the list shows of a run; what is damaged is left out."""
    state, told = state_of(folder)
    record = read_record(folder) or Record()
    results = _results(folder)
    best, metrics = results.get("best"), results.get("metrics", {})
    return Row(
        folder.relative_to(root).as_posix(),
        address_of("run", folder, root),
        state,
        told,
        (str(best["name"]), float(best["value"])) if best else None,
        _measured(folder, metrics),
        _seed(folder),
        record.seconds or results.get("seconds") or None,
        size_of(folder),
        record.started or _changed(folder),
    )


def _results(folder: Path) -> dict[str, Any]:
    try:
        return read_results(folder) or {}
    except (UserError, OSError):
        return {}


def _measured(folder: Path, metrics: dict[str, Any]) -> tuple[str, float] | None:
    """Return the number that stands for all that was measured."""
    try:
        bound = catalog.read(folder / CONFIG, folder.parent.name).bound
    except (UserError, OSError):
        bound = None
    wanted = [bound[0] if bound else "", "test/acc", "val/acc", *metrics]
    name = next((name for name in wanted if name in metrics), None)
    try:
        return None if name is None else (str(name), float(metrics[name]))
    except (TypeError, ValueError):
        return None


def _seed(folder: Path) -> int | None:
    try:
        with (folder / CONFIG).open("rb") as file:
            match = _SEED.search(file.read(_HEAD_BYTES).decode("utf-8", "replace"))
    except OSError:
        return None
    return int(match[1]) if match else None


def _changed(folder: Path) -> str:
    try:
        return datetime.fromtimestamp((folder / CONFIG).stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return ""


def body_of(rows: Sequence[Row], root: str) -> str:
    """Return the HTML of the list, the newest run first."""
    title = element("h1", f"Runs in {text(root)}")
    if not rows:
        return title + element("p", "no runs yet: zoo fit makes the first one, and it appears here")
    states = [row.state for row in rows]
    counts = [f"{states.count(state)} {state}" for state in ("running", "done", "stopped", "failed") if state in states]
    head = "".join(
        f'<th data-first="{first}">{name}</th>'
        for name, first in (
            ("run", "up"),
            ("state", "up"),
            ("best", "down"),
            ("test", "down"),
            ("seed", "up"),
            ("time", "down"),
            ("size", "down"),
            ("started", "down"),
        )
    )
    newest = sorted(rows, key=lambda row: (row.started, row.name), reverse=True)
    body = "".join(map(_line, newest))
    table = f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{title}<p class="note">{", ".join(counts)}</p><div class="wide">{table}</div>\n'


def _line(row: Row) -> str:
    name = text(row.name).replace("/", "/<wbr>")  # where it may be broken
    told = element("div", text(row.message), class_="note told", title=row.message) if row.message else ""
    cells = [
        (row.name, f'<a href="{text(row.address)}">{name}</a>{told}'),
        (row.state, f'<span class="state {row.state}">{row.state}</span>'),
        _measure(row.best),
        _measure(row.test),
        ("", "") if row.seed is None else (str(row.seed), str(row.seed)),
        ("", "") if row.seconds is None else (str(row.seconds), text(duration(row.seconds))),
        (str(row.size), _size(row.size)),
        (row.started, text(moment(row.started))),
    ]
    inner = "".join(f'<td data-sort="{text(key)}">{shown}</td>' for key, shown in cells)
    return f"<tr>{inner}</tr>\n"


def _measure(value: tuple[str, float] | None) -> tuple[str, str]:
    if value is None:
        return "", ""
    return str(value[1]), f'{text(number(value[1]))} <span class="note">{text(value[0])}</span>'


def _size(count: int) -> str:
    """Return a number of bytes as a text.

    Example:
        >>> _size(90), _size(4_200_000)
        ('0.1 kB', '4.2 MB')
    """
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
