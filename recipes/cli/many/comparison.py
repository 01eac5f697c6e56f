"""What several runs measured: mean and spread over seeds or folds, and the paired test of two groups of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from recipes.cli import catalog
from recipes.cli.errors import UserError
from recipes.cli.run import changes
from recipes.cli.run.folder import CONFIG, read_results, runs_in
from recipes.cli.run.record import Record, read_record
from recipes.cli.text import columns
from recipes.cli.yaml_files import read_recipe


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ in their seed or fold, or a single run.

    Args:
        folder: The folder that was given.
        kind: "seeds", "folds" or "run".
        results: How each has ended, by "seed_0" or "fold_1"; a single run is called "run".
        data: The data that each was trained on.
        unfinished: Names of the runs that have not ended.
        runs: Their folders by name, those that have not ended included.
        recipe: Name of the recipe.
        changed: Options whose values are not the recipe's.
        differ: Options, apart from the seed, in which the runs differ.
    """

    folder: Path
    kind: str
    results: dict[str, dict[str, Any]]
    data: dict[str, str]
    unfinished: tuple[str, ...] = ()
    runs: Mapping[str, Path] = field(default_factory=dict)
    recipe: str = ""
    changed: str = ""
    differ: tuple[str, ...] = ()

    def values(self) -> dict[str, dict[str, float]]:
        """Return the numbers of each metric by run: the best of what was monitored, then what was measured at the end."""
        table: dict[str, dict[str, float]] = {}
        for name, result in self.results.items():
            best = result["best"]
            measured = {f"best {best['name']}": best["value"]} if best else {}
            for metric, value in {**measured, **result["metrics"]}.items():
                table.setdefault(metric, {})[name] = value
        return table

    @property
    def count(self) -> str:
        """The number of runs that have ended: "3 seeds", "2 of 5 seeds", "1 run"."""
        ended, count = len(self.results), len(self.runs)
        if self.kind != "run" and ended < count:
            return f"{ended} of {count} {self.kind}"
        return f"{count} {self.kind.removesuffix('s') if count == 1 else self.kind}"


def read_group(folder: Path) -> Group:
    """Read the results of a group of runs, or of a single run, as far as they have ended.

    Raises:
        UserError: The folder is neither, or what a run has written is damaged.
    """
    paths = runs_in(folder)
    kind = f"{paths[0].name.partition('_')[0]}s" if paths else "run"
    if not paths and not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no run and no group of runs: give a folder that zoo fit has made")
    named = {path.name: path for path in paths} or {"run": folder}
    results = {name: each for name, path in named.items() if (each := read_results(path)) is not None}
    recipes = {name: catalog.read(path / CONFIG, "recipe") for name, path in named.items()}
    first = next(iter(recipes.values()))
    data = {name: recipe.data for name, recipe in recipes.items()}
    unfinished = tuple(name for name in named if name not in results)
    differ = _differences([*named.values()])
    return Group(folder, kind, results, data, unfinished, named, first.name, first.changed, differ)


def _differences(runs: Sequence[Path]) -> tuple[str, ...]:
    """Return the options in which the configurations of runs differ, apart from the seed."""
    configs = [{**read_recipe(run / CONFIG), "seed_everything": None} for run in runs]
    return tuple(dict.fromkeys(key for config in configs for key in changes.differences(configs[0], config)))


