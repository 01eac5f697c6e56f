"""The command line ``zoo``. The fast verbs import neither torch nor lightning."""

import contextlib
import os
import sys
from collections.abc import Callable
from importlib import import_module

from recipes.cli.console import any_text_prints
from recipes.cli.errors import BUG, INTERRUPTED, OK, USER, Crash, UserError, explain, formatted
from zoo.spelling import suggest

# verb -> (module, summary); a module has HELP and run(), which takes the arguments after the verb and returns the exit code
VERBS = {
    "fit": ("recipes.cli.verbs.fit", "train a recipe, test the best checkpoint, continue a run"),
    "check": ("recipes.cli.verbs.check", "look at a recipe's data, model and plan before it is trained"),
    "finetune": (
        "recipes.cli.verbs.finetune",
        "inspect your images, images with masks or table, then train a model on them",
    ),
    "validate": ("recipes.cli.verbs.validate", "measure a checkpoint on the validation data"),
    "test": ("recipes.cli.verbs.test", "measure a checkpoint on the test data"),
    "tune": ("recipes.cli.verbs.tune", "try values of a recipe's options, write the best recipe"),
    "runs": ("recipes.cli.verbs.runs", "list the runs: state, best value, test, time; remove some"),
    "compare": ("recipes.cli.verbs.compare", "what runs measured, side by side, over their seeds or folds"),
    "web": ("recipes.cli.verbs.web", "show all runs in a browser, live while they train"),
    "calibrate": ("recipes.cli.verbs.calibrate", "measure how far a classifier's probabilities can be trusted"),
    "predict": (
        "recipes.cli.verbs.predict",
        "images, rows, series or texts in; labels, values, pictures, forecasts out",
    ),
    "sample": ("recipes.cli.verbs.sample", "sample from a generative model, write text with a language model"),
    "export": ("recipes.cli.verbs.export", "write a model as ONNX, a torch.export program or tensors"),
    "examples": ("recipes.cli.verbs.examples", "copy small inputs to try the bundled models with"),
    "models": ("recipes.cli.verbs.models", "list the models, or describe one; list the bundled weights"),
    "recipes": ("recipes.cli.verbs.recipes", "list the recipes"),
    "transfer": (
        "recipes.cli.studies.transfer_digits",
        "measure the worth of transfer: digits 5-9 after 0-4, from few labels",
    ),
    "lottery": (
        "recipes.cli.studies.lottery_ticket",
        "measure lottery tickets: pruned nets, set back and trained again",
    ),
    "pretrain": ("recipes.cli.studies.pretrain_then_classify", "measure the worth of unlabeled digits"),
    "baselines": ("recipes.cli.studies.baselines", "measure scikit-learn's plain methods on a recipe's data"),
}
_RUN_VERBS = ("fit", "validate", "test")  # their help lists the arguments of a recipe's classes


def main(argv: list[str] | None = None) -> int:
    """Run the command line in this process.

    Args:
        argv: Arguments without the program's name; None for those of the process.

    Returns:
        The exit code: 0; 2 for an error that the user can fix (one line on stderr); 1 for a bug (a traceback); 75 for a
        lack of resources (disk space); 143 or 130 when stopped by SIGTERM or Ctrl-C, saved if training had begun.

    Example:
        >>> main(["recipes", "lenet_nothing"])
        2
    """
    args = list(sys.argv[1:] if argv is None else argv)
    with any_text_prints():
        return guarded(_dispatch, [arg for arg in args if arg != "--debug"], debug="--debug" in args)


def guarded(work: Callable[[list[str]], int], args: list[str], debug: bool = False) -> int:
    """Call ``work`` and return an exit code, whatever happens, with errors reported as the command line does."""
    try:
        return work(args)
    except SystemExit as stop:
        return _code(stop)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `zoo recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Crash as crash:
        print(formatted(crash.__cause__ or crash), file=sys.stderr)
        return BUG
    except Exception as error:
        code, line = explain(error)
        if debug or line is None:
            print(formatted(error), file=sys.stderr)
        return _complain(line, code) if line is not None else code


def entry_point() -> None:
    """Run the console script ``zoo``."""
    sys.exit(main())


def _dispatch(args: list[str]) -> int:
    if args[:1] == ["help"] and len(args) > 1:  # zoo help fit
        args = [*args[1:], "--help"]
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
        known = ["--version", "--help", "--debug"] if verb.startswith("-") else VERBS
        hint = suggest(verb, known) or " (`zoo --help` lists the verbs)"
        raise UserError(f"unknown {what} {verb!r}{hint}")
    module = import_module(VERBS[verb][0])
    if "--help" in rest or "-h" in rest:
        if verb in _RUN_VERBS:
            from recipes.cli.run.process import print_recipe_arguments

            print_recipe_arguments(verb, rest)
        print(module.HELP, end="")
        if verb == "sample":
            module.print_more_help(rest)
        return OK
    code: int = module.run(rest)
    return code


def _help() -> str:
    verbs = "\n".join(f"  {verb:<10} {summary}" for verb, (_, summary) in VERBS.items())
    return f"""zoo: models of a deep-learning curriculum, each with a recipe that trains it.

{verbs}

  --version  the version, and what a bug report needs to say about the machine
  --debug    with any verb: show the traceback of an error

See `zoo VERB --help`. To begin with:
  zoo examples
  zoo recipes
  zoo fit -c cnn/lenet_digits
"""


def _complain(line: str, code: int) -> int:
    if not (code == USER and _other_process_reports()):
        with contextlib.suppress(OSError):  # a full disk again
            print(f"zoo: error: {line}", file=sys.stderr)
    return code


def _other_process_reports() -> bool:
    """Return whether another process on this machine reports the same error."""
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
