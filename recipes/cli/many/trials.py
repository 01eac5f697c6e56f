"""The trials of ``zoo tune``: drawn, trained, pruned, and continued after a kill; by any number of processes at once."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from recipes.cli import catalog
from recipes.cli.console import Console, captured_logs
from recipes.cli.errors import Crash, MachineError, UserError, disk_full, message, one_line
from recipes.cli.many.one import run_one
from recipes.cli.many.space import Space, as_options, grid, values_of
from recipes.cli.many.study import DATABASE, RECIPE, Plan, Reporter, open_study, plan_of, shown, space_of, spread
from recipes.cli.run.building import RecipeCLI
from recipes.cli.run.changes import recorded_changes
from recipes.cli.run.folder import CHECKPOINTS, CONFIG
from recipes.cli.run.internals import draw_rest, trial_of
from recipes.cli.run.process import restored_process_state
from zoo.writing import replacing

_FAILURES = 3  # trials: when so many fail, and no other has ended, it is no use to go on


def work(folder: Path, say: Callable[[str], None]) -> None:
    """Train trials of a study until it has all of its plan; other processes may do so at the same time.

    Args:
        folder: The study's.
        say: Takes a line on each trial.

    Raises:
        UserError: The first trials have all failed.
    """
    study = open_study(folder / DATABASE)
    space = space_of(study)
    while (taken := _take(study, folder, space)) is not None:
        trial, lock = taken
        try:
            if not _repeat(study, trial, say):
                _train(study, trial, folder, space, say)
        finally:
            lock.release()
        _check_failures(study)


def _take(study: optuna.Study, folder: Path, space: Space) -> tuple[optuna.Trial, FileLock] | None:
    """Return a trial to train, and the lock that says so: one whose process was killed, else a new one; None if none is left."""
    plan = plan_of(study)
    with FileLock(folder / ".lock"):
        trials = study.get_trials(deepcopy=False)
        for old in trials:
            if old.state == TrialState.RUNNING and (lock := _lock(folder, old.number)) is not None:
                trial = trial_of(study, old.number)
                if old.params.keys() != space.keys():  # killed while it was drawn
                    study.sampler = _sampler(plan, old.number)
                    draw_rest(trial, {key: entry.distribution() for key, entry in space.items()})
                return trial, lock
        waiting = any(old.state == TrialState.WAITING for old in trials)
        count = len(trials) - waiting
        points = grid(space) if plan.method == "grid" else []
        if count >= (min(plan.trials, len(points)) if points else plan.trials):
            return None
        if points and not waiting:
            study.enqueue_trial(points[count])
        study.sampler = _sampler(plan, count)
        trial = study.ask({key: entry.distribution() for key, entry in space.items()})
        lock = _lock(folder, trial.number)
        assert lock is not None
        return trial, lock


def _lock(folder: Path, number: int) -> FileLock | None:
    """Return the lock of a trial; None if a process that lives has it."""
    (folder / f"trial_{number}").mkdir(exist_ok=True)
    lock = FileLock(folder / f"trial_{number}" / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _sampler(plan: Plan, number: int) -> BaseSampler:
    """Return the sampler of a trial: its draws depend on the seed, its number and, for TPE, the trials before it.

    One sampler for all would repeat its draws after a kill, or in another process.
    """
    seed = (plan.seed * 1_000_003 + number) % 2**32
    if plan.method != "tpe":
        return RandomSampler(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older versions call two of these arguments experimental
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _repeat(study: optuna.Study, trial: optuna.Trial, say: Callable[[str], None]) -> bool:
    """Give a trial the result of an earlier one of the same values, which it would reach again; return whether there is one."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    for other in study.get_trials(deepcopy=False, states=states):
        if other.params == trial.params:
            trial.set_user_attr("measured", other.user_attrs.get("measured", []))
            study.tell(trial, other.value if other.state == TrialState.COMPLETE else None, other.state)
            say(f"{f'trial {trial.number}':<9} has the values of trial {other.number}, and so its result")
            return True
    return False


