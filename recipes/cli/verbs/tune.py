"""``zoo tune``: try values of a recipe's options, by their result on the validation data, and write the best recipe."""

import contextlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli import catalog
from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import OK, UserError, message
from recipes.cli.many.one import check_launcher, check_seeds, child_environment
from recipes.cli.many.space import Space, as_options, grid, read_space
from recipes.cli.run.folder import Run, create_run, version
from recipes.cli.run.options import OPTIONS_OF, Parser, split_word
from recipes.cli.run.process import exiting_at_once, restored_process_state
from recipes.cli.text import columns

if TYPE_CHECKING:
    from recipes.cli.many.study import Plan
    from recipes.cli.run.building import RecipeCLI

METHODS = ("grid", "random", "tpe")
_TRIALS = 20
_SHOWN = 5  # trials in the table
_SPARED = 5  # in the first fifth of its epochs, no trial is pruned

HELP = f"""zoo tune RECIPE --space FILE [options]: train trials of a recipe, write the best as a recipe of its own.

  RECIPE            a name that `zoo recipes` lists, else a YAML of your own; the same as -c, --config
  --space FILE      what to try, a YAML file such as
                        model.lr: {{low: 0.001, high: 0.1, log: true}}
                        model.width: [8, 16]
                    whole numbers where both ends are whole; of a grid a range needs its number of points, steps: 5
  --method NAME     grid: all points in their order; random; tpe (default): where it has been good (Bergstra et al. 2011)
  --trials N        number of trials (default: {_TRIALS}; of a grid all points)
  --seeds K         train each trial K times, with seeds s, s + 1 ...; its value is the mean (default: 1)
  --no-prune        train every trial to its end; else one stops that is worse, in its first run, than the median of the
                    others at the same epoch, after a fifth of the epochs
  --jobs N          train N trials at once, in processes of their own (default: 1)
  --resume [STUDY]  continue the newest study of the recipe, or the one in a folder; with --trials N to another number.
                    Several processes may work on a study: run the same command in each
  --runs FOLDER     where the folder of the study is made (default: runs)
  --wandb-sweep F   train nothing, but write a sweep file for `wandb sweep`, whose agents run the same trials
  --debug           show the traceback of any error

Further options change the recipe for all trials, as in zoo fit: --trainer.max_epochs 5. Trials are compared by what the model
monitors on the validation data, at its best epoch; none looks at the test data. The folder runs/RECIPE/tune_0/ gets best.yaml,
which zoo fit trains and tests; tune.png, the importance of each option and the values by each; study.db, an optuna study; and a run
folder for each trial, without checkpoints.

Examples:
  zoo tune cnn/lenet_digits --space space.yaml --trials 30 --seeds 2
  zoo tune cnn/lenet_digits --resume --trials 50
  zoo fit runs/cnn/lenet_digits/tune_0/best.yaml --seeds 3
"""


def run(args: list[str]) -> int:
    """Run the verb ``tune``."""
    options, overrides, recipes = _parse(args)
    if importlib.util.find_spec("optuna") is None and options.wandb_sweep is None:
        raise UserError("zoo tune needs the package optuna: pip install 'lightning-zoo[tune]'")
    check_launcher()
    with restored_process_state():
        if options.wandb_sweep is not None:
            return _write_sweep(options, overrides, recipes)
        with NoCaches(), exiting_at_once():
            from recipes.cli.many import trials
        if options.resume is None:
            study = _begin(options, overrides, recipes)
        else:
            study = _continue(options, overrides, recipes)
        try:
            with _helpers(study.folder, options.jobs - 1):
                trials.work(study.folder, lambda line: print(line, flush=True))
        except BaseException:
            if study.created and not any(study.folder.glob("trial_*")):
                study.discard()
            else:
                print(
                    f"stopped; continue with: zoo tune --resume {shlex.quote(os.path.relpath(study.folder))}",
                    flush=True,
                )
            raise
        return _report(study.folder)


