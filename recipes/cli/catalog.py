"""Finding recipes: the YAML files of the installed package, and the user's own. Imports no torch."""

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
    """A recipe and what the comment lines at its head say.

    Args:
        name: "cnn/lenet_digits", or the stem of a file of the user's own; the run folder is ``runs/<name>/``.
        path: the YAML.
        what: what it is.
        expect: the metric and its bound, "test/acc >= 0.955 (measured ...)".
        takes: how long it takes, on what.
        data: in a run's ``config.yaml``, the fingerprint of what it was trained on.
    """

    name: str
    path: Path
    what: str = ""
    expect: str = ""
    takes: str = ""
    data: str = ""

    @property
    def bound(self) -> tuple[str, str, float] | None:
        """Metric, ">=" or "<=", and the number of the ``expect`` line; None without one."""
        found = _BOUND.match(self.expect)
        return (found[1], found[2], float(found[3])) if found else None

    def header(self) -> str:
        """The comment lines that :func:`read` understands, without ``run``."""
        lines = [f"# {self.what}"] if self.what else []
        told = {"recipe": self.name, "expect": self.expect, "takes": self.takes, "data": self.data}
        return "\n".join([*lines, *(f"#   {key:<7} {value}" for key, value in told.items() if value)]) + "\n"


def read(path: Path, name: str) -> Recipe:
    """Read the head of a recipe; a line ``recipe NAME`` there wins over ``name``."""
    told: dict[str, str] = {}
    key = "what"
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.startswith("#"):
                    break
                text = line[1:].strip()
                if found := re.match(r"(run|expect|takes|recipe|data(?= +fingerprint))\s+(.*)", text):
                    key, text = found[1], found[2]
                told[key] = f"{told.get(key, '')} {text}".strip()
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file: a recipe is a YAML") from None
    return Recipe(told.get("recipe", name), path, *(told.get(key, "") for key in ("what", "expect", "takes", "data")))


def shipped() -> list[Recipe]:
    """The recipes of the installed package, by name."""
    paths = sorted(PACKAGE.glob("*/*.yaml"))
    return [read(path, path.relative_to(PACKAGE).with_suffix("").as_posix()) for path in paths]


def find(text: str) -> Recipe:
    """The recipe of a short name ("cnn/lenet_digits") or of a path to a YAML.

    Raises:
        UserError: there is none; the message suggests the closest name.
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
    """The shipped recipes whose name matches a shell pattern, or holds the text."""
    return [r for r in shipped() if fnmatchcase(r.name, pattern) or pattern.lower() in r.name.lower()]
