"""A sweep file of Weights & Biases for a space: its agents call ``zoo fit``. Imports no torch."""

from collections.abc import Sequence
from typing import Any

import yaml

from recipes.cli.many.space import Choices, Range, Space

_METHODS = {"grid": "grid", "random": "random", "tpe": "bayes"}


def sweep_text(space: Space, method: str, trials: int, monitor: str, mode: str, recipe: Sequence[str]) -> str:
    """Return the YAML of a sweep.

    Args:
        space: What to try.
        method: "grid", "random" or "tpe", for which W&B has a Bayesian method of its own.
        trials: Number of runs.
        monitor, mode: The validation metric, and whether "min" or "max" is best.
        recipe: Arguments of ``zoo fit`` that all runs have: the recipe, and options. No run looks at the test data.
    """
    fixed = ["--logger", "wandb", "--trainer.limit_test_batches=0"]
    sweep = {
        "program": "zoo",
        "method": _METHODS[method],
        "run_cap": trials,
        "metric": {"name": monitor, "goal": f"{mode}imize"},
        "parameters": {key: _parameter(entry, method) for key, entry in space.items()},
        "command": ["${program}", "fit", *recipe, *fixed, "${args}"],
    }
    return yaml.safe_dump(sweep, sort_keys=False, width=120)


def _parameter(entry: Range | Choices, method: str) -> dict[str, Any]:
    if isinstance(entry, Choices):
        return {"values": [*entry.values]}
    if method == "grid":
        return {"values": entry.points()}
    kind = (
        ("q_log_uniform_values" if entry.log else "int_uniform")
        if entry.whole
        else ("log_uniform_values" if entry.log else "uniform")
    )
    return {"distribution": kind, "min": entry.low, "max": entry.high}
