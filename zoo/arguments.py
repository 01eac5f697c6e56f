"""Types of a model's arguments, checked against its signature before anything is built from them."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter, Signature
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

# arguments of these names mean the same everywhere, and a net cannot be built of less; tasks know more about num_classes
LEAST = {
    "in_channels": 1,
    "in_features": 1,
    "num_outputs": 1,
    "image_size": 1,
    "num_classes": 0,
    "vocab_size": 1,
    "source_vocab_size": 1,
}
_LISTS = (list, tuple, Sequence, Iterable)
_NAMES = {int: "an integer", float: "a finite number", bool: "True or False", str: "a text", NoneType: "None"}


def check_types(signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check what plain types tell: integers, finite numbers, truth values, texts, None, and lists and unions of them.

    An integer is not a truth value, and not a float; a float may be an integer. Other types are not looked at, and neither are
    the choices of a Literal, whose class knows more about them.

    Args:
        signature: Of the class, without ``self``.
        args: Positional arguments.
        kwargs: Named arguments; unknown ones are left to Python.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is not finite, or a size is too small.
    """
    names = [p.name for p in signature.parameters.values() if p.kind is not Parameter.KEYWORD_ONLY]
    for name, value in {**dict(zip(names, args, strict=False)), **kwargs}.items():
        parameter = signature.parameters.get(name)
        if parameter is None or parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            continue
        hint = parameter.annotation
        if value is None and parameter.default is None:
            continue
        if not _fits(value, hint):
            infinite = isinstance(value, float) and not math.isfinite(value)
            error = ValueError if infinite else TypeError
            raise error(f"{name} must be {_wanted(hint)}, got {value!r}")
        if isinstance(value, Integral) and value < (least := LEAST.get(name, value)):
            raise ValueError(f"{name} must be {least} or more, got {value}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in inner)
    if origin is Literal:
        return any(_fits(value, type(choice)) for choice in inner)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is float:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    if hint is str:
        return isinstance(value, str | os.PathLike)
    if hint in (bool, NoneType) or hint is None:
        return isinstance(value, NoneType if hint is None else hint)
    if (origin or hint) in _LISTS:
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            return False
        kinds = [kind for kind in inner if kind is not Ellipsis]
        return len(kinds) != 1 or not isinstance(value, Sequence) or all(_fits(item, kinds[0]) for item in value)
    if (origin or hint) in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _wanted(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_wanted(kind) for kind in inner))
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if (origin or hint) in _LISTS:
        kinds = " or ".join(_wanted(kind) for kind in inner if kind is not Ellipsis)
        return f"a list of values, each {kinds}" if kinds else "a list"
    if (origin or hint) in (dict, Mapping):
        return "a dict"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))
