"""``zoo``: the command line. The fast verbs import neither torch nor lightning."""

import contextlib
import os
import sys
import traceback
from importlib import import_module

from recipes.cli.errors import BUG, INTERRUPTED, OK, USER, Crash, UserError, explain
from zoo.spelling import suggest

# verb -> (module, what it does); a module has HELP and run(), which takes the arguments after the verb and returns the exit code
VERBS = {
    "fit": ("recipes.cli.verbs.fit", "train a recipe, test the best checkpoint, continue a run"),
    "finetune": ("recipes.cli.verbs.finetune", "look at a folder of images, then teach a trained model its classes"),
    "validate": ("recipes.cli.verbs.validate", "measure a checkpoint on the validation data"),
    "test": ("recipes.cli.verbs.test", "measure a checkpoint on the test data"),
    "predict": ("recipes.cli.verbs.predict", "images or CSV rows in, labels, values or pictures out"),
    "sample": ("recipes.cli.verbs.sample", "draw what a generative model makes"),
    "models": ("recipes.cli.verbs.models", "list the models, or look at one"),
    "recipes": ("recipes.cli.verbs.recipes", "list the recipes"),
    "transfer": (
        "recipes.cli.studies.transfer_digits",
        "what transfer is worth: digits 5-9 after 0-4, from few labels",
    ),
    "pretrain": ("recipes.cli.studies.pretrain_then_classify", "what unlabelled digits are worth"),
    "baselines": ("recipes.cli.studies.baselines", "what plain methods of scikit-learn reach on a recipe's data"),
}
_RUN_VERBS = ("fit", "validate", "test")  # whose help lists what a recipe's classes take


def main(argv: list[str] | None = None) -> int:
    """Run the command line in this process.

    Args:
        argv: the arguments without the program's name; None: those of the process.

    Returns:
        The exit code: 0; 2 the user can put it right (one line on stderr); 1 a bug (a traceback); 75 the machine lacks
        something (disk space); 143 or 130 stopped by SIGTERM or Ctrl-C, and saved if training had begun.

    Example:
        >>> main(["recipes", "lenet_nothing"])
        2
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        return _dispatch(args)
    except SystemExit as stop:
        return _code(stop)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `zoo recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Crash as crash:
        traceback.print_exception(crash.__cause__)
        return BUG
    except Exception as error:
        code, line = explain(error)
        if debug or line is None:
            traceback.print_exception(error)
        return _complain(line, code) if line is not None else code


def entry_point() -> None:
    """The console script."""
    sys.exit(main())


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return OK
    verb, rest = args[0], args[1:]
    if verb in ("-V", "--version", "version"):
        from recipes.cli.report import report

        print(report())
        return OK
    if verb not in VERBS:
        what = "option" if verb.startswith("-") else "verb"
        raise UserError(f"unknown {what} {verb!r}{suggest(verb, [*VERBS, '--version', '--help'])}")
    module = import_module(VERBS[verb][0])
    if "--help" in rest or "-h" in rest:
        if verb in _RUN_VERBS:
            from recipes.cli.run.process import print_recipe_arguments

            print_recipe_arguments(verb, rest)
        print(module.HELP, end="")
        return OK
    code: int = module.run(rest)
    return code


def _help() -> str:
    verbs = "\n".join(f"  {verb:<10} {what}" for verb, (_, what) in VERBS.items())
    return f"""zoo: models of a deep-learning curriculum, each with a recipe that trains it.

{verbs}

  --version  the version, and what a bug report should say of the machine
  --debug    with any verb: show the traceback of an error

`zoo VERB --help` tells more. To begin with:
  zoo recipes
  zoo fit -c cnn/lenet_digits
"""


def _complain(line: str, code: int) -> int:
    if not (code == USER and _is_child()):
        with contextlib.suppress(OSError):  # a full disk again
            print(f"zoo: error: {line}", file=sys.stderr)
    return code


def _is_child() -> bool:
    """Whether another process on this machine, which meets the same error, tells it."""
    return any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "SLURM_LOCALID"))


def _code(stop: SystemExit) -> int:
    if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns a second Ctrl-C into exit code 1
        return INTERRUPTED
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or OK
    print(stop.code, file=sys.stderr)
    return BUG


if __name__ == "__main__":
    entry_point()
