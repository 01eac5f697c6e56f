"""The verbs ``fit``, ``validate`` and ``test``: from the command line to an exit code. Imports torch when it must."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from recipes import catalog, options, runs
from recipes.console import Console, NoCaches, heard
from recipes.errors import Crash, MachineError

_HELP = {
    "fit": """zoo fit -c RECIPE [options]: train, test the best checkpoint, compare it with what the recipe expects.

  -c, --config RECIPE   a name that `zoo recipes` lists, or a YAML of your own; a second -c adds to the first
  --logger NAME         csv (default), tensorboard, wandb, wandb-offline, none; metrics.csv is written in any case
  --resume [RUN]        continue a run in its own folder: the newest of the recipe, or a run folder, a version, a checkpoint
  --runs FOLDER         where run folders are made (default: runs)
  --fast                mixed bfloat16 where this machine has it; sums and parameters stay 32-bit, results differ slightly
""",
    "validate": """zoo validate [-c RECIPE] [--ckpt PATH] [options]: measure a checkpoint on the validation data.

  -c, --config RECIPE   whose data to use; not needed when the checkpoint lies in a run folder
  --ckpt PATH           a checkpoint, or a run folder (its best one); default: the newest run of the recipe
  --logger NAME         also write a run folder: csv, tensorboard, wandb, wandb-offline (default: none)
  --runs FOLDER         where the run folders are (default: runs)
""",
}
_HELP["test"] = _HELP["validate"].replace("zoo validate", "zoo test").replace("the validation data", "the test data")
_COMMON = """  --debug               show the traceback of any error
  --print_config        print the whole configuration and do nothing

Everything in a recipe can be set: --model.lr 0.01, --data.batch_size 32, --trainer.max_epochs 5,
--trainer.callbacks+=callbacks.GradNorm. `zoo {verb} -c RECIPE --help` lists all that the recipe's classes take.

Examples:
"""
_EXAMPLES = {
    "fit": "  zoo fit -c cnn/lenet_digits\n  zoo fit -c cnn/lenet_digits --model.lr 0.01 --trainer.max_epochs 5\n"
    "  zoo fit -c cnn/lenet_digits --resume\n",
    "validate": "  zoo validate -c cnn/lenet_digits\n  zoo validate --ckpt runs/cnn/lenet_digits/version_0\n",
    "test": "  zoo test -c cnn/lenet_digits\n  zoo test --ckpt runs/cnn/lenet_digits/version_0\n",
}


def fit(args: list[str]) -> int:
    """The verb ``fit``."""
    return _run("fit", args)


def validate(args: list[str]) -> int:
    """The verb ``validate``."""
    return _run("validate", args)


def test(args: list[str]) -> int:
    """The verb ``test``."""
    return _run("test", args)


def help_text(verb: str) -> str:
    """The short help of a verb."""
    return _HELP[verb] + _COMMON.format(verb=verb) + _EXAMPLES[verb]


def _run(verb: str, args: list[str]) -> int:
    if "--help" in args or "-h" in args:
        return _help(verb, [arg for arg in args if arg not in ("--help", "-h")])
    console = Console(silent=not runs.is_main_process())
    with own_process_state():
        found = options.parse(verb, args)
        with NoCaches():
            from recipes.training import train_or_evaluate
        with heard(console), kept(console):
            return train_or_evaluate(found, console)


@contextlib.contextmanager
def kept(console: Console) -> Iterator[None]:
    """Keep in the log how a run ended early."""
    try:
        yield
    except Crash as crash:
        console.keep_traceback(crash.__cause__ or crash)
        raise
    except MachineError as error:
        console.keep(f"zoo: error: {error}")
        raise
    except SystemExit as stop:
        if (path := getattr(stop, "path", None)) is not None:
            how = "Ctrl-C" if stop.code == 128 + signal.SIGINT else "SIGTERM"
            console.say(
                f"stopped by {how} and saved; go on with: zoo fit --resume {os.path.relpath(path.parent.parent)}"
            )
        raise


def _help(verb: str, args: list[str]) -> int:
    parser = options.Parser(f"zoo {verb}")
    parser.add_argument("-c", "--config", action="append", default=[])
    paths = [catalog.find(text).path for text in parser.parse_known_args(args)[0].config]
    if paths:
        with NoCaches():
            from recipes.building import print_arguments
        print_arguments(map(str, paths))
    print(help_text(verb), end="")
    return 0


@contextlib.contextmanager
def own_process_state() -> Iterator[None]:
    """Let a run set variables, signal handlers and the module search path, and put them back."""
    environment, path = dict(os.environ), sys.path[:]
    main = threading.current_thread() is threading.main_thread()
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)} if main else {}
    if main:
        signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # LightningCLI and we serve old versions too
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # at the end: a recipe may name classes of the user's, and none of them hides ours
    try:
        yield
    finally:
        sys.path[:] = path
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
