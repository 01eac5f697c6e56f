"""Checks of arguments."""

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
