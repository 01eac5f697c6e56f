"""The study of ``zoo tune``: its plan, in an optuna database, what a trial reports to it, and what its trials gave."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from recipes.cli.errors import UserError
from recipes.cli.many.comparison import number
from recipes.cli.many.space import Space, parse_space
from recipes.cli.run.internals import trial_of

Method = Literal["grid", "random", "tpe"]
METHODS: tuple[Method, ...] = ("grid", "random", "tpe")
DATABASE, RECIPE, SPACE = "study.db", "recipe.yaml", "space.yaml"
_NAME = "zoo"  # of the one study in a database
_UNPRUNED = 5  # trials that are never pruned


@dataclass(frozen=True)
class Plan:
    """What a study is about; it is kept in its database.

    Args:
        method: How values are drawn.
        trials: Number of trials, failed ones included.
        seeds: Number of runs of each trial; its value is the mean of theirs.
        seed: First seed of the runs, and the seed of the draws.
        monitor, mode: The validation metric, and whether "min" or "max" is best.
        prunes: Whether a trial is stopped that is worse, in its first run, than the median of the others at the same epoch.
        spared: Number of epochs at the start of a run at which no trial is stopped: a warm-up tells little of its end.
    """

    method: Method
    trials: int
    seeds: int
    seed: int
    monitor: str
    mode: str
    prunes: bool
    spared: int


class Reporter(Callback):
    """Tell optuna the monitored metric after each validation, and stop where it says that a trial is hopeless.

    Rank zero asks, and tells the others.

    Args:
        database: The file of the study.
        number: Number of the trial.
    """

    def __init__(self, database: Path, number: int) -> None:
        self.database, self.number = database, number

    @property
    def words(self) -> list[str]:
        """Arguments that tell another process of the trial, see :func:`reporter`."""
        return [str(self.database), str(self.number)]

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        monitor: Any = pl_module.monitor
        value = float(trainer.callback_metrics[monitor[0]])
        hopeless = trainer.is_global_zero and self._report(value, trainer.current_epoch)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.strategy.broadcast(hopeless) and not last:
            if trainer.is_global_zero:
                self._trial().set_user_attr("pruned", True)
            trainer.should_stop = True

    def _report(self, value: float, epoch: int) -> bool:
        trial = self._trial()
        if math.isfinite(value):
            trial.report(value, epoch)
        return trial.should_prune()

    def _trial(self) -> optuna.Trial:
        return trial_of(open_study(self.database), self.number)


def reporter(words: Sequence[str]) -> Reporter:
    """Return the reporter of :attr:`Reporter.words`."""
    return Reporter(Path(words[0]), int(words[1]))


# The study ----------------------------------------------------------------------------------------------------------


def _storage(database: Path) -> optuna.storages.RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.storages.RDBStorage(
        f"sqlite:///{database.resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
    )


def create_study(folder: Path, plan: Plan, space: str) -> None:
    """Create the database of a study; there is none before it is whole.

    Args:
        folder: The study's.
        plan: What it is about.
        space: The text of its space.
    """
    direction: Literal["minimize", "maximize"] = "minimize" if plan.mode == "min" else "maximize"
    unfinished = folder / f".{DATABASE}"
    storage = _storage(unfinished)
    study = optuna.create_study(storage=storage, study_name=_NAME, direction=direction)
    for name, value in {**vars(plan), "space": space}.items():
        study.set_user_attr(name, value)
    storage.engine.dispose()
    unfinished.replace(folder / DATABASE)


def open_study(database: Path) -> optuna.Study:
    """Open the study of a database, with the pruner of its plan.

    Raises:
        UserError: The file is no such database.
    """
    try:
        study = optuna.load_study(study_name=_NAME, storage=_storage(database))
        plan_of(study)
    except Exception as error:
        raise UserError(
            f"{database} is not the database of a study of zoo tune, or is damaged: begin a new study"
        ) from error
    spared = study.user_attrs["spared"]
    study.pruner = optuna.pruners.MedianPruner(_UNPRUNED, n_warmup_steps=spared, n_min_trials=_UNPRUNED)
    return study


def plan_of(study: optuna.Study) -> Plan:
    """Return the plan of a study."""
    return Plan(**{name: study.user_attrs[name] for name in Plan.__dataclass_fields__})


def space_of(study: optuna.Study) -> Space:
    """Return the space of a study."""
    return parse_space(study.user_attrs["space"], SPACE)


def extend(study: optuna.Study, trials: int) -> None:
    """Let a study have another number of trials."""
    study.set_user_attr("trials", trials)


# What they gave -----------------------------------------------------------------------------------------------------


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have a value, best first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1 if plan_of(study).mode == "min" else -1
    return sorted(trials, key=lambda trial: (sign * float(trial.value or 0), trial.number))


def spread(measured: Sequence[float]) -> str:
    """Return the mean and, of several numbers, their range."""
    mean = number(fmean(measured))
    return mean if len(measured) == 1 else f"{mean} ({number(min(measured))} to {number(max(measured))})"


def shown(value: Any) -> str:
    """Return a value as it is printed: a number with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
