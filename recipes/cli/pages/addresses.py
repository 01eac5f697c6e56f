"""Which file of the runs folder an address means: none outside of it, whatever is asked for. Imports no torch."""

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from recipes.cli.pages.content import is_inside

# in a part of a path: what separates parts, or names a drive, on some system, and control characters
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\:]")


def parts_of(target: str) -> list[str] | None:
    """Return the parts of the path that a request asks for, decoded once; None for one that could lead anywhere else.

    Example:
        >>> parts_of("/run/cnn/lenet_digits/version_0?x=1")
        ['run', 'cnn', 'lenet_digits', 'version_0']
        >>> parts_of("/run/%2e%2e/secret") is None, parts_of("/run/C:/secret") is None, parts_of("http://a/") is None
        (True, True, True)
    """
    if not target.startswith("/") or target.startswith("//"):
        return None
    try:
        given = urlsplit(target)
        parts = [unquote(part, errors="strict") for part in given.path.strip("/").split("/")]
    except (ValueError, UnicodeDecodeError):
        return None
    if parts == [""]:
        return []
    if any(part in ("", ".", "..") or part != part.strip(" ") or _FORBIDDEN.search(part) for part in parts):
        return None
    return parts


def inside(root: Path, parts: list[str]) -> Path | None:
    """Return the path below a folder, or None if it, its links followed, is outside.

    Args:
        root: The folder, resolved.
        parts: Of :func:`parts_of`.
    """
    if not parts or any(part.startswith(".") for part in parts):
        return None
    path = root.joinpath(*parts)
    return path if is_inside(path, root) else None


def address_of(kind: str, path: Path, root: Path) -> str:
    """Return the address of a run or a file.

    Args:
        kind: "run", "state" or "file".
        path: Below ``root``.
        root: The folder of all runs, resolved.
    """
    return f"/{kind}/{quote(path.relative_to(root).as_posix(), safe='/')}"
