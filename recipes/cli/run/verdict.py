"""Whether a run has reached what its recipe expects. Imports no torch."""

import operator
from collections.abc import Mapping, Sequence

from recipes.cli.catalog import Recipe

_COMPARE = {">=": operator.ge, "<=": operator.le}


def verdict(recipe: Recipe, results: Mapping[str, float], changed: Sequence[str]) -> str:
    """Return the recipe's bound and whether it is met; there is no comparison if anything differs from the recipe."""
    assert recipe.bound is not None
    metric, sign, bound = recipe.bound
    expected = f"{metric} {sign} {bound:g}"
    if changed:
        return f"{expected}: not compared, {', '.join(changed)} {'was' if len(changed) == 1 else 'were'} changed"
    if metric not in results:
        return f"{expected}: not measured"
    if _COMPARE[sign](results[metric], bound):
        return f"{expected}: met"
    return f"{expected}: NOT met, got {results[metric]:.4f}"
