"""``zoo check``: look at a recipe, its data and its model before it is trained."""

import json
import time
from collections.abc import Callable
from typing import Any

from recipes.cli import catalog
from recipes.cli.check.rows import Row, plain, table, verdict
from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import OK, USER, UserError
from recipes.cli.run.options import Parser, split_word
from recipes.cli.run.process import exiting_at_once, restored_process_state

HELP = """zoo check RECIPE [options]: look at the data, the model and the plan of a run before it is trained.

  RECIPE                a name that `zoo recipes` lists, or a YAML of your own; the same as -c, --config
  --resume              instead: train a few steps without a stop, and again with a stop and `zoo fit --resume`, in mid-epoch and
                        at the end of an epoch; compare bit for bit, and name what differs and its cure
  --json                print JSON: recipe, verdict, seconds, and of each check its status, detail and cure
  --debug               show the traceback of any error

It sets the run up as `zoo fit` does, trains a few batches, and checks copies of the fresh model: less than a minute for all that is
bundled. Nothing is written. Each check ends with pass, warn, fail or n/a (it makes no sense for this task, and why). The exit code
is 2 if one fails, otherwise 0. Everything in a recipe can be set, as for `zoo fit`: --model.lr 0.01. docs/check.md tells more.

Examples:
  zoo check cnn/lenet_digits
  zoo check mine.yaml --json
  zoo check mine.yaml --resume
"""


def run(args: list[str]) -> int:
    """Run the verb ``check``."""
    begin = time.monotonic()
    parser = Parser("zoo check")
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--resume", action="store_true")
    word, args = split_word(args)
    options, overrides = parser.parse_known_args(args)
    words = ([] if word is None else [word]) + options.config
    recipes = [catalog.find(text) for text in words]
    if not recipes:
        raise UserError("no recipe given: zoo check RECIPE (`zoo recipes` lists them)")
    if options.resume:
        return _prove(words, recipes, overrides, options.json, begin)
    console = Console(silent=options.json)
    with restored_process_state():
        with NoCaches(), exiting_at_once():
            from recipes.cli.check.checks import look_at
            from recipes.cli.run.building import RecipeCLI
        with captured_logs(console):
            cli = RecipeCLI(
                [*(f"--config={recipe.path}" for recipe in recipes), *overrides],
                overrides,
                verb_options=("--json",),
            )
            about, rows = look_at(cli)
    return _report(recipes[0].name, about, rows, options.json, begin)


def _prove(words: list[str], recipes: list[catalog.Recipe], overrides: list[str], as_json: bool, begin: float) -> int:
    with restored_process_state(), NoCaches(), exiting_at_once():
        from recipes.cli.check.resume import prove
    with restored_process_state():
        rows = prove([f"--config={text}" for text in words], overrides, [recipe.path for recipe in recipes])
    return _report(recipes[0].name, {}, rows, as_json, begin)


def _report(recipe: str, about: dict[str, Any], rows: list[Row], as_json: bool, begin: float) -> int:
    """Print the checks of a recipe as a table or JSON, and return the exit code; ``about`` may be empty."""
    found: dict[str, Any] = {"recipe": recipe, **about, "verdict": verdict(rows)}
    seconds = round(time.monotonic() - begin, 1)
    if as_json:
        print(json.dumps({**found, "seconds": seconds, "checks": [plain(row) for row in rows]}, indent=2))
    else:
        count: Callable[[str], int] = lambda status: sum(row.status == status for row in rows)  # noqa: E731
        what = f"{found['model']}, {found['parameters']:,} parameters" if about else "stopped and resumed"
        print(f"{recipe}: {what}\n\n{table(rows)}\n")
        print(f"{count('pass')} pass, {count('warn')} warn, {count('fail')} fail, {count('n/a')} n/a; {seconds:g} s")
    return USER if found["verdict"] == "fail" else OK
