"""Plain-text tables. Imports no torch."""

import textwrap
from collections.abc import Sequence

WIDTH = 80  # columns of a terminal


def columns(rows: Sequence[Sequence[object]], rule: bool = True) -> str:
    """Format rows of cells as aligned text, the first row as the header.

    Args:
        rows: Cells; numbers are aligned to the right. What would move a terminal's cursor is replaced.
        rule: Whether to draw a line under the first row.

    Example:
        >>> print(columns([("name", "size"), ("a", 10), ("bc", 5)]))
        name  size
        ----  ----
        a       10
        bc       5
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    if rule:
        cells.insert(1, ["-" * width for width in widths])
        rows = [rows[0], cells[1], *rows[1:]]
    lines = []
    for row, texts in zip(rows, cells, strict=True):
        pairs = zip(row, texts, widths, strict=True)
        lines.append("  ".join(t.rjust(w) if isinstance(v, int | float) else t.ljust(w) for v, t, w in pairs).rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """Return a text that came from a file without what a terminal would obey, such as line breaks and escape sequences.

    Example:
        >>> printable("loss\\n\\x1b[2J")
        'loss��[2J'
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Format names and texts in two columns; long texts are broken into lines.

    Example:
        >>> print(facts([("a", "one"), ("long", "two")]))
        a     one
        long  two
    """
    margin = max(len(name) for name, _ in rows) + 2
    lines = []
    for name, text in rows:
        broken = textwrap.wrap(text, WIDTH - margin, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [f"{first:<{margin}}{line}" for first, line in zip([name, *[""] * len(broken)], broken, strict=False)]
    return "\n".join(lines)
