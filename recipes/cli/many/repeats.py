"""``zoo fit RECIPE --seeds 3`` and ``--folds 5``: the same recipe several times, each in a run folder of its own."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

from recipes.cli import catalog
from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import OK, UserError
from recipes.cli.many.comparison import read_group, table
from recipes.cli.many.one import check_launcher, check_seeds, run_one
from recipes.cli.run.folder import CONFIG, Run, create_run, read_results, runs_in, version
from recipes.cli.run.options import (
    OPTIONS_OF,
    Parser,
    add_saving,
    check_artifacts,
    check_logger,
    check_saving,
    deadline_of,
    logger_line,
    saving_line,
    split_word,
)
from recipes.cli.run.process import exiting_at_once, restored_process_state
from recipes.cli.run.slurm import requeued_group

KINDS = ("seeds", "folds")


def asked(args: list[str]) -> bool:
    """Return whether the arguments of ``zoo fit`` ask for several runs, or to continue several."""
    options = [arg.partition("=")[0] for arg in args]
    if any(f"--{kind}" in options for kind in KINDS):
        return True
    if "--resume" not in options:
        return False
    at = {name: options.index(name) for name in ("--resume", "--runs", "-c", "--config") if name in options}
    given = {name: args[i].partition("=")[2] or [*args, ""][i + 1] for name, i in at.items()}
    root, recipe = (
        Path(given.get("--runs", "runs")),
        split_word(args)[0] or given.get("-c") or given.get("--config") or "",
    )
    value = given["--resume"]
    return bool(value) and any(runs_in(place) for place in (Path(value), root / value, root / recipe / value))


def run(args: list[str]) -> int:
    """Run ``zoo fit`` several times."""
    parser = Parser("zoo fit")
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--logger")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--resume", nargs="?", const="")
    parser.add_argument("--fast", action="store_true")
    add_saving(parser)
    parser.add_argument("--wandb-artifacts")
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int)
    word, args = split_word(args)
    options, overrides = parser.parse_known_args(args)
    check_launcher()
    check_logger(options.logger)
    check_saving(options)
    check_artifacts(options.wandb_artifacts, options.logger, options.resume is not None)
    deadline = deadline_of(options)
    kind, count = _wanted(options.seeds, options.folds)
    names = ([] if word is None else [word]) + options.config
    recipes = [catalog.find(name) for name in names]
    if options.resume is None and recipes and (requeued := requeued_group(options.runs, recipes[0].name, kind)):
        print(f"note: this job of SLURM's was requeued: {requeued} goes on")
        group = Run(requeued, recipes[0].name)
    elif options.resume is None:
        if not recipes:
            raise UserError(f"no recipe given: zoo fit NAME --{kind} {count} (`zoo recipes` lists them)")
        remembered = {
            "logger": logger_line(options.logger, options.wandb_artifacts or "none"),
            "saving": saving_line(options.save_every or "", options.keep or 1),
        }
        group = _begin(kind, count, recipes, remembered, options.runs, options.fast, overrides)
    else:
        given = [name for name in ("fast", "logger", "wandb_artifacts", "save_every", "keep") if getattr(options, name)]
        if overrides or given:
            what = overrides[0].partition("=")[0] if overrides else f"--{given[0].replace('_', '-')}"
            raise UserError(f"--resume continues {kind or 'the runs'} with their own config.yaml: leave {what} out")
        group = _to_continue(options.resume, options.runs, kind, count, recipes)
    with restored_process_state():
        return _train(group, deadline)


def _wanted(seeds: int | None, folds: int | None) -> tuple[str, int]:
    """Return "seeds" or "folds" and their number; "" and 0 for neither, which the folder of runs to continue tells."""
    if seeds is not None and folds is not None:
        raise UserError("--seeds and --folds: give one of the two; folds are all trained with the recipe's seed")
    kind, count = ("seeds", seeds) if seeds is not None else ("folds", folds)
    if count is None:
        return "", 0
    if count < 2:
        raise UserError(f"--{kind} must be 2 or more, got {count}: a single run is zoo fit without it")
    return kind, count


def _begin(
    kind: str,
    count: int,
    recipes: list[catalog.Recipe],
    remembered: dict[str, str],
    runs: Path,
    fast: bool,
    overrides: list[str],
) -> Run:
    """Make the folder of the group, and in it that of each run, with its ``config.yaml``; so all are known from the start on."""
    with restored_process_state():
        with NoCaches(), exiting_at_once():
            from recipes.cli.run.building import RecipeCLI
            from recipes.cli.run.changes import recorded_changes
            from recipes.cli.run.fast import fast_options
            from recipes.cli.run.loggers import class_of
        if "." in remembered["logger"]:
            class_of(remembered["logger"])
        with captured_logs(Console()):
            configs = [f"--config={recipe.path}" for recipe in recipes]
            args = [*configs, *(fast_options() if fast else []), *overrides]
            cli = RecipeCLI(args, overrides, verb_options=OPTIONS_OF["fit"])
        if cli.config_init.trainer.fast_dev_run:
            raise UserError(f"trainer.fast_dev_run saves nothing that --{kind} could compare: leave it out")
        if kind == "folds" and cli.fold:
            raise UserError(f"{recipes[0].path} is the configuration of one fold: give the recipe itself")
        first = cli.first_seed
        recipe = replace(recipes[0], changed=", ".join(recorded_changes(recipes[0], cli.changes)))
        recipe = replace(recipe, logger=remembered["logger"], saving=remembered["saving"])
        check_seeds(first, count if kind == "seeds" else 1)
        seeds = [first + i for i in range(count)] if kind == "seeds" else [first]
        texts = {seed: cli.config_text(seed) for seed in seeds}
    group = create_run(runs, recipe.name, kind)
    try:
        for i in range(count):
            name, fold = (
                (f"seed_{first + i}", recipe.fold) if kind == "seeds" else (f"fold_{i + 1}", f"{i + 1} of {count}")
            )
            text = replace(recipe, fold=fold).header() + texts[first + i if kind == "seeds" else first]
            (group.folder / name).mkdir()
            (group.folder / name / CONFIG).write_text(text, encoding="utf-8")
    except BaseException:
        group.discard()
        raise
    return group


def _to_continue(text: str, runs: Path, kind: str, count: int, recipes: list[catalog.Recipe]) -> Run:
    """Return the group that is named, or else the newest of the recipe."""
    name = recipes[0].name if recipes else None
    if text:
        places = [Path(text), runs / text, *([runs / name / text] if name else [])]
        folder = next((place for place in places if runs_in(place)), None)
        if folder is None:
            raise UserError(f"no group of runs {text!r}: tried {', '.join(map(str, places))}")
    elif name is None:
        raise UserError(f"no recipe given: zoo fit NAME --{kind} {count} --resume")
    else:
        found = [path for path in (runs / name).glob(f"{kind}_*") if runs_in(path)]
        folder = max(found, key=lambda path: version(path, kind), default=None)
        if folder is None:
            raise UserError(f"no {kind} of {name} in {runs} to continue: leave --resume out")
    paths = runs_in(folder)
    has = _kind(paths)
    if kind and (kind, count) != (has, len(paths)):
        raise UserError(f"{folder} has {len(paths)} {has}, not {count} {kind}: leave --{kind} out, or --resume")
    of = catalog.read(paths[0] / CONFIG, "recipe").name
    if name is not None and name != of:
        raise UserError(f"{folder} is of {of}, not of {name}: leave {name} out, or give {of}")
    return Run(folder, of)


def _train(group: Run, deadline: float | None) -> int:
    paths = runs_in(group.folder)
    console = Console()
    cure = f"zoo fit --resume {shlex.quote(os.path.relpath(group.folder))}"
    for i, path in enumerate(paths):
        done = read_results(path) is not None
        console.print(
            f"{'' if i == 0 else chr(10)}{path.name}, {i + 1} of {len(paths)}{': done before' if done else ''}"
        )
        try:
            run_one(path, Console(), deadline=deadline)
        except BaseException:
            if group.created and not any(group.folder.rglob("*.ckpt")):
                group.discard()
            else:
                console.print(f"stopped in {path.name} of {len(paths)} {_kind(paths)}; continue with: {cure}")
            raise
    result = read_group(group.folder)
    console.print(f"\n{result.count} in {group.folder}\n\n{table(result)}")
    return OK


def _kind(paths: list[Path]) -> str:
    return f"{paths[0].name.partition('_')[0]}s"
