"""``zoo recipes``: list the recipes that ship with the package. Imports no torch."""

import re

from recipes.cli import catalog
from recipes.cli.errors import UserError
from recipes.cli.text import columns
from zoo.spelling import suggest

HELP = """zoo recipes [PATTERN]: list the recipes that ship with the package.

  PATTERN     a part of the name, or a shell pattern

Examples:
  zoo recipes
  zoo recipes "cnn/*digits"
"""


def run(args: list[str]) -> int:
    """Run the verb ``recipes``."""
    if len(args) > 1:
        raise UserError(f"`zoo recipes` takes one pattern, got {' '.join(args)}")
    if args and args[0].startswith("-"):
        raise UserError(f"unknown option {args[0]}: `zoo recipes --help` shows what there is")
    found = catalog.matching(args[0]) if args else catalog.shipped()
    if not found:
        names = [recipe.name for recipe in catalog.shipped()]
        raise UserError(f"no recipe matches {args[0]!r}{suggest(args[0], names)} (`zoo recipes` lists all)")
    head = ("recipe", "what it is", "expect", "takes")
    # a published number without its source
    expected = ["{} {} {:g}".format(*r.bound) if r.bound else re.split(r" \(|: (?!test/)", r.expect)[0] for r in found]
    rows = [(r.name, r.what, text, r.takes) for r, text in zip(found, expected, strict=True)]
    print(columns([head, *rows]))
    print(f"\nRun one with: zoo fit -c {found[0].name}")
    return 0
