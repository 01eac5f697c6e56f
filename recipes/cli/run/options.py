"""Options of ``zoo fit``, ``validate`` and ``test``: the recipe, run and checkpoint they select. Imports no torch."""

import argparse
import ast
import importlib.util
import os
import re
import shlex
import socket
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from typing_extensions import override

from recipes.cli import catalog
from recipes.cli.errors import UserError
from recipes.cli.run.durations import interval_of, seconds_of
from recipes.cli.run.folder import (
    CONFIG,
    checkpoint_of,
    find_run,
    is_checkpoint,
    newer_runs,
    newest_run,
    no_single_run,
    recipe_name,
    runs_in,
)
from recipes.cli.run.slurm import requeued_run
from recipes.cli.yaml_files import read_recipe
from zoo.spelling import suggest

LOGGERS = ("csv", "tensorboard", "wandb", "wandb-offline", "none")
ARTIFACTS = ("none", "best", "best+last")  # the checkpoints that W&B gets


# the options of each verb that are not a recipe's, for suggestions
OPTIONS_OF = {
    "fit": (
        "--logger",
        "--wandb-artifacts",
        "--resume",
        "--runs",
        "--save-every",
        "--keep",
        "--time-limit",
        "--fast",
        "--find-lr",
        "--find-batch-size",
        "--seeds",
        "--folds",
    ),
    "tune": (
        "--space",
        "--method",
        "--trials",
        "--seeds",
        "--no-prune",
        "--jobs",
        "--resume",
        "--runs",
        "--wandb-sweep",
    ),
    "validate": ("--logger", "--ckpt", "--runs"),
    "test": ("--logger", "--ckpt", "--runs"),
}


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises :class:`UserError` where argparse would exit."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)

    @override
    def error(self, message: str) -> NoReturn:
        options = re.findall(r"--[\w.-]+", self.format_help())
        help_ = f"(see `{self.prog} --help`)"
        argument, _, problem = message.removeprefix("argument ").partition(": ")
        name = next((part for part in argument.split("/") if part.startswith("--")), argument)
        if match := re.fullmatch(r"expected (one|at least one|\d+) arguments?", problem):
            count = int(match[1]) if match[1].isdecimal() else 1
            raise UserError(f"{name} needs a value: {name}{count * ' VALUE'} {help_}")
        if match := re.fullmatch(r"invalid (\w+) value: (.*)", problem):
            wanted = {"int": "a whole number", "float": "a number"}.get(match[1], f"a {match[1]}")
            raise UserError(f"{name} must be {wanted}, got {ast.literal_eval(match[2])} {help_}")
        if match := re.fullmatch(r"ignored explicit argument (.*)", problem):
            raise UserError(f"{name} takes no value, got {ast.literal_eval(match[1])} {help_}")
        if match := re.fullmatch(r"the following arguments are required: (.*)", message):
            raise UserError(f"{match[1].replace(', ', ' and ')} must be given {help_}")
        if match := re.match(r"unrecognized arguments: (\S+)", message):
            word = match[1].partition("=")[0]
            what = f"unknown option {word}" if word.startswith("-") else f"unexpected argument {word!r}"
            raise UserError(f"{what}{suggest(word, options) if word.startswith('-') else ''} {help_}")
        raise UserError(f"{message} {help_}")


@dataclass
class Options:
    """The parsed command line of ``fit``, ``validate`` or ``test``.

    Args:
        verb: "fit", "validate" or "test".
        recipe: The recipe whose configuration is used, possibly that of a run folder.
        configs: The YAML files; later ones take precedence.
        overrides: Further options for the model, the data and the trainer.
        logger: One of LOGGERS, or the import path of a class; None if not given.
        runs: The folder of all runs.
        resumed: The run folder to continue.
        checkpoint: The checkpoint to resume from or to evaluate.
        named: Whether the user has named that checkpoint, so that no other one may be resumed from.
        artifacts: The checkpoints that W&B gets, one of ARTIFACTS.
        save_every: Interval of saves within epochs, "10m" or "200steps"; "": at the ends of epochs alone.
        keep: Number of the last saves that are kept, 1 or more.
        deadline: Time of ``time.monotonic`` at which the run is stopped.
        fast: Whether to add the trainer options that are fastest on this machine; given options take precedence.
        notes: What the user should know of how the recipe and the run were selected, printed when the run starts.
        folder: The folder of a new run, which has its ``config.yaml``; None: the next version of the recipe.
        tests: Whether a fit ends with a test of its best checkpoint.
        callbacks: Further callbacks of a fit.
        command: The arguments of ``zoo``, for ``run.json``.
    """

    verb: str
    recipe: catalog.Recipe
    configs: list[Path]
    overrides: list[str] = field(default_factory=list)
    logger: str | None = None
    runs: Path = Path("runs")
    resumed: Path | None = None
    checkpoint: Path | None = None
    fast: bool = False
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None
    tests: bool = True
    callbacks: list[Any] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    named: bool = False
    artifacts: str = "none"
    save_every: str = ""
    keep: int = 1
    deadline: float | None = None


