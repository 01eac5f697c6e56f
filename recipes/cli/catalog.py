"""The recipes: YAML files of the installed package, and the user's own. Imports no torch."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from recipes.cli.errors import UserError
from zoo.spelling import suggest

PACKAGE = Path(__file__).resolve().parents[1]  # recipes/
_BOUND = re.compile(r"^([\w/]+)\s*(>=|<=)\s*([-+.\deE]+)")


@dataclass(frozen=True)
class Recipe:
    """A recipe and the header of comment lines at its top.

    Args:
        name: "cnn/lenet_digits", or the stem of a user's own file; the run folder is ``runs/<name>/``.
        path: The YAML file.
        summary: One sentence on what it trains.
        expect: The metric and its bound, "test/acc >= 0.955 (measured ...)".
        takes: Duration and hardware.
        data: In a run's ``config.yaml``, the fingerprint of the data it was trained on.
    """

    name: str
    path: Path
    summary: str = ""
    expect: str = ""
    takes: str = ""
    data: str = ""

    @property
    def bound(self) -> tuple[str, str, float] | None:
        """Metric, ">=" or "<=", and bound of the ``expect`` line; None without one."""
        match = _BOUND.match(self.expect)
        return (match[1], match[2], float(match[3])) if match else None

    def header(self) -> str:
        """Return the comment lines that :func:`read` understands, without ``run``."""
        lines = [f"# {self.summary}"] if self.summary else []
        fields = {"recipe": self.name, "expect": self.expect, "takes": self.takes, "data": self.data}
        return "\n".join([*lines, *(f"#   {key:<7} {value}" for key, value in fields.items() if value)]) + "\n"


def read(path: Path, name: str) -> Recipe:
    """Read the header of a recipe; its line ``recipe NAME`` takes precedence over ``name``."""
    fields: dict[str, str] = {}
    key = "summary"
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.startswith("#"):
                    break
                text = line[1:].strip()
                if match := re.match(r"(run|expect|takes|recipe|data(?= +fingerprint))\s+(.*)", text):
                    key, text = match[1], match[2]
                fields[key] = f"{fields.get(key, '')} {text}".strip()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file: a recipe is a YAML file") from None
    values = (fields.get(key, "") for key in ("summary", "expect", "takes", "data"))
    return Recipe(fields.get("recipe", name), path, *values)


def shipped() -> list[Recipe]:
    """Return the recipes of the installed package, sorted by name."""
    paths = sorted(PACKAGE.glob("*/*.yaml"))
    return [read(path, path.relative_to(PACKAGE).with_suffix("").as_posix()) for path in paths]


def find(text: str) -> Recipe:
    """Return the recipe with a name ("cnn/lenet_digits") or a path to a YAML file.

    Raises:
        UserError: There is none; the message suggests the closest name.
    """
    path = Path(text)
    if path.is_file():
        full = path.resolve()
        inside = full.is_relative_to(PACKAGE)
        return read(path, full.relative_to(PACKAGE).with_suffix("").as_posix() if inside else path.stem)
    if path.is_dir():
        raise UserError(f"{text} is a folder: a recipe is a YAML file, or a name that `zoo recipes` lists")
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"no such recipe file: {text}")
    known = {recipe.name: recipe for recipe in shipped()}
    if text not in known:
        raise UserError(f"unknown recipe {text!r}{suggest(text, known)} (`zoo recipes` lists all {len(known)})")
    return known[text]


def matching(pattern: str) -> list[Recipe]:
    """Return the shipped recipes whose name matches a shell pattern or contains the text."""
    return [r for r in shipped() if fnmatchcase(r.name, pattern) or pattern.lower() in r.name.lower()]
