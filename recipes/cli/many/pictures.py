"""The picture of a study: how important each option is, and the values of the trials by each."""

import contextlib
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from recipes.cli.many.space import Choices, Space
from recipes.cli.many.study import ended, plan_of, shown
from zoo.drawing.figures import new_figure
from zoo.writing import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE, _GRAY = "#3b6fb6", "#d9722e", "#999999"
_COLUMNS = 3  # panels in a row


def importances_of(study: optuna.Study) -> dict[str, float]:
    """Return the share of the variance of the trials' values that each option explains (functional ANOVA: Hutter, Hoos and
    Leyton-Brown 2014, "An efficient approach for assessing hyperparameter importance"), largest first; empty for too few trials.
    """
    trials = ended(study)
    if len(trials) < 4 or len({trial.value for trial in trials}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings(), contextlib.suppress(RuntimeError):  # no tree sees a difference
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {}


def draw(study: optuna.Study, space: Space, path: Path) -> dict[str, float]:
    """Draw a study into a PNG, and return the importances.

    Args:
        study: With at least one trial that has ended.
        space: What was tried.
        path: The file.
    """
    importances = importances_of(study)
    panels = len(space) + 1
    rows = -(-panels // _COLUMNS)
    figure = new_figure(3.6 * min(panels, _COLUMNS), 3.2 * rows, dpi=120)
    axes = figure.add_subplot(rows, min(panels, _COLUMNS), 1)
    names = [*importances][::-1]
    if names:
        axes.barh(names, [importances[name] for name in names], color=_BLUE)
        axes.set(xlabel="share of the variance", title="importance", xlim=(0, 1))
    else:
        axes.text(0.5, 0.5, "importance:\ntoo few trials", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
    plan, trials = plan_of(study), ended(study)
    pruned = [t for t in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)) if t.user_attrs.get("measured")]
    for place, (key, entry) in enumerate(space.items(), start=2):
        axes = figure.add_subplot(rows, min(panels, _COLUMNS), place)
        _slice(axes, key, entry, trials, pruned)
        axes.set(
            xlabel=key, ylabel=plan.monitor if place % _COLUMNS == 2 or (panels <= _COLUMNS and place == 2) else ""
        )
        axes.grid(alpha=0.25)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return importances


def _slice(axes: "Axes", key: str, entry: Any, trials: list[FrozenTrial], pruned: list[FrozenTrial]) -> None:
    """Draw the values of the trials against one option: the best in another color, pruned ones as crosses."""
    points = entry.points() if isinstance(entry, Choices) else None

    def place(trial: FrozenTrial) -> float:
        value = trial.params[key]
        return points.index(value) if points is not None else value

    if pruned:
        values = [trial.user_attrs["measured"][0] for trial in pruned]
        axes.scatter([place(t) for t in pruned], values, marker="x", s=18, color=_GRAY, lw=1, label="pruned")
    for i, trial in enumerate(trials[::-1]):
        measured = trial.user_attrs["measured"]
        best = i == len(trials) - 1
        color = _ORANGE if best else _BLUE
        axes.vlines(place(trial), min(measured), max(measured), color=color, alpha=0.5, lw=1)
        axes.scatter(
            place(trial),
            float(trial.value or 0),
            s=30 if best else 16,
            color=color,
            zorder=3,
            label="best" if best else None,
        )
    if points is not None:
        axes.set_xticks(range(len(points)), [shown(value) for value in points])
        axes.set_xlim(-0.5, len(points) - 0.5)
    elif entry.log:
        axes.set_xscale("log")
        ends = math.log(entry.low), math.log(entry.high)
        ticks = [math.exp(ends[0] + (ends[1] - ends[0]) * i / 3) for i in range(4)]
        axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axes.minorticks_off()
    axes.legend(frameon=False, fontsize="small")