def parse(verb: str, args: list[str]) -> Options:
    """Parse the arguments of a verb.

    Raises:
        UserError: An argument is unknown, missing or contradicts another one.
    """
    command = [verb, *args]
    parser = Parser(f"zoo {verb}")
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--logger")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    if verb == "fit":
        parser.add_argument("--resume", nargs="?", const="")
        parser.add_argument("--fast", action="store_true")
        add_saving(parser)
        parser.add_argument("--wandb-artifacts")
    else:
        parser.add_argument("--ckpt", "--ckpt_path")
    word, args = split_word(args)
    known, overrides = parser.parse_known_args(args)
    _take_word(verb, word, known)
    check_logger(known.logger)
    recipes = [catalog.find(text) for text in known.config]
    recipe = recipes[0] if recipes else None
    notes = [
        f"{r.name} is the recipe of that name: the file is ./{text}"
        for r, text in zip(recipes, known.config, strict=True)
        if text == r.name and Path(text).is_file()
    ]
    options: dict[str, Any] = {
        "overrides": overrides,
        "logger": known.logger,
        "runs": known.runs,
        "notes": notes,
        "command": command,
    }
    if verb == "fit":
        check_saving(known)
        check_artifacts(known.wandb_artifacts, known.logger, known.resume is not None)
        options["artifacts"] = known.wandb_artifacts or "none"
        options |= {"save_every": known.save_every or "", "keep": known.keep or 1, "deadline": deadline_of(known)}
    begins = recipe if verb == "fit" and known.resume is None else None
    if begins is not None and (requeued := requeued_run(known.runs, begins.name)) is not None:
        notes.append(f"this job of SLURM's was requeued: {requeued} goes on")
        known.resume, known.fast, recipes = str(requeued), False, recipes[:1]
        options["overrides"] = []  # they are in its config.yaml
    if verb == "fit" and known.resume is None:
        if recipe is None:
            raise UserError("no recipe given: zoo fit -c NAME (`zoo recipes` lists them)")
        return Options(verb, recipe, [r.path for r in recipes], fast=known.fast, **options)
    if verb == "fit":
        if known.fast:
            raise UserError(
                "--resume continues with the run's own options: leave --fast out, or start a new run with it"
            )
        if len(recipes) > 1:
            raise UserError("--resume uses the run's own configuration: give at most one -c")
        resumed = _run(known.resume, known.runs, recipe, "zoo fit --resume RUN, or -c RECIPE --resume", notes)
        options |= {"resumed": resumed, "checkpoint": checkpoint_of(resumed, known.resume, resume=True)}
        options["named"] = is_checkpoint(known.resume)
        of_run = _recipe_of(resumed, known.runs, recipe)
        if known.logger is None and of_run.logger:
            options["logger"], artifacts = logger_of(of_run)
            check_logger(options["logger"])
            options["artifacts"] = known.wandb_artifacts or artifacts
        check_artifacts(known.wandb_artifacts, options["logger"])
        save_every, keep = saving_of(of_run)
        options |= {"save_every": known.save_every or save_every, "keep": known.keep or keep}
        return Options(verb, of_run, [resumed / CONFIG], **options)
    if known.ckpt is not None and Path(known.ckpt).is_file():
        checkpoint, folder = Path(known.ckpt), Path(known.ckpt).parent.parent
        run: Path | None = folder if (folder / CONFIG).is_file() else None
    elif known.ckpt is not None and Path(known.ckpt).suffix == ".ckpt":
        raise UserError(f"no such checkpoint: {known.ckpt}")
    else:
        run = _run(known.ckpt or "", known.runs, recipe, f"zoo {verb} -c RECIPE --ckpt PATH", notes)
        checkpoint = checkpoint_of(run, "")
    options["checkpoint"] = checkpoint
    if recipe is not None:
        # the recipe's bound is for its own runs, as they are
        trained = catalog.read(run / CONFIG, recipe.name) if run is not None else None
        if trained is not None and trained.fold and verb == "validate":
            raise UserError(
                f"{run} was trained on the other folds than {trained.fold}, and so on validation examples of {recipe.name}: leave "
                f"{recipe.name} out, then it is validated on its own fold"
            )
        same = trained is not None and trained.name == recipe.name
        recipe = replace(recipe, changed=trained.changed) if trained and same else replace(recipe, expect="")
        return Options(verb, recipe, [r.path for r in recipes], **options)
    if run is None:
        raise UserError(f"{checkpoint} is not in a run folder: give the recipe whose data to use, with -c RECIPE")
    return Options(verb, _recipe_of(run, known.runs, None), [run / CONFIG], **options)


