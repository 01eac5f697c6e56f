"""The page with all runs of a folder. Imports no torch."""

import math
from collections.abc import Sequence
from pathlib import Path

from recipes.cli import collection
from recipes.cli.collection import RunRow
from recipes.cli.many.comparison import number
from recipes.cli.pages.addresses import address_of
from recipes.cli.pages.content import is_inside
from recipes.cli.pages.html import element, fold, text
from recipes.cli.pages.report import duration, moment
from recipes.cli.run.folder import CONFIG, METRICS, RESULTS
from recipes.cli.run.lock import LOCK
from recipes.cli.run.record import RECORD

_READ = (CONFIG, METRICS, RESULTS, RECORD, LOCK)  # of a run, for its row
_COLUMNS = {  # and the order that a first click sorts in
    "run": "up",
    "state": "up",
    "best": "down",
    "test": "down",
    "seed": "up",
    "time": "down",
    "size": "down",
    "started": "down",
}


def is_run(folder: Path, root: Path) -> bool:
    """Return whether a folder is that of a run, and all that tells its state is inside ``root``, which is resolved."""
    return all(is_inside(folder / name, root) for name in _READ) and collection.is_run(folder)


def body_of(rows: Sequence[RunRow], root: Path, shown: str) -> str:
    """Return the HTML of the list, the newest run first.

    Args:
        rows: The runs.
        root: The folder of all runs, resolved.
        shown: What it is called.
    """
    title = element("h1", f"Runs in {text(shown)}")
    if not rows:
        return title + element("p", "no runs yet: zoo fit makes the first one, and it appears here")
    newest = sorted(rows, key=lambda row: (row.started, row.name), reverse=True)
    runs, trials = ([row for row in newest if row.trial is which] for which in (False, True))
    states = [row.state for row in runs]
    counts = [f"{states.count(state)} {state}" for state in ("running", "done", "stopped", "failed") if state in states]
    number_of_trials = f"{len(trials)} trial{'s' * (len(trials) != 1)} of zoo tune"
    return (
        title
        + element("p", ", ".join(counts), class_="note")
        + "".join(element("p", text(line), class_="note") for line in collection.waiting(runs))
        + (_table(runs, root) if runs else "")
        + (fold(number_of_trials, _table(trials, root), "trials") if trials else "")
    )


def _table(rows: Sequence[RunRow], root: Path) -> str:
    head = "".join(f'<th data-first="{first}">{name}</th>' for name, first in _COLUMNS.items())
    body = "".join(_line(row, root) for row in rows)
    return f'<div class="wide"><table class="runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'


def _line(row: RunRow, root: Path) -> str:
    name = text(row.name).replace("/", "/<wbr>")  # where it may be broken
    told = element("div", text(row.message), class_="note told", title=row.message) if row.message else ""
    known = math.isfinite(row.seconds)
    cells = [
        (row.name, f'<a href="{text(address_of("run", row.folder, root))}">{name}</a>{told}'),
        (row.state, f'<span class="state {row.state}">{row.state}</span>'),
        _measure(row.best),
        _measure(row.test),
        ("", "") if row.seed is None else (str(row.seed), str(row.seed)),
        (str(row.seconds), text(duration(row.seconds))) if known else ("", ""),
        (str(row.size), _size(row.size)),
        (row.started, text(moment(row.started))),
    ]
    inner = "".join(f'<td data-sort="{text(key)}">{shown}</td>' for key, shown in cells)
    return f"<tr>{inner}</tr>\n"


def _measure(value: tuple[str, float] | tuple[str, float, str] | None) -> tuple[str, str]:
    if value is None:
        return "", ""
    name, measured, *_ = value
    key = str(measured) if math.isfinite(measured) else ""
    return key, f'{text(number(measured))} <span class="note">{text(name)}</span>'


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
