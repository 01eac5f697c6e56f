"""Checks of arguments."""

import math
from numbers import Real
from typing import Any


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Check that an argument is an integer in ``least..most``.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is out of the range.
    """
    wanted = f"an integer >= {least}" if most is None else f"an integer in {least}..{most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} must be {wanted}, got {value}")


def check_share(name: str, value: Any, whole: str) -> None:
    """Check that an argument is a share of a whole, in [0, 1).

    Raises:
        ValueError: It is not.
    """
    if not (is_number(value) and 0 <= value < 1):
        raise ValueError(f"{name} must be a share of {whole} in [0, 1), got {value}")


def is_number(value: Any) -> bool:
    """Whether an argument is a finite number; a bool is not a number."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
