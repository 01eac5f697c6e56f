"""Checks of what a file says of a model, before anything is built: types, ranges, sizes."""

import inspect
import json
import math
import re
import reprlib
import types
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from zoo.arguments import LEAST

MAX_BYTES = 2**26  # of a config.json: the class names and categories of large tables are a few million
MAX_DEPTH = 50  # of lists and dicts in each other
MAX_SIZE = 2**24  # number of classes, channels, columns
MAX_INPUT = 2**28  # numbers in one example: a gigabyte

# What a config.json, or the entry "zoo" of a checkpoint, says beside the hyperparameters. Other entries are a model's own.
DESCRIPTION: dict[str, Any] = {
    "model": str | None,
    "zoo_version": str,
    "sha256": str,
    "hparams": dict[str, Any],
    "class_names": list[str] | None,
    "input_shape": list[int] | None,
    "preparation": dict[str, Any] | None,
    "vocabulary": dict[str, Any] | None,
    "source_vocabulary": dict[str, Any] | None,
    "caption_length": int | None,
    "training": dict[str, Any],
    "frozen": int,
    "buffers": dict[str, list[float]],  # of version 0.1.0
}


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        ValueError: It is too large, nested too deeply, not JSON, or holds something else or a key twice.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {MAX_BYTES:,}")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_without_twins)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not an object")  # noqa: TRY004 (it is the file's content)
    return content


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in content if names.count(name) > 1)!r} twice")
    return content


def check_description(description: Mapping[str, Any], path: object) -> None:
    """Check what a file says of a model, its hyperparameters excepted.

    Raises:
        ValueError: An entry of another type, or out of its range.
    """
    for name, wanted in DESCRIPTION.items():
        if name in description:
            check_value(description[name], wanted, name, path)
    if len(digest := description.get("sha256", "0" * 64)) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError(f"{path}: sha256 must be 64 hexadecimal digits, got {_shown(digest)}")
    if (frozen := description.get("frozen", 0)) < 0:
        raise ValueError(f"{path}: frozen must be a number of layer groups, 0 or more, got {_shown(frozen)}")
    longest = description.get("caption_length")
    if longest is not None and not 1 <= longest <= MAX_SIZE:
        raise ValueError(f"{path}: caption_length must lie in 1..{MAX_SIZE:,}, got {_shown(longest)}")
    check_input_shape(description.get("input_shape"), "input_shape", path)


def check_hyperparameters(
    hparams: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], path: object
) -> None:
    """Check hyperparameters against the arguments of a model's constructor.

    Raises:
        ValueError: A value of another type, or a size out of its range.
    """
    for name, value in hparams.items():
        check_value(value, parameters[name].annotation, name, path)
        if name in LEAST and isinstance(value, int) and not LEAST[name] <= value <= MAX_SIZE:
            raise ValueError(f"{path}: {name} must lie in {LEAST[name]}..{MAX_SIZE:,}, got {_shown(value)}")
        if name == "input_shape":
            check_input_shape(value, name, path)


def check_input_shape(shape: Any, entry: str, path: object) -> None:
    """Refuse a shape that no example can have.

    Raises:
        ValueError: A side below 1, or too many numbers.
    """
    if isinstance(shape, list | tuple) and (min(shape, default=1) < 1 or math.prod(shape) > MAX_INPUT):
        raise ValueError(
            f"{path}: {entry} must be sides of 1 or more with at most {MAX_INPUT:,} numbers, got {_shown(shape)}"
        )


def check_value(value: Any, wanted: Any, entry: str, path: object) -> None:
    """Check that a value is plain data of a type.

    Args:
        value: The value.
        wanted: The type, as an annotation.
        entry: Name of the value in the file, for messages.
        path: The file.

    Raises:
        ValueError: It is not.
    """
    _check_plain(value, entry, path, MAX_DEPTH)
    if not fits(value, wanted):
        name = re.sub(r"\b(typing|collections\.abc)\.", "", inspect.formatannotation(wanted)).replace(
            "NoneType", "None"
        )
        raise ValueError(f"{path}: {entry} must be {name}, got {_shown(value)}")


def _check_plain(value: Any, entry: str, path: object, depth: int) -> None:
    if depth < 0:
        raise ValueError(f"{path}: {entry.partition('.')[0].partition('[')[0]} is nested too deeply")
    if isinstance(value, Mapping):
        for key, part in value.items():
            _check_plain(key, f"{entry}.{_shown(key)}", path, 0)
            _check_plain(part, f"{entry}.{key}", path, depth - 1)
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            _check_plain(part, f"{entry}[{i}]", path, depth - 1)
    elif isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError(f"{path}: {entry} is no valid text, got {_shown(value)}")
    elif isinstance(value, float):
        if math.isnan(value) and not entry.startswith("training."):
            raise ValueError(f"{path}: {entry} is nan")
    elif isinstance(value, int):
        if abs(value) >= 2**63:
            raise ValueError(f"{path}: {entry} must lie in -2^63..2^63 - 1, got {_shown(value)}")
    elif value is not None:
        raise ValueError(f"{path}: {entry} must be plain data, got a {type(value).__name__}")


def fits(value: Any, wanted: Any) -> bool:
    """Whether plain data have a type, given as an annotation; what is not known here fits (a class, a name in quotes).

    Example:
        >>> fits([1, 2], list[int] | None), fits(True, int), fits(3, float), fits("x", Literal["x", "y"])
        (True, False, True, True)
    """
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if wanted in (None, type(None)):
        return value is None
    if wanted in (int, float):
        return isinstance(value, (int, float) if wanted is float else int) and not isinstance(value, bool)
    if wanted in (str, bool):
        return isinstance(value, wanted)
    kind = wanted if origin is None else origin
    if not isinstance(kind, type) or kind is inspect.Parameter.empty:
        return True
    if issubclass(kind, Mapping):
        key, item = parts or (Any, Any)
        return isinstance(value, Mapping) and all(fits(k, key) and fits(v, item) for k, v in value.items())
    if issubclass(kind, Collection):
        if kind is tuple and parts and Ellipsis not in parts:
            return isinstance(value, list | tuple) and len(value) == len(parts) and all(map(fits, value, parts))
        return isinstance(value, list | tuple) and (not parts or all(fits(item, parts[0]) for item in value))
    return True


def check_standardization(state: Mapping[str, Any], pairs: Iterable[tuple[str, str]], path: object) -> None:
    """Check the means and deviations of a state dict, where it has them.

    Args:
        state: The state dict.
        pairs: Names of a mean and a deviation.
        path: The file.

    Raises:
        ValueError: They are not equally many finite numbers, or a deviation is not above 0.
    """
    for names in pairs:
        if not state.keys() >= set(names):
            continue
        mean, std = (state[name] for name in names)
        sound = all(t.is_floating_point() and t.ndim <= 1 and t.isfinite().all() for t in (mean, std))
        if not sound or mean.shape != std.shape or not (std > 0).all():
            raise ValueError(
                f"{path}: {' and '.join(names)} must be equally many finite numbers, {names[1]} above 0, got "
                f"{_shown(mean.flatten()[:8].tolist())} and {_shown(std.flatten()[:8].tolist())}"
            )


def _shown(value: Any) -> str:
    """Return a value as text, shortened."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    short.maxlevel = 2
    return short.repr(value)
