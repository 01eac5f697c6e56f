"""Options that are a time or a number of steps: ``10m``, ``1h30m``, ``200steps``. Imports no torch."""

import math
import re

from recipes.cli.errors import UserError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?[dhms])+")
_STEPS = re.compile(r"([0-9]+) ?steps?")


def seconds_of(option: str, text: str) -> float:
    """Return the seconds of a time.

    Args:
        option: Name of the option, for the message.
        text: Numbers with the units d, h, m and s.

    Raises:
        UserError: It is none, or 0.

    Example:
        >>> seconds_of("--time-limit", "1h30m")
        5400.0
    """
    seconds = _seconds(text)
    if not seconds:
        raise UserError(f"{option} must be a time above 0, such as 500s, 10m or 23h50m, got {text!r}")
    return seconds


def interval_of(option: str, text: str) -> tuple[float | None, int | None]:
    """Return the seconds or the steps of an interval, None for the other.

    Raises:
        UserError: It is neither, or 0.

    Example:
        >>> interval_of("--save-every", "200steps")
        (None, 200)
    """
    if (match := _STEPS.fullmatch(text.strip())) and int(match[1]):
        return None, int(match[1])
    seconds = _seconds(text)
    if not seconds:
        raise UserError(
            f"{option} must be a time or a number of optimizer steps above 0, such as 10m, 500s or 200steps, got {text!r}"
        )
    return seconds, None


def _seconds(text: str) -> float:
    text = text.strip()
    if not _TIME.fullmatch(text):
        return 0.0
    seconds = math.fsum(float(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"[\d.]+[dhms]", text))
    return seconds if math.isfinite(seconds) else 0.0
