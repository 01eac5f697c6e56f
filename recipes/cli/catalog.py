"""The recipes: YAML files of the installed package, and the user's own. Imports no torch."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from recipes.cli.errors import UserError
from recipes.cli.yaml_files import read_recipe
from zoo.spelling import suggest

PACKAGE = Path(__file__).resolve().parents[1]  # recipes/
_BOUND = re.compile(r"^([\w/]+)\s*(>=|<=)\s*([-+.\deE]+)")
_FIELD = re.compile(  # of a header; those from `data` on in a run's config.yaml, where other comments may begin with these words
    r"(run|expect|takes|recipe|data(?= +fingerprint)|changed(?= +(?:model|data|trainer)\b)"
    r"|logger(?= +(?:tensorboard$|wandb|[\w.]+\.\w+$))|fold(?= +\d+ of \d+$)|saving(?= +every ))"
    r"\s+(.*)"
)
_NAMES = ("expect", "takes", "data", "changed", "logger", "fold", "saving")  # in the order of Recipe's
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")  # a path below runs/ that cannot leave it


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
        changed: In a run's ``config.yaml``, the keys whose values are not the recipe's: "data.size, trainer.max_epochs".
        logger: In a run's ``config.yaml``, the logger that a resumed run continues with; "" is metrics.csv alone.
        fold: In a run's ``config.yaml``, the fold of the training data that validates: "2 of 5".
        saving: In a run's ``config.yaml``, when it saves and what is kept: "every 10m, keep 2".
    """

    name: str
    path: Path
    summary: str = ""
    expect: str = ""
    takes: str = ""
    data: str = ""
    changed: str = ""
    logger: str = ""
    fold: str = ""
    saving: str = ""

    @property
    def title(self) -> str:
        """The first sentence of the summary, without its period."""
        return re.split(r"\.(?:\s|$)", self.summary, maxsplit=1)[0]

    @property
    def time(self) -> str:
        """The duration alone: "20 s", or "30 epochs" where no time is known."""
        match = re.search(r"\d[\d,]* \w+", self.takes)
        return match[0] if match else ""

    @property
    def bound(self) -> tuple[str, str, float] | None:
        """Metric, ">=" or "<=", and bound of the ``expect`` line; None without one."""
        match = _BOUND.match(self.expect)
        return (match[1], match[2], float(match[3])) if match else None

    def header(self) -> str:
        """Return the comment lines that :func:`read` understands, without ``run``."""
        lines = [f"# {self.summary}"] if self.summary else []
        fields = {"recipe": self.name, **{name: getattr(self, name) for name in _NAMES}}
        return "\n".join([*lines, *(f"#   {key:<7} {value}" for key, value in fields.items() if value)]) + "\n"


def read(path: Path, name: str) -> Recipe:
    """Read the header of a recipe; its line ``recipe NAME`` takes precedence over ``name``.

    Raises:
        UserError: The file is no text, or its name could lead out of the folder of all runs.
    """
    fields: dict[str, str] = {}
    key = "summary"
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.startswith("#"):
                    break
                text = line[1:].strip()
                if match := _FIELD.match(text):
                    key, text = match[1], match[2]
                fields[key] = f"{fields.get(key, '')} {text}".strip()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file: a recipe is a YAML file") from None
    if not _NAME.fullmatch(given := fields.get("recipe", name)):
        raise UserError(
            f"the name of a recipe may have letters, digits, _, -, . and single slashes, and names a folder below runs/; the "
            f"line `recipe` of {path} has {given[:80]!r}: change it, or leave the line out"
        )
    values = (fields.get(key, "") for key in ("summary", *_NAMES))
    return Recipe(given, path, *values)


def shipped() -> list[Recipe]:
    """Return the recipes of the installed package, sorted by name."""
    paths = sorted(PACKAGE.glob("*/*.yaml"))
    return [read(path, path.relative_to(PACKAGE).with_suffix("").as_posix()) for path in paths]


def find(text: str) -> Recipe:
    """Return the recipe with a name ("cnn/lenet_digits") or a path to a YAML file.

    A name that :func:`shipped` lists is that recipe, whatever is in the current folder: a file there that is called the same is
    ``./cnn/lenet_digits``.

    Raises:
        UserError: There is none; the message suggests the closest name. Or the file is no recipe.
    """
    known = {recipe.name: recipe for recipe in shipped()}
    if text in known:
        return known[text]
    path = Path(text)
    if path.is_file():
        read_recipe(path)
        full = path.resolve()
        inside = full.is_relative_to(PACKAGE)
        name = full.relative_to(PACKAGE).with_suffix("").as_posix() if inside else as_name(path.stem)
        return read(path, name)
    if path.is_dir():
        cure = f"give {path / 'config.yaml'}" if (path / "config.yaml").is_file() else "give a YAML file"
        raise UserError(f"{text} is a folder: {cure}, or a name that `zoo recipes` lists")
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"no such recipe file: {text}")
    raise UserError(f"unknown recipe {text!r}{suggest(text, known)} (`zoo recipes` lists all {len(known)})")


def as_name(text: str) -> str:
    """Return a text, such as the stem of a file, as the name of a recipe, with _ in place of what it may not have.

    Example:
        >>> as_name("my first net")
        'my_first_net'
    """
    parts = (re.sub(r"[^\w.-]+", "_", part).lstrip(".-") for part in text.split("/"))
    return "/".join(part for part in parts if part) or "recipe"


def matching(pattern: str) -> list[Recipe]:
    """Return the shipped recipes whose name matches a shell pattern or contains the text."""
    return [r for r in shipped() if fnmatchcase(r.name, pattern) or pattern.lower() in r.name.lower()]