def add_saving(parser: Parser) -> None:
    """Add the options that tell when a fit saves, what it keeps and when it stops."""
    parser.add_argument("--save-every")
    parser.add_argument("--keep", type=int)
    parser.add_argument("--time-limit")


def check_saving(known: argparse.Namespace) -> None:
    """Refuse values of ``--save-every`` and ``--keep`` that make no sense.

    Raises:
        UserError: One of them.
    """
    if known.save_every is not None:
        interval_of("--save-every", known.save_every)
    if known.keep is not None and known.keep < 1:
        raise UserError(f"--keep must be 1 or more, the number of checkpoints to keep, got {known.keep}")


def deadline_of(known: argparse.Namespace) -> float | None:
    """Return the time of ``time.monotonic`` at which a fit is stopped; None without ``--time-limit``."""
    return None if known.time_limit is None else time.monotonic() + seconds_of("--time-limit", known.time_limit)


def saving_of(recipe: catalog.Recipe) -> tuple[str, int]:
    """Return at what interval a run saves within epochs, "" for none, and how many checkpoints it keeps.

    Raises:
        UserError: The line of its ``config.yaml`` says something else.
    """
    match = re.fullmatch(r"every (\S*), keep (\d+)", recipe.saving) if recipe.saving else None
    if recipe.saving and (match is None or not int(match[2])):
        raise UserError(
            f"{recipe.path}: the line `saving` must say `every 10m, keep 1`, got {recipe.saving!r}: change it, or leave it out"
        )
    if match is None:
        return "", 1
    every = "" if match[1] == "epoch" else match[1]
    if every:
        interval_of(f"{recipe.path}: the line `saving`", every)
    return every, int(match[2])


def saving_line(save_every: str, keep: int) -> str:
    """Return the line that :func:`saving_of` reads; an empty text if nothing differs from what a run does anyway."""
    return f"every {save_every.replace(' ', '') or 'epoch'}, keep {keep}" if save_every or keep > 1 else ""


def split_word(args: list[str]) -> tuple[str | None, list[str]]:
    """Return the first argument if it is a word, not an option, and the others. It stands for ``-c RECIPE``, or for a run."""
    return (args[0], args[1:]) if args and not args[0].startswith("-") else (None, args)


def _take_word(verb: str, word: str | None, known: argparse.Namespace) -> None:
    """Add the first word to the options: a recipe or, for ``validate`` and ``test``, a run folder or checkpoint.

    Raises:
        UserError: It is neither, or there is another one.
    """
    if word is None:
        return
    recipes = {recipe.name for recipe in catalog.shipped()}
    if verb == "fit" and word not in recipes and (Path(word) / CONFIG).is_file():
        run = shlex.quote(word)
        raise UserError(f"{word} is a run folder: continue it with zoo fit --resume {run}")
    if verb == "fit" or word in recipes or Path(word).suffix in (".yaml", ".yml"):
        known.config.insert(0, word)
    elif known.ckpt is not None:
        raise UserError(f"{word!r} is no recipe, and --ckpt gives the checkpoint: leave one of the two out")
    elif (Path(word) / "config.json").is_file():
        raise UserError(
            f"{word} was written by save_pretrained and knows no data to measure it on: give a run folder or a checkpoint"
        )
    elif not any(path.exists() for path in (Path(word), known.runs / word)):
        raise UserError(
            f"{word!r} is no run folder, no checkpoint and no recipe{suggest(word, recipes)} (`zoo recipes` lists the recipes)"
        )
    else:
        known.ckpt = word


def _run(text: str, root: Path, recipe: catalog.Recipe | None, usage: str, notes: list[str]) -> Path:
    """Return the run folder that ``text`` names; the newest one of the recipe with a checkpoint if it is empty."""
    if text:
        return find_run(text, root, recipe.name if recipe else None)
    if recipe is None:
        raise UserError(f"no run given: {usage}")
    newest = newest_run(root, recipe.name)
    without = newer_runs(root, recipe.name, newest)
    if newest is None:
        why = f" ({without[-1].name} ended before its first one)" if without else ""
        groups = sorted(path for path in (root / recipe.name).glob("*s_*") if runs_in(path))
        if groups:
            raise UserError(f"no run of {recipe.name} by itself in {root}: {no_single_run(groups[-1])}")
        raise UserError(
            f"no run of {recipe.name} with a checkpoint in {root}{why}: train one with zoo fit -c {recipe.name}"
        )
    if without:
        have = "has" if len(without) == 1 else "have"
        notes.append(
            f"{', '.join(path.name for path in without)} {have} no checkpoint: {newest.name} is the newest that has one"
        )
    return newest