def _parse(args: list[str]) -> tuple[Any, list[str], list[catalog.Recipe]]:
    parser = Parser("zoo tune")
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--space", type=Path)
    parser.add_argument("--method")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--no-prune", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--resume", nargs="?", const="")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--wandb-sweep", type=Path)
    word, args = split_word(args)
    options, overrides = parser.parse_known_args(args)
    for name in ("trials", "seeds", "jobs"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} must be 1 or more, got {value}")
    if options.method is not None and options.method not in METHODS:
        raise UserError(f"--method must be one of {', '.join(METHODS)}, got {options.method!r}")
    recipes = [catalog.find(name) for name in [*([] if word is None else [word]), *options.config]]
    if options.resume is None:
        if not recipes:
            raise UserError("no recipe given: zoo tune NAME --space FILE (`zoo recipes` lists them)")
        if options.space is None:
            raise UserError("--space FILE must be given: a YAML file of what to try (see `zoo tune --help`)")
    return options, overrides, recipes


# Beginning and continuing -------------------------------------------------------------------------------------------


def _checked(recipes: list[catalog.Recipe], overrides: list[str], space: Space) -> "tuple[RecipeCLI, tuple[str, str]]":
    """Return the recipe, built, and what is monitored; each end and each choice of the space is built once by itself.

    Raises:
        UserError: An option or a value of the space is refused; the test data would decide.
    """
    with NoCaches(), exiting_at_once():
        from recipes.cli.run.building import RecipeCLI
    configs = [f"--config={recipe.path}" for recipe in recipes]
    inside = {key.replace(".init_args.", ".") for key in space}
    for option in overrides:
        name = option.partition("=")[0].removeprefix("--")
        if name.replace(".init_args.", ".") in inside:
            raise UserError(f"--{name} is in the space, too: leave it out of one of the two")
        if name in ("logger", "fast"):
            raise UserError(f"zoo tune has no --{name}, but zoo fit best.yaml has: leave it out")
    with captured_logs(Console(silent=True)):
        cli = RecipeCLI([*configs, *overrides], overrides, verb_options=OPTIONS_OF["tune"])
        for key, entry in space.items():
            for value in entry.probes():
                probe = as_options({key: value})
                try:
                    RecipeCLI([*configs, *overrides, *probe], [*overrides, *probe])
                except (UserError, ValueError, TypeError, OSError) as error:
                    raise UserError(f"the space's {key}: {message(error)}") from error
    if cli.fold:
        raise UserError(f"{recipes[0].path} is the configuration of one fold: give the recipe itself")
    if cli.config_init.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run saves nothing to compare trials by: leave it out")
    monitor = getattr(cli.model, "monitor", None)
    if monitor is None:
        raise UserError(f"{type(cli.model).__name__} monitors no metric, so trials cannot be compared")
    if not monitor[0].startswith("val/"):
        raise UserError(
            f"trials would be compared by {monitor[0]}: tuning must not look at the test data, nor at those it trains on; give a "
            "metric of the validation data, --model.monitor val/loss, say"
        )
    if cli.datamodule is not None and getattr(cli.datamodule, "val_fraction", None) == 0 and not _has_validation(cli):
        raise UserError(
            "the recipe holds out no validation data, so nothing can tell which trial is best: give --data.val_fraction 0.1"
        )
    return cli, monitor


def _has_validation(cli: "RecipeCLI") -> bool:
    """Whether there is a validation part though none is held out: one that is given by itself."""
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    return bool(cli.datamodule.val_dataloader())


