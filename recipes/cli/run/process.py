"""The verbs ``fit``, ``validate`` and ``test`` from the command line to an exit code, and the process state around a run.

Imports torch only when a run starts.
"""

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from recipes.cli import catalog
from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import Crash, MachineError
from recipes.cli.run.folder import FOLDER_VARIABLE, is_main_process
from recipes.cli.run.internals import exit_at_once
from recipes.cli.run.options import Parser, parse, split_word
from recipes.cli.run.signals import ENDING, end_with_parent, handling_signals
from recipes.cli.run.slurm import requeue

# the last part of these verbs' help
OVERRIDES_HELP = """  --debug               show the traceback of any error
  --print_config        print the whole configuration and exit

Everything in a recipe can be set: --model.lr 0.01, --data.batch_size 32, --trainer.max_epochs 5,
--trainer.callbacks+=callbacks.GradNorm. `zoo {verb} RECIPE --help` lists the arguments of the recipe's classes.
"""
EVALUATION_HELP = f"""zoo {{verb}} [RUN | RECIPE] [options]: measure a checkpoint on {{data}}.

  RUN                   a run folder (its best checkpoint) or a checkpoint; the same as --ckpt
  RECIPE                the newest run of a recipe; the same as -c
  -c, --config RECIPE   whose data to use; not needed when the checkpoint is in a run folder
  --ckpt PATH           a checkpoint, or a run folder (its best one); default: the newest run of the recipe
  --logger NAME         also write a run folder: csv, tensorboard, wandb, wandb-offline (default: none)
  --runs FOLDER         where the run folders are (default: runs)
{OVERRIDES_HELP}
Examples:
  zoo {{verb}} cnn/lenet_digits
  zoo {{verb}} runs/cnn/lenet_digits/version_0
"""


def run_verb(verb: str, args: list[str]) -> int:
    """Parse the arguments of a verb, run it and return the exit code."""
    console = Console(silent=not is_main_process())
    if FOLDER_VARIABLE in os.environ and not is_main_process():  # Lightning has started it for a process of ours
        end_with_parent()
    with restored_process_state():
        options = parse(verb, args)
        with NoCaches(), exiting_at_once():
            from recipes.cli.run.session import train_or_evaluate
        with captured_logs(console), logged_exit(console):
            return train_or_evaluate(options, console)


def print_recipe_arguments(verb: str, args: list[str]) -> None:
    """Print the arguments of the classes of the recipes given; nothing without a recipe."""
    parser = Parser(f"zoo {verb}")
    parser.add_argument("-c", "--config", action="append", default=[])
    word, args = split_word([arg for arg in args if arg not in ("--help", "-h")])
    config = parser.parse_known_args(args)[0].config
    recipes = [word, *config] if word is not None and not Path(word).is_dir() else config
    paths = [catalog.find(text).path for text in recipes]
    if paths:
        with NoCaches():
            from recipes.cli.run.building import print_arguments
        print_arguments(map(str, paths))


@contextlib.contextmanager
def logged_exit(console: Console) -> Iterator[None]:
    """Write to the log how a run ended, if it ended early."""
    try:
        yield
    except Crash as crash:
        console.log_traceback(crash.__cause__ or crash)
        raise
    except MachineError as error:
        console.log(f"zoo: error: {error}")
        raise
    except SystemExit as stop:
        if (path := getattr(stop, "path", None)) is not None:
            run = shlex.quote(os.path.relpath(path.parent.parent))
            how = str(stop.how)  # type: ignore[attr-defined]  # it is a callbacks.graceful_stop.Stopped
            console.print(f"stopped by {how} and saved; resume with: zoo fit --resume {run}")
            if how in ("SIGUSR1", "the time limit") and is_main_process() and (done := requeue()):
                console.print(done, error="not requeued" in done)
        raise


@contextlib.contextmanager
def importable_current_folder() -> Iterator[None]:
    """Let the user's classes be imported from the current folder while the block runs."""
    path = sys.path[:]
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: none of the user's modules hides ours
    try:
        yield
    finally:
        sys.path[:] = path


@contextlib.contextmanager
def exiting_at_once() -> Iterator[None]:
    """Let a signal end the process at once, while nothing is written: an exception within an import of torch's would abort it."""
    with handling_signals(lambda signum, frame: exit_at_once(128 + signum), ENDING):
        yield


@contextlib.contextmanager
def restored_process_state() -> Iterator[None]:
    """Restore environment variables, signal handlers and the module search path when the block ends."""
    environment = dict(os.environ)
    interrupt = signal.getsignal(signal.SIGINT)  # Lightning changes it
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # LightningCLI supports old versions too
    try:
        with handling_signals(_terminate, ENDING), importable_current_folder():
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt or signal.SIG_DFL)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