def _train(study: optuna.Study, trial: optuna.Trial, folder: Path, space: Space, say: Callable[[str], None]) -> None:
    """Train the runs of a trial, and tell the study its value, or that it was pruned or has failed."""
    plan, values = plan_of(study), values_of(space, trial.params)
    place = folder / f"trial_{trial.number}"
    name = f"trial {trial.number}"
    settings = ", ".join(f"{key} {shown(value)}" for key, value in values.items())
    state, value, text = TrialState.COMPLETE, None, ""
    measured: list[float] = []
    try:
        for i in range(plan.seeds):
            run = place / f"seed_{plan.seed + i}"
            if not (run / CONFIG).is_file():
                run.mkdir(exist_ok=True)
                with replacing(run / CONFIG) as temporary:
                    temporary.write_text(recipe_text(folder, values, plan.seed + i), encoding="utf-8")
            reporters = [Reporter(folder / DATABASE, trial.number)] if plan.prunes and i == 0 else []
            results = run_one(run, Console(quiet=True), tests=False, callbacks=reporters)
            if results["best"] is None:
                raise UserError(
                    "there is no validation, so nothing to compare trials by: give the recipe validation data"
                )
            if results["best"]["name"] != plan.monitor:
                raise UserError(f"the run is measured by {results['best']['name']}, the others by {plan.monitor}")
            measured.append(results["best"]["value"])
            if i == 0 and trial_of(study, trial.number).user_attrs.get("pruned"):
                state = TrialState.PRUNED
                break
        if not all(map(math.isfinite, measured)):
            state, text = TrialState.FAIL, f"{plan.monitor} is not finite"
    except Exception as error:
        if disk_full(error) is not None or isinstance(error, MachineError):
            raise
        cause = error.__cause__ if isinstance(error, Crash) and error.__cause__ else error
        kind = "" if isinstance(cause, UserError) else f"{type(cause).__name__}: "
        state, text = TrialState.FAIL, kind + one_line(message(cause))  # type: ignore[arg-type]
    for checkpoint in place.rglob(f"{CHECKPOINTS}/*.ckpt"):  # large, and made again by training again
        checkpoint.unlink()
    trial.set_user_attr("measured", measured)
    if state == TrialState.COMPLETE:
        value, text = fmean(measured), f"{plan.monitor} {spread(measured)}"
    elif state == TrialState.PRUNED:
        text = f"pruned at {plan.monitor} {measured[0]:.4g}"
    else:
        trial.set_user_attr("failure", text)
        text = f"failed: {text}"
    study.tell(trial, value, state)
    say(f"{name:<9} {text}  ({settings})")


def _check_failures(study: optuna.Study) -> None:
    trials = study.get_trials(deepcopy=False, states=(TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED))
    if len(trials) == _FAILURES and all(trial.state == TrialState.FAIL for trial in trials):
        raise UserError(
            f"the first {_FAILURES} trials have all failed, the last one: {trials[-1].user_attrs.get('failure')}"
        )


def recipe_text(folder: Path, values: dict[str, Any], seed: int, summary: str = "") -> str:
    """Return a recipe of its own for the values of a trial, as YAML with its header.

    Args:
        folder: The study's, with the recipe.
        values: Of the options of the space.
        seed: Seed of the run.
        summary: What the header says that it is.
    """
    recipe, options = catalog.read(folder / RECIPE, "recipe"), as_options(values)
    with restored_process_state(), captured_logs(Console(silent=True)):
        cli = RecipeCLI([f"--config={folder / RECIPE}", *options], options)
    recipe = replace(recipe, changed=", ".join(recorded_changes(recipe, cli.changes)))
    if summary:
        recipe = replace(recipe, summary=summary, takes="")
    return recipe.header() + cli.config_text(seed)
