"""All checks of a recipe, in the order of the table."""

from collections.abc import Callable
from typing import Any

import torch

from recipes.cli.check import data, plan, training
from recipes.cli.check.labels import MOST, TRUSTED, suspects
from recipes.cli.check.rows import Row, not_applicable
from recipes.cli.check.start import Start, begin
from recipes.cli.errors import one_line
from recipes.cli.run.building import RecipeCLI

OF_THE_MODEL: dict[str, Callable[[Start], Row]] = {
    "initial loss": training.check_initial_loss,
    "regularization": training.check_regularization,
    "small batch": training.check_small_batch,
    "gradients": training.check_every_gradient,
    "leak across batch": training.check_leak,
    "gradient check": training.check_finite_differences,
    "inputs": data.check_inputs,
}


def look_at(cli: RecipeCLI) -> tuple[dict[str, Any], list[Row]]:
    """Make all checks of a recipe.

    Returns:
        What was checked: "model", its class, and "parameters", their number; and the rows.

    Raises:
        UserError, ValueError: The recipe cannot be set up.
    """
    start = begin(cli)
    about = {
        "model": type(start.module).__name__,
        "parameters": sum(p.numel() for p in start.module.parameters()),
    }
    return about, checks_of(start)


def checks_of(start: Start) -> list[Row]:
    """Make all checks of a run that has begun."""
    rows = [training.check_steps(start)]
    rows += [_made(name, check, start) for name, check in OF_THE_MODEL.items()]
    train = data.read(start.train, "train")
    val = data.read(start.val, "val") if start.val_batches else None
    rows.append(data.check_balance(start, train))
    if (row := data.why_no_overlap(start, train, val)) is not None:
        rows += [row, not_applicable("near-duplicates", row.detail)]
    else:
        assert train is not None
        assert val is not None
        rows += [data.check_overlap(train, val), data.check_near_duplicates(start, train, val)]
    rows.append(check_labels(start, train))
    return [*rows, plan.check_schedule(start), *plan.estimate(start)]


def _made(name: str, check: Callable[[Start], Row], start: Start) -> Row:
    """Make a check of a module that has trained; one that cannot be made outside of its trainer says so."""
    try:
        return check(start)
    except (RuntimeError, AttributeError, TypeError, ValueError, LookupError) as error:
        return not_applicable(
            name, f"cannot be made without the trainer: {type(error).__name__}: {one_line(str(error))[:200]}"
        )


def check_labels(start: Start, train: data.Split | None) -> Row:
    """A probe does not doubt many labels."""
    name = "label errors"
    if train is None or train.labels is None or not (classes := data.data_classes(start)):
        return not_applicable(name, "not one class for each example")
    if train.rows is None:
        return not_applicable(name, "the probe is linear, and needs numbers as its input")
    x, y = train.rows[:MOST], train.labels[:MOST]
    enough = torch.bincount(y.clamp(min=0), minlength=classes)[y.clamp(min=0)] >= 5
    keep = (enough & (y >= 0)).nonzero()[:, 0]
    x, y = x[keep], y[keep]
    if len(y.unique()) < 2:
        return not_applicable(name, "it needs two classes of 5 examples or more")
    margins, doubted, accuracy = suspects(x, y)
    of = f"{len(y):,} of {train.total:,} training examples"
    if accuracy < TRUSTED:
        return not_applicable(name, f"a linear probe is right on {accuracy:.0%} of {of}: too few to doubt a label")
    order = [int(i) for i in margins.argsort() if doubted[i]]
    names = [train.name_of(int(keep[i])) for i in order[:20]]
    share = len(order) / len(y)
    such = f": {', '.join(names[:5])}{' ...' * (len(names) > 5)}" if names else ""
    detail = f"{len(order)} likely ({share:.1%} of {of}; a linear probe is right on {accuracy:.0%} that it has not seen){such}"
    more = {"share": share, "accuracy": accuracy, "examples": names}
    if share > 0.03:
        return Row(
            name, "warn", detail, "look at these first, and correct or remove what is wrong (--json lists 20)", more
        )
    return Row(name, "pass", detail, more=more)
