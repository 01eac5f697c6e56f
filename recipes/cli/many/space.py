"""What ``zoo tune`` may change: the ranges and choices of a ``space.yaml``. Imports no torch."""

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.errors import UserError
from recipes.cli.yaml_files import read_yaml
from zoo.spelling import suggest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # PyYAML takes 1e-3 for a text
_RANGE = ("low", "high", "log", "steps")
_FORM = "{low: 0.001, high: 0.1, log: true} or a list of choices"
_MOST_POINTS = 100_000
# what they change is how a trial is measured, or on which examples, so that trials could not be compared
_OF_THE_MEASURE = {
    "model": ("monitor",),
    "data": ("val_fraction", "split_seed", "test_fraction", "val", "test"),
    "trainer": ("limit_val_batches", "overfit_batches", "fast_dev_run"),
}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included: whole ones where both are whole.

    Args:
        low, high: The ends.
        log: Whether equal factors are equally likely, not equal differences.
        steps: Number of points of a grid; None for other methods.
    """

    low: float
    high: float
    log: bool = False
    steps: int | None = None

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def points(self) -> list[Any]:
        """Return the points of a grid."""
        assert self.steps is not None
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        between = [low + (high - low) * i / (self.steps - 1) for i in range(self.steps)]
        points = [math.exp(x) if self.log else x for x in between]
        points[0], points[-1] = self.low, self.high  # without rounding
        return [*dict.fromkeys(round(x) for x in points)] if self.whole else points

    def probes(self) -> list[Any]:
        """Return the values that are tried before the first trial."""
        return [self.low, self.high]

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(float(self.low), float(self.high), log=self.log)

    def value(self, drawn: Any) -> Any:
        """Return the value of what optuna has drawn."""
        return drawn


@dataclass(frozen=True)
class Choices:
    """A few values.

    Args:
        values: Texts, numbers, booleans, null, lists or mappings.
    """

    values: tuple[Any, ...]

    def points(self) -> list[Any]:
        """Return all values, as optuna keeps them."""
        return [self._kept(value) for value in self.values]

    def probes(self) -> list[Any]:
        """Return all values."""
        return [*self.values]

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.points())

    def value(self, drawn: Any) -> Any:
        """Return the value of what optuna has drawn."""
        return next(value for value in self.values if _same(self._kept(value), drawn))

    @staticmethod
    def _kept(value: Any) -> Any:
        return json.dumps(value) if isinstance(value, list | dict) else value


Space = dict[str, Range | Choices]


def read_space(path: Path) -> Space:
    """Read a space.

    Raises:
        UserError: The file is missing or is none; a key cannot be tuned; a range is empty.
    """
    if not path.is_file():
        raise UserError(f"no such space file: {path}")
    try:
        return parse_space(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file: a space is a YAML file") from None


def parse_space(text: str, source: str) -> Space:
    """Return the space of a YAML text; ``source`` is what it is, for messages.

    Raises:
        UserError: See :func:`read_space`.
    """
    content = read_yaml(text, source)
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{source} must be a mapping of options to {_FORM}, such as `model.lr: {{low: 0.001, high: 0.1, log: true}}`"
        )
    return {str(key): _entry(f"{source}: {key}", str(key), value) for key, value in content.items()}


def _entry(where: str, key: str, value: Any) -> Range | Choices:
    section, _, name = key.partition(".")
    if section not in ("model", "data", "trainer") or not name:
        if key == "seed_everything":
            raise UserError(
                f"{where}: the seed is no setting to choose by its result: give --seeds K, which takes the mean over K"
            )
        raise UserError(f"{where}: an option is model.NAME, data.NAME or trainer.NAME")
    if name.removeprefix("init_args.") in _OF_THE_MEASURE[section]:
        raise UserError(f"{where}: trials would be measured in other ways, and could not be compared: leave it out")
    if isinstance(value, list):
        return _choices(where, value)
    if isinstance(value, dict):
        return _range(where, value)
    raise UserError(f"{where} must be {_FORM}, got {value!r}")


def _choices(where: str, values: list[Any]) -> Choices:
    if not values:
        raise UserError(f"{where} is an empty list: give at least one value")
    numbers = [_number(value) for value in values]
    for i, one in enumerate(numbers):
        if any(_same(one, other) for other in numbers[:i]):
            raise UserError(f"{where} has {one!r} twice: give each value once")
        if isinstance(one, float) and not math.isfinite(one):
            raise UserError(f"{where} has {one}, which is not finite")
    return Choices(tuple(numbers))


def _range(where: str, given: dict[Any, Any]) -> Range:
    for key in given:
        if key not in _RANGE:
            raise UserError(f"{where} has an unknown key {key!r}{suggest(str(key), _RANGE)}: a range is {_FORM}")
    for key in ("low", "high"):
        value = _number(given.get(key))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{where}.{key} must be a number, got {value!r}: a range is {_FORM}")
    low, high, log, steps = (_number(given.get(key)) for key in _RANGE)
    if not low < high:
        raise UserError(f"{where}: the range is empty, low {low:g} must be less than high {high:g}")
    if not isinstance(log := bool(log) if log is None else log, bool):
        raise UserError(f"{where}.log must be true or false, got {log!r}")
    if log and low <= 0:
        raise UserError(f"{where}: a range with log: true must be above 0, got low {low:g}")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 2):
        raise UserError(
            f"{where}.steps, the number of points of a grid, must be a whole number of 2 or more, got {steps!r}"
        )
    return Range(low, high, log, steps)


def _number(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def grid(space: Space) -> list[dict[str, Any]]:
    """Return the points of a grid, the last option changing fastest.

    Raises:
        UserError: A range does not say how many points it has, or there are too many points.
    """
    for key, entry in space.items():
        if isinstance(entry, Range) and entry.steps is None:
            raise UserError(
                f"a grid needs points: give {key} a list of choices, or its range the number of points, steps: 5"
            )
    axes = {key: entry.points() for key, entry in space.items()}
    if (count := math.prod(map(len, axes.values()))) > _MOST_POINTS:
        raise UserError(f"the grid has {count:,} points: take fewer, or --method random or tpe")
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def values_of(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the options for what optuna has drawn."""
    return {key: entry.value(drawn[key]) for key, entry in space.items()}


def as_options(values: Mapping[str, Any]) -> list[str]:
    """Return values as options of ``zoo fit``.

    Example:
        >>> as_options({"model.lr": 0.01, "model.widths": [8, 4], "model.init": None})
        ['--model.lr=0.01', '--model.widths=[8, 4]', '--model.init=null']
    """
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