def _begin(options: Any, overrides: list[str], recipes: list[catalog.Recipe]) -> Run:
    from recipes.cli.many.study import METHODS, RECIPE, SPACE, Plan, create_study
    from recipes.cli.run.changes import recorded_changes

    space = read_space(options.space)
    points = grid(space) if options.method == "grid" else None
    cli, (name, mode) = _checked(recipes, overrides, space)
    first = cli.first_seed
    method = next(name for name in METHODS if name == (options.method or "tpe"))
    count = _count(options.trials, points)
    check_seeds(first, options.seeds or 1)
    spared = max(0, cli.config_init.trainer.max_epochs or 0) // _SPARED
    plan = Plan(method, count, options.seeds or 1, first, name, mode, not options.no_prune, spared)
    study = create_run(options.runs, recipes[0].name, "tune")
    try:
        recipe = replace(recipes[0], changed=", ".join(recorded_changes(recipes[0], cli.changes)))
        (study.folder / RECIPE).write_text(recipe.header() + cli.config_text(), encoding="utf-8")
        shutil.copyfile(options.space, study.folder / SPACE)
        create_study(study.folder, plan, options.space.read_text(encoding="utf-8"))
    except BaseException:
        study.discard()
        raise
    print(f"{recipe.name}: {_described(plan)}, into {study.folder}", flush=True)
    return study


def _count(trials: int | None, points: list[Any] | None) -> int:
    """Return the number of trials: of a grid, all of its points at most."""
    return (trials or _TRIALS) if points is None else min(trials or len(points), len(points))


def _described(plan: "Plan") -> str:
    runs = f" of {plan.seeds} seeds" if plan.seeds > 1 else ""
    return f"{plan.trials} trial{'s' * (plan.trials != 1)}{runs}, {plan.method}, by {plan.monitor} ({plan.mode})"


def _continue(options: Any, overrides: list[str], recipes: list[catalog.Recipe]) -> Run:
    from recipes.cli.many.study import DATABASE, RECIPE, SPACE, extend, open_study, plan_of, space_of

    name = recipes[0].name if recipes else None
    if options.resume:
        places = [Path(options.resume), options.runs / options.resume]
        places += [options.runs / name / options.resume] if name else []
        folder = next((place for place in places if (place / DATABASE).is_file()), None)
        if folder is None:
            raise UserError(
                f"no study {options.resume!r}: tried {', '.join(str(place / DATABASE) for place in places)}"
            )
    elif name is None:
        raise UserError("no study given: zoo tune --resume STUDY, or zoo tune RECIPE --resume")
    else:
        found = [path for path in (options.runs / name).glob("tune_*") if (path / DATABASE).is_file()]
        folder = max(found, key=lambda path: version(path, "tune"), default=None)
        if folder is None:
            raise UserError(f"no study of {name} in {options.runs} to continue: leave --resume out")
    if not (folder / RECIPE).is_file():
        raise UserError(f"{folder} lacks the study's {RECIPE}: put it back, or begin a new study")
    of = catalog.read(folder / RECIPE, "recipe").name
    if name is not None and name != of:
        raise UserError(f"{folder} is a study of {of}, not of {name}: leave {name} out, or give {of}")
    if overrides:
        raise UserError(f"--resume continues a study with its own recipe: leave {overrides[0].partition('=')[0]} out")
    study = open_study(folder / DATABASE)
    plan = plan_of(study)
    if options.space is not None and read_space(options.space) != space_of(study):
        raise UserError(
            f"{options.space} is another space than the study's, {folder / SPACE}: leave --space out, or begin a new study"
        )
    for option, given, has in (("method", options.method, plan.method), ("seeds", options.seeds, plan.seeds)):
        if given is not None and given != has:
            raise UserError(
                f"{folder} is a study with --{option} {has}, not {given}: leave --{option} out, or begin a new study"
            )
    if options.no_prune and plan.prunes:
        raise UserError(f"{folder} is a study that prunes: leave --no-prune out, or begin a new study")
    if options.trials is not None:
        extend(study, options.trials)
    print(f"{of}: goes on with {_described(plan_of(study))}, in {folder}", flush=True)
    return Run(folder, of)


