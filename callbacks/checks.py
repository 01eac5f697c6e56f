"""Checks of arguments and of metrics."""

import math
from typing import Any


def check_integer(name: str, value: Any, least: int) -> None:
    """Check that an argument is an integer that is not too small.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer >= {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")


def check_seconds(name: str, value: Any) -> None:
    """Check that an argument is a number of seconds above 0.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not above 0, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number of seconds above 0, got {value}")


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Return whether a metric is better than the best so far, None before there is one; nan never is.

    Args:
        value: The metric.
        best: The best so far.
        mode: Whether the best is the "min" or the "max".
    """
    if math.isnan(value):
        return False
    return best is None or (value < best if mode == "min" else value > best)
