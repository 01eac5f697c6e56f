"""The options of ``zoo fit``, ``validate`` and ``test``: which recipe, run and checkpoint are meant. Imports no torch."""

import argparse
import importlib.util
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from typing_extensions import override

from recipes.cli import catalog
from recipes.cli.errors import UserError
from recipes.cli.run.folder import BEST, CONFIG, LAST, checkpoint_of, find_run, newest_run, recipe_name
from zoo.spelling import suggest

LOGGERS = ("csv", "tensorboard", "wandb", "wandb-offline", "none")


class Parser(argparse.ArgumentParser):
    """argparse, raising where it would exit."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)

    @override
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (`{self.prog} --help` shows what there is)")


@dataclass
class Options:
    """What the command line of ``fit``, ``validate`` or ``test`` says.

    Args:
        verb: "fit", "validate" or "test".
        recipe: whose configuration is used, that of a run folder included.
        configs: the YAML files, later ones win.
        overrides: further options, for the model, the data and the trainer.
        logger: one of LOGGERS, None if not said.
        runs: the folder of all runs.
        resumed: the run folder to continue.
        checkpoint: to resume from or to evaluate.
        fast: add the trainer options that are fastest on this machine; those given win.
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


def parse(verb: str, args: list[str]) -> Options:
    """Read the command line.

    Raises:
        UserError: something is unknown, missing or contradictory.
    """
    parser = Parser(f"zoo {verb}")
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--logger")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    if verb == "fit":
        parser.add_argument("--resume", nargs="?", const="")
        parser.add_argument("--fast", action="store_true")
    else:
        parser.add_argument("--ckpt", "--ckpt_path")
    known, overrides = parser.parse_known_args(args)
    check_logger(known.logger)
    found = [catalog.find(text) for text in known.config]
    recipe = found[0] if found else None
    options: dict[str, Any] = {"overrides": overrides, "logger": known.logger, "runs": known.runs}
    if verb == "fit" and known.resume is None:
        if recipe is None:
            raise UserError("no recipe given: zoo fit -c NAME (`zoo recipes` lists them)")
        return Options(verb, recipe, [r.path for r in found], fast=known.fast, **options)
    if verb == "fit":
        if known.fast:
            raise UserError("--resume goes on as the run began: leave --fast out, or start a new run with it")
        if len(found) > 1:
            raise UserError("--resume takes the run's own configuration: give one -c at most")
        resumed = _run(known.resume, known.runs, recipe, "zoo fit --resume RUN, or -c RECIPE --resume")
        options |= {"resumed": resumed, "checkpoint": checkpoint_of(resumed, known.resume, (LAST, BEST))}
        return Options(verb, _of_run(resumed, known.runs, recipe), [resumed / CONFIG], **options)
    if known.ckpt is not None and Path(known.ckpt).is_file():
        checkpoint, folder = Path(known.ckpt), Path(known.ckpt).parent.parent
        run: Path | None = folder if (folder / CONFIG).is_file() else None
    elif known.ckpt is not None and Path(known.ckpt).suffix == ".ckpt":
        raise UserError(f"no such checkpoint: {known.ckpt}")
    else:
        run = _run(known.ckpt or "", known.runs, recipe, f"zoo {verb} -c RECIPE --ckpt PATH")
        checkpoint = checkpoint_of(run, "", (BEST, LAST))
    options["checkpoint"] = checkpoint
    if found:
        return Options(verb, found[0], [r.path for r in found], **options)
    if run is None:
        raise UserError(f"{checkpoint} lies in no run folder: say which recipe's data to use, with -c RECIPE")
    return Options(verb, _of_run(run, known.runs, None), [run / CONFIG], **options)


def _run(text: str, root: Path, recipe: catalog.Recipe | None, usage: str) -> Path:
    """The run folder that a text names; an empty one: the newest of the recipe."""
    if text:
        return find_run(text, root, recipe.name if recipe else None)
    if recipe is None:
        raise UserError(f"which run? {usage}")
    newest = newest_run(root, recipe.name)
    if newest is None:
        raise UserError(f"no run of {recipe.name} with a checkpoint in {root}: train one with zoo fit -c {recipe.name}")
    return newest


def _of_run(run: Path, root: Path, wanted: catalog.Recipe | None) -> catalog.Recipe:
    """The recipe that a run folder holds."""
    recipe = catalog.read(run / CONFIG, recipe_name(run, root))
    if wanted is not None and wanted.name != recipe.name:
        raise UserError(f"the run {run} is one of {recipe.name}, not of {wanted.name}: leave -c out, or give its own")
    return recipe


# Loggers ------------------------------------------------------------------------------------------------------------


def check_logger(choice: str | None) -> None:
    """Refuse a logger that is unknown or cannot work, before anything is done; never ask, never wait long.

    Raises:
        UserError: what to do instead.
    """
    if choice is None or choice in ("csv", "none"):
        return
    if choice not in LOGGERS:
        raise UserError(f"--logger must be one of {', '.join(LOGGERS)}, got {choice!r}{suggest(choice, LOGGERS)}")
    package = choice.partition("-")[0]
    if importlib.util.find_spec(package) is None:
        extra = "'lightning-zoo[tensorboard]'" if package == "tensorboard" else package
        raise UserError(f"--logger {choice} needs the package {package}: pip install {extra}")
    if choice == "wandb":
        _check_wandb()


def _check_wandb() -> None:
    from recipes.cli.run.internals import wandb_account

    os.environ.setdefault("WANDB_SILENT", "true")  # or it names the settings files that it reads
    try:
        account = wandb_account()
    except ValueError as error:
        raise UserError(f"--logger wandb cannot use the W&B key: {error}") from error
    if account is None or not account.online:
        return
    if not account.has_credentials:
        raise UserError(
            "--logger wandb finds no W&B key: run `wandb login` once, set WANDB_API_KEY, or use --logger wandb-offline"
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
