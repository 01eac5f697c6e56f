"""A row of the table, and the table. Imports no torch."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["pass", "warn", "fail", "n/a"]

_WIDTH = 110
_NAME = 20  # columns of a check's name


@dataclass(frozen=True)
class Row:
    """What a check found.

    Args:
        check: Name of the check.
        status: "pass"; "warn": look at it; "fail": do not train before it is mended; "n/a": the check makes no sense here.
        detail: What was measured; of "n/a" why it was not.
        cure: What to do; empty where there is nothing to do.
        more: Further results, as plain data, for ``--json``.
    """

    check: str
    status: Status
    detail: str
    cure: str = ""
    more: dict[str, Any] | None = None


def not_applicable(check: str, reason: str) -> Row:
    """Return the row of a check that makes no sense here."""
    return Row(check, "n/a", reason)


def verdict(rows: Sequence[Row]) -> str:
    """Return the worst status of all rows: "fail", "warn" or "pass"."""
    found = {row.status for row in rows}
    return next((status for status in ("fail", "warn") if status in found), "pass")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, a failure's cure below it.

    Example:
        >>> print(table([Row("inputs", "warn", "mean 120, std 60", "standardize them")]))
        warn  inputs              mean 120, std 60
                                  cure: standardize them
    """
    margin = " " * (6 + _NAME)
    lines = []
    for row in rows:
        texts = [row.detail, *([f"cure: {row.cure}"] if row.cure else [])]
        broken = [line for text in texts for line in textwrap.wrap(text, _WIDTH - len(margin)) or [""]]
        lines += [f"{row.status:<6}{row.check:<{_NAME}}{broken[0]}", *(f"{margin}{line}" for line in broken[1:])]
    return "\n".join(lines)


def plain(row: Row) -> dict[str, Any]:
    """Return a row as plain data."""
    return {
        "check": row.check,
        "status": row.status,
        "detail": row.detail,
        "cure": row.cure,
        **({"more": row.more} if row.more else {}),
    }
