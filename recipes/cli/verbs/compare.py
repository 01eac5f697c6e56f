"""``zoo compare``: what runs measured, side by side, with the spread over their seeds or folds and a paired test."""

from pathlib import Path

from recipes.cli.errors import UserError
from recipes.cli.many.comparison import (
    Group,
    differences,
    number,
    paired_test,
    read_group,
    table,
    why_not_paired,
)
from recipes.cli.run.options import Parser
from recipes.cli.text import columns

HELP = """zoo compare RUN [RUN ...]: what runs measured, side by side.

  RUN   a run folder, or the folder of a group of runs (zoo fit RECIPE --seeds 3, or --folds 5)

Of a group: the mean, the standard deviation and the range over its seeds or folds. Of two groups of the same seeds or folds, on the
same data: the mean difference from the first group, its 95% interval and the p-value of Student's paired t-test; for folds, which
share training data, with the variance of Nadeau and Bengio (2003). With few seeds only large differences can be told from chance.

Examples:
  zoo compare runs/cnn/lenet_digits/seeds_0
  zoo compare runs/cnn/lenet_digits/seeds_0 runs/cnn/resnet20_digits/seeds_0
"""


def run(args: list[str]) -> int:
    """Run the verb ``compare``."""
    parser = Parser("zoo compare")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    groups = [read_group(path) for path in parser.parse_args(args).runs]
    if len({group.folder.resolve() for group in groups}) < len(groups):
        raise UserError("a run is given twice: give each once")
    for letter, group in zip(_letters(len(groups)), groups, strict=True):
        changed = f", other than the recipe in {group.changed}" if group.changed else ""
        print(f"{letter}  {group.folder}: {group.count} of {group.recipe}{changed}")
        if group.differ:
            print(f"   its runs differ in {', '.join(group.differ)}")
        if group.unfinished:
            print(
                f"   not ended, and left out: {', '.join(group.unfinished)}; continue with zoo fit --resume {group.folder}"
            )
    print()
    if len(groups) == 1:
        print(table(groups[0]))
        return 0
    print(_side_by_side(groups))
    for letter, group in [*zip(_letters(len(groups)), groups, strict=True)][1:]:
        print(f"\n{_test(groups[0], group, letter)}")
    return 0


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
    if why := why_not_paired(first, other):
        return f"{letter} - A  not tested: {why}"
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