@contextlib.contextmanager
def _helpers(folder: Path, count: int) -> Iterator[None]:
    """Let further processes train trials of a study as well; they end with this one."""
    command = [sys.executable, "-m", "recipes.cli.many.worker", str(folder)]
    helpers = [subprocess.Popen(command, env=child_environment()) for _ in range(count)]
    try:
        yield
        for helper in helpers:
            if helper.wait():
                print(
                    f"warning: one of the processes ended with exit code {helper.returncode}, see above",
                    file=sys.stderr,
                )
    finally:
        for helper in helpers:
            if helper.poll() is None:
                helper.terminate()
                helper.wait()


# The result ---------------------------------------------------------------------------------------------------------


def _report(folder: Path) -> int:
    from recipes.cli.many.pictures import draw
    from recipes.cli.many.space import values_of
    from recipes.cli.many.study import DATABASE, ended, open_study, plan_of, shown, space_of, spread
    from recipes.cli.many.trials import recipe_text
    from zoo.writing import replacing

    study = open_study(folder / DATABASE)
    plan, space, best = plan_of(study), space_of(study), ended(study)
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    counts = [
        f"{states.count(name)} {word}" for name, word in (("PRUNED", "pruned"), ("FAIL", "failed")) if name in states
    ]
    print(
        f"\n{len(states)} trials{f', {chr(44).join(counts)}' if counts else ''}; best by {plan.monitor} ({plan.mode}):\n"
    )
    if not best:
        raise UserError(f"no trial of {folder} has ended with a value")
    seeds = "1 seed" if plan.seeds == 1 else f"mean (range) of {plan.seeds} seeds"
    rows = [["trial", seeds, *space]]
    for trial in best[:_SHOWN]:
        values = values_of(space, trial.params)
        rows.append(
            [str(trial.number), spread(trial.user_attrs["measured"]), *(shown(value) for value in values.values())]
        )
    print(columns(rows))
    values = values_of(space, best[0].params)
    summary = f"Best of {len(states)} trials by zoo tune ({plan.method}), {plan.monitor} {spread(best[0].user_attrs['measured'])}."
    with replacing(folder / "best.yaml") as temporary:
        temporary.write_text(recipe_text(folder, values, plan.seed, summary), encoding="utf-8")
    importances = draw(study, space, folder / "tune.png")
    print()
    if importances:
        print("importance   " + ", ".join(f"{name} {share:.2f}" for name, share in importances.items()))
    where = shlex.quote(os.path.relpath(folder / "best.yaml"))
    print(f"picture      {folder / 'tune.png'}")
    print(
        f"best recipe  {folder / 'best.yaml'}; train and test it with zoo fit {where}"
        + (f" --seeds {max(3, plan.seeds)}" if plan.seeds == 1 else "")
    )
    return OK


def _write_sweep(options: Any, overrides: list[str], recipes: list[catalog.Recipe]) -> int:
    from recipes.cli.many.sweep import sweep_text

    if options.resume is not None or (options.seeds or 1) > 1:
        what = "--resume" if options.resume is not None else "--seeds"
        raise UserError(f"--wandb-sweep writes a file, and W&B runs each of its trials once: leave {what} out")
    space = read_space(options.space)
    points = grid(space) if options.method == "grid" else None
    _, (name, mode) = _checked(recipes, overrides, space)
    command = [
        *(
            word
            for recipe in recipes
            for word in ("-c", recipe.name if recipe.path.is_relative_to(catalog.PACKAGE) else str(recipe.path))
        ),
        *overrides,
    ]
    count = _count(options.trials, points)
    text = sweep_text(space, options.method or "tpe", count, name, mode, command)
    options.wandb_sweep.parent.mkdir(parents=True, exist_ok=True)
    options.wandb_sweep.write_text(text, encoding="utf-8")
    print(
        f"{options.wandb_sweep}: wandb sweep {shlex.quote(str(options.wandb_sweep))}, then wandb agent SWEEP where it shall run"
    )
    return OK