def _recipe_of(run: Path, root: Path, given: catalog.Recipe | None) -> catalog.Recipe:
    read_recipe(run / CONFIG)
    recipe = catalog.read(run / CONFIG, catalog.as_name(recipe_name(run, root)))
    if given is not None and given.name != recipe.name:
        raise UserError(f"{run} is a run of {recipe.name}, not of {given.name}: leave -c out, or give {recipe.name}")
    return recipe


# Loggers ------------------------------------------------------------------------------------------------------------


def check_logger(choice: str | None) -> None:
    """Refuse a logger that is unknown or cannot work, before anything is done; never prompts, never waits long.

    Raises:
        UserError: The logger cannot be used; the message says what to do instead.
    """
    if choice is None or choice in ("csv", "none"):
        return
    if re.fullmatch(r"\w+(\.\w+)+", choice):
        return  # of a class: it is imported when the run is built
    if choice not in LOGGERS:
        raise UserError(
            f"--logger must be one of {', '.join(LOGGERS)}, or package.Class of a logger of Lightning's or your own, got "
            f"{choice!r}{suggest(choice, LOGGERS)}"
        )
    package = choice.partition("-")[0]
    if importlib.util.find_spec(package) is None:
        extra = "'lightning-zoo[tensorboard]'" if package == "tensorboard" else package
        raise UserError(f"--logger {choice} needs the package {package}: pip install {extra}")
    if choice == "wandb":
        _check_wandb()


def check_artifacts(choice: str | None, logger: str | None, later: bool = False) -> None:
    """Refuse checkpoints that W&B shall get and cannot.

    Args:
        choice: The value of ``--wandb-artifacts``; None if it is not given.
        logger: That of ``--logger``.
        later: Whether the logger may be that of the run to continue.

    Raises:
        UserError: There is no such choice, or the logger is another.
    """
    if choice is None:
        return
    if choice not in ARTIFACTS:
        raise UserError(
            f"--wandb-artifacts must be one of {', '.join(ARTIFACTS)}, got {choice!r}{suggest(choice, ARTIFACTS)}"
        )
    if not (logger or "").startswith("wandb") and not (later and logger is None):
        raise UserError("--wandb-artifacts is for W&B: give --logger wandb or wandb-offline, too")


def logger_line(logger: str | None, artifacts: str) -> str:
    """Return the line that :func:`logger_of` reads; an empty text if metrics.csv is all."""
    if logger in (None, "csv", "none"):
        return ""
    return f"{logger}, artifacts {artifacts}" if artifacts != "none" else str(logger)


def logger_of(recipe: catalog.Recipe) -> tuple[str, str]:
    """Return the logger of a run, "" for none, and the checkpoints that W&B gets.

    Raises:
        UserError: The run's header says something else.
    """
    logger, _, artifacts = recipe.logger.partition(", artifacts ")
    if artifacts and artifacts not in ARTIFACTS:
        raise UserError(
            f"{recipe.path}: the line `logger` must say `{logger}, artifacts best`, got {recipe.logger!r}: change it, or leave it "
            "out"
        )
    return logger, artifacts or "none"


def _check_wandb() -> None:
    from recipes.cli.run.internals import wandb_account

    os.environ.setdefault("WANDB_SILENT", "true")  # otherwise it prints the settings files that it reads
    try:
        account = wandb_account()
    except ValueError as error:
        raise UserError(f"--logger wandb cannot use the W&B key: {error}") from error
    if account is None or not account.online:
        return
    if not account.has_credentials:
        raise UserError(
            "--logger wandb needs a W&B key, found none: run `wandb login` once, set WANDB_API_KEY, or use --logger wandb-offline"
        )
    if any(name.lower() in ("https_proxy", "http_proxy", "all_proxy") for name in os.environ):
        return
    server = urlsplit(account.server)
    try:
        port = server.port or (80 if server.scheme == "http" else 443)
        socket.create_connection((server.hostname or "", port), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"--logger wandb cannot reach {server.hostname} ({error}): use --logger wandb-offline, and `wandb sync` later"
        ) from error
