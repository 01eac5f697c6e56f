"""``zoo compare``: runs side by side: what they measured, a paired test, in what they were made otherwise, their curves."""

import os
import shlex
from pathlib import Path

from recipes.cli.collection import is_run
from recipes.cli.errors import UserError
from recipes.cli.many.comparison import (
    Group,
    differences,
    number,
    paired_test,
    read_group,
    settings,
    table,
    why_not_paired,
)
from recipes.cli.run.folder import CONFIG, resumable
from recipes.cli.run.options import Parser
from recipes.cli.run.record import state_of
from recipes.cli.text import columns

HELP = """zoo compare RUN [RUN ...]: what runs measured, side by side, in what they were made otherwise, and their curves.

  RUN         a run folder, or the folder of a group of runs (zoo fit RECIPE --seeds 3, or --folds 5); it may be running
  --png FILE  where the curves are drawn (default: compare.png in the folder that has all of the runs, or in the
              current folder if that is inside it)

Of a group: the mean, the standard deviation and the range over its seeds or folds. Of two groups of the same seeds or folds, on the
same data: the mean difference from the first group, its 95% interval and the p-value of Student's paired t-test; for folds, which
share training data, with the variance of Nadeau and Bengio (2003). With few seeds only large differences can be told from chance.
What differs of their configurations, data, versions and commits is listed. In the picture, a group is its mean in a band from its
lowest to its highest run.

Examples:
  zoo compare runs/cnn/lenet_digits/seeds_0
  zoo compare runs/cnn/lenet_digits/seeds_0 runs/cnn/resnet20_digits/seeds_0
"""
_SHORT = 40  # letters of a value in the table of differences
_LEGEND = 48  # letters of a path in the legend, from its end


def run(args: list[str]) -> int:
    """Run the verb ``compare``."""
    from recipes.cli.many.curves import gaps_of

    parser = Parser("zoo compare")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args(args)
    if options.png is not None and options.png.suffix.lower() != ".png":
        raise UserError(f"--png writes a PNG, got {options.png}: give a name that ends in .png")
    groups = [read_group(path) for path in options.runs]
    if len({group.folder.resolve() for group in groups}) < len(groups):
        raise UserError("a run is given twice: give each once")
    for letter, group in zip(_letters(len(groups)), groups, strict=True):
        changed = f", other than the recipe in {group.changed}" if group.changed else ""
        print(f"{letter}  {group.folder}: {group.count} of {group.recipe}{changed}")
        if group.differ:
            print(f"   its runs differ in {', '.join(group.differ)}")
        waiting = [name for name in group.unfinished if group.kind != "run" and not is_run(group.runs[name])]
        if waiting:
            have = "has" if len(waiting) == 1 else "have"
            cure = f"zoo fit --resume {shlex.quote(str(group.folder))} goes on"
            print(f"   {', '.join(waiting)} {have} not begun: {cure}")
        for name in group.unfinished:
            if name in waiting:
                continue
            print(f"   {name if group.kind != 'run' else 'it'} {_not_ended(group.runs[name])}")
        for name, run_folder in group.runs.items():
            if gaps := gaps_of(run_folder):
                print(
                    f"   {name if group.kind != 'run' else 'it'} has values that no curve shows, nan or infinite: {gaps}"
                )
    if len(groups) == 1:
        print(f"\n{table(groups[0])}" if groups[0].results else "")
    else:
        print(f"\n{_side_by_side(groups)}")
        untested: dict[str, list[str]] = {}
        for letter, group in [*zip(_letters(len(groups)), groups, strict=True)][1:]:
            if why := why_not_paired(groups[0], group):
                untested.setdefault(why, []).append(letter)
            else:
                print(f"\n{_test(groups[0], group, letter)}")
        for why, letters in untested.items():
            print(f"\n{', '.join(letters)} - A  not tested: {why}")
        rows = settings(groups)
        cells = [[name, *_short(texts)] for name, texts in rows]
        print(f"\n{columns([['made with', *_letters(len(groups))], *cells])}" if rows else "\nall were made alike")
    _draw(groups, options.png)
    return 0


def _not_ended(run: Path) -> str:
    state, message = state_of(run)
    if state == "running":
        return "is running: its metrics are left out, its curves are as they are now"
    how = "" if state == "done" else f", {state}{f' ({message})' if message else ''}"  # done, but its results are gone
    cure = f"zoo fit --resume {shlex.quote(str(run))} goes on"
    if not resumable(run):
        cure = f"it has no checkpoint: zoo fit -c {shlex.quote(str(run / CONFIG))} starts it again"
    return f"has not ended{how}: its metrics are left out; {cure}"


def _short(texts: list[str]) -> list[str]:
    """Return the beginnings of long texts; if these are the same, what follows, from a little before the first difference.

    Example:
        >>> _short(["short", "a" * 50 + "1, and more"])
        ['short', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…']
        >>> _short(["a" * 50 + "1, and more", "a" * 50 + "2"])
        ['…aaaaaaaaaa1, and more', '…aaaaaaaaaa2']
    """
    known = [text for text in texts if text]
    least = min(map(len, known), default=0)
    same = next((i for i, letters in enumerate(zip(*known, strict=False)) if len({*letters}) > 1), least)
    cut = [f"…{text[same - 10 :]}" if text and same >= _SHORT - 1 and len(known) > 1 else text for text in texts]
    short = [text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…" for text in cut]
    return short if len({*short}) == len({*texts}) else texts  # never alike where they are not


def _draw(groups: list[Group], path: Path | None) -> None:
    """Draw the curves, and tell where.

    Raises:
        UserError: The file cannot be written.
    """
    from recipes.cli.many.curves import draw

    common = Path(os.path.commonpath([group.folder.resolve() for group in groups]))
    if path is None:
        folder = common.parent if groups[0].kind == "run" and len(groups) == 1 else common
        # runs of several places may have nothing in common but the root of the disk
        if Path.cwd().is_relative_to(folder):
            folder = Path.cwd()
        path = Path(os.path.relpath(folder / "compare.png"))
    names = [os.path.relpath(group.folder) for group in groups]
    labels = {
        f"{letter}  {name if len(name) <= _LEGEND else f'…{name[1 - _LEGEND :]}'}": [*group.runs.values()]
        for letter, name, group in zip(_letters(len(groups)), names, groups, strict=True)
    }
    try:
        if draw(labels, path):
            print(f"\ncurves  {path}")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give another place with --png") from error


def _letters(count: int) -> list[str]:
    return [chr(ord("A") + i) if i < 26 else f"#{i + 1}" for i in range(count)]


def _side_by_side(groups: list[Group]) -> str:
    """Return a table of the metrics: mean and range of each group."""
    values = [group.values() for group in groups]
    metrics = dict.fromkeys(metric for each in values for metric in each)
    cells = [[metric, *(_cell([*each.get(metric, {}).values()]) for each in values)] for metric in metrics]
    return columns([["metric", *_letters(len(groups))], *cells])


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    mean = number(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} ({number(min(values))} to {number(max(values))})"


def _test(first: Group, other: Group, letter: str) -> str:
    one, two = first.values(), other.values()
    rows = [[f"{letter} - A", "mean", "95% interval", "p", "pairs"]]
    for metric in one.keys() & two.keys():
        pairs = differences(one[metric], two[metric])
        if len(pairs) > 1:
            test = paired_test(pairs, first.kind == "folds")
            interval = f"{number(test.low)} to {number(test.high)}"
            rows.append([metric, number(test.mean), interval, number(test.p), str(test.pairs)])
    rows[1:] = sorted(rows[1:], key=lambda row: [*one].index(row[0]))
    return columns(rows)
