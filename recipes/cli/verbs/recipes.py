"""``zoo recipes``: list the recipes that ship with the package, or show one. Imports no torch."""

from pathlib import Path

from recipes.cli import catalog
from recipes.cli.errors import UserError
from recipes.cli.text import columns
from zoo.spelling import suggest

HELP = """zoo recipes [PATTERN|NAME]: list the recipes that ship with the package, or show one.

  PATTERN     part of a name, or a shell pattern: list those that match
  NAME        one recipe: the whole file, with what it expects and how long it takes

Examples:
  zoo recipes
  zoo recipes "cnn/*digits"
  zoo recipes cnn/lenet_digits
  zoo recipes cnn/lenet_digits > mine.yaml
"""


def run(args: list[str]) -> int:
    """Run the verb ``recipes``."""
    if len(args) > 1:
        raise UserError(f"`zoo recipes` takes one name or pattern, got {' '.join(args)}")
    if args and args[0].startswith("-"):
        raise UserError(f"unknown option {args[0]}: see `zoo recipes --help`")
    recipes = catalog.matching(args[0]) if args else catalog.shipped()
    if not recipes:
        names = [recipe.name for recipe in catalog.shipped()]
        raise UserError(f"no recipe matches {args[0]!r}{suggest(args[0], names)} (`zoo recipes` lists all)")
    named = [recipe for recipe in recipes if args and args[0] == recipe.name] or recipes
    if args and len(named) == 1:
        print(_one(named[0]))
        return 0
    print(columns([("recipe", "what it is", "takes"), *((r.name, r.title, r.time) for r in recipes)]))
    print(f"\nShow one with:  zoo recipes {recipes[0].name}")
    print(f"Run it with:    zoo fit -c {recipes[0].name}")
    return 0


def _one(recipe: catalog.Recipe) -> str:
    """Return a recipe's file, and how to make one's own of it: all of it is a recipe again."""
    text = recipe.path.read_text(encoding="utf-8").rstrip("\n")
    own = f"{Path(recipe.name).name}.yaml"
    return f"{text}\n\n# {recipe.path}\n# A copy to change:  zoo recipes {recipe.name} > {own}"