def settings(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return what several groups were made with that is not the same for all: options, data, versions; and each one's value.

    The seeds of groups are left out. Of models or data of several classes, the options are compared that at least two have. What a
    group does not have, or what is not known of it, is an empty text.
    """
    firsts = [next(iter(group.runs.values())) for group in groups]
    configs = [_by_callback(read_recipe(run / CONFIG)) for run in firsts]
    if any(group.kind == "seeds" for group in groups):
        configs = [{**config, "seed_everything": None} for config in configs]
    options = [changes.options_of(config) for config in configs]
    keys = [key for key in dict.fromkeys(key for each in options for key in each) if _differs(key, options)]
    found = {key: [changes.shown(each[key]) if key in each else "" for each in options] for key in keys}
    data = [" | ".join(dict.fromkeys(text for text in group.data.values() if text)) for group in groups]
    environments = [(read_record(run) or Record()).environment for run in firsts]
    names = dict.fromkeys(name for environment in environments for name in environment)
    known = [environment for environment in environments if environment]  # older runs tell none
    differ = [name for name in names if len({each.get(name, "") for each in known}) > 1]
    facts = {name: [each.get(name, "") for each in environments] for name in differ}
    return [*found.items(), *([("data", data)] if len({*data}) > 1 else []), *facts.items()]


def _differs(key: str, options: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether an option is not the same in all configurations."""
    section = key.partition(".")[0]
    several = section != key and section in ("model", "data") and len({str(each.get(section)) for each in options}) > 1
    values = [each.get(key) for each in options if key in each]
    if len(values) < len(options) and not several:
        return True
    return any(value != values[0] and changes.shown(value) != changes.shown(values[0]) for value in values)


def _by_callback(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the arguments of each callback by its name in place of the list of callbacks."""
    trainer = config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or not isinstance(callbacks, list):
        return config
    named: dict[str, Any] = {}
    for each in callbacks:
        if not isinstance(each, dict) or "class_path" not in each:
            return config
        name = str(each["class_path"]).rpartition(".")[2]
        while name in named:
            name += "'"
        named[name] = each.get("init_args") or "yes"
    return {**config, "trainer": {**trainer, "callbacks": named}}


def table(group: Group) -> str:
    """Return a table with a row for each run, and their mean, standard deviation and range."""
    values = group.values()
    rows: list[list[str]] = [["run", *values]]
    rows += [[name, *(number(each.get(name)) for each in values.values())] for name in group.results]
    if len(group.results) > 1:
        for name, function in (("mean", fmean), ("std", deviation_of), ("min", min), ("max", max)):
            complete = [[*each.values()] for each in values.values()]
            rows.append([name, *(number(function(each)) if len(each) > 1 else "" for each in complete)])
    return columns(rows)


def deviation_of(values: Sequence[float]) -> float:
    """Return the standard deviation of two or more numbers; nan if one of them is not finite."""
    return stdev(values) if all(map(math.isfinite, values)) else math.nan


def number(value: float | None) -> str:
    """Return a number with four decimals, a small one with four digits; None as an empty text."""
    if value is None:
        return ""
    return f"{value:.4f}" if value == 0 or not math.isfinite(value) or abs(value) >= 0.001 else f"{value:.4g}"


@dataclass(frozen=True)
class Paired:
    """The paired test of two groups.

    Args:
        mean: Mean of the differences.
        low, high: Its 95% confidence interval.
        p: Two-sided p-value of no difference; nan where all differences are equal, or one is not finite.
        pairs: Number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int


def paired_test(differences: Sequence[float], folds: bool) -> Paired:
    """Return Student's paired t-test of n differences, with n - 1 degrees of freedom.

    Folds share most of their training data, so their differences vary less than those of independent data would: the variance of
    the mean is ``(1 / k + 1 / (k - 1)) s^2`` in place of ``s^2 / k``, as Nadeau and Bengio 2003, "Inference for the generalization
    error", Machine Learning 52, section 3 corrects it, with the share of validation to training examples, 1 / (k - 1).

    Args:
        differences: Of the two groups' numbers, by seed or fold, at least 2.
        folds: Whether they are of folds.
    """
    from scipy import stats

    n = len(differences)
    mean, deviation = fmean(differences), deviation_of(differences)
    if deviation == 0 or math.isnan(deviation):
        return Paired(mean, mean + deviation, mean + deviation, math.nan, n)
    error = deviation * math.sqrt(1 / n + (1 / (n - 1) if folds else 0))
    reach = float(stats.t.ppf(0.975, n - 1)) * error
    return Paired(mean, mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, n - 1)), n)


def why_not_paired(one: Group, other: Group) -> str:
    """Return why two groups have no pairs, or an empty text if they have some."""
    shared = [name for name in one.results if name in other.results]
    if "run" in (one.kind, other.kind):
        return "a single run has no spread: train several with --seeds or --folds"
    if one.kind != other.kind:
        return f"one has {one.kind}, the other {other.kind}"
    if len(shared) < 2:
        return f"they have {len(shared)} of their {one.kind} in common, and a test needs 2"
    if any(one.data[name] != other.data[name] for name in shared):
        name = next(name for name in shared if one.data[name] != other.data[name])
        return f"they were trained on other data: {one.data[name]}, and {other.data[name]}"
    return ""


def differences(one: Mapping[str, float], other: Mapping[str, float]) -> list[float]:
    """Return the differences, other - one, of the runs that both have."""
    return [other[name] - value for name, value in one.items() if name in other]
