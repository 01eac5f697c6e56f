"""``zoo recipes``: list the recipes that ship with the package. Imports no torch."""

import re

from recipes.cli import catalog
from recipes.cli.errors import UserError
from recipes.cli.text import columns
from zoo.spelling import suggest

HELP = """zoo recipes [PATTERN]: list the recipes that ship with the package.

  PATTERN     part of a name, or a shell pattern

Examples:
  zoo recipes
  zoo recipes "cnn/*digits"
"""


def run(args: list[str]) -> int:
    """Run the verb ``recipes``."""
    if len(args) > 1:
        raise UserError(f"`zoo recipes` takes one pattern, got {' '.join(args)}")
    if args and args[0].startswith("-"):
        raise UserError(f"unknown option {args[0]}: see `zoo recipes --help`")
    recipes = catalog.matching(args[0]) if args else catalog.shipped()
    if not recipes:
        names = [recipe.name for recipe in catalog.shipped()]
        raise UserError(f"no recipe matches {args[0]!r}{suggest(args[0], names)} (`zoo recipes` lists all)")
    head = ("recipe", "what it is", "expect", "takes")
    # without a bound: a published number, without its source
    expected = [
        "{} {} {:g}".format(*r.bound) if r.bound else re.split(r" \(|: (?!test/)", r.expect)[0] for r in recipes
    ]
    rows = [(r.name, r.summary, text, r.takes) for r, text in zip(recipes, expected, strict=True)]
    print(columns([head, *rows]))
    print(f"\nRun one with: zoo fit -c {recipes[0].name}")
    return 0
