"""``zoo fit``: train a recipe, test the best checkpoint, or continue a run; or find a learning rate or a batch size for it."""

import math
from pathlib import Path
from typing import Any

from recipes.cli import catalog
from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import OK, UserError
from recipes.cli.many import repeats
from recipes.cli.run.options import Parser, split_word
from recipes.cli.run.process import OVERRIDES_HELP, exiting_at_once, restored_process_state, run_verb

HELP = f"""zoo fit RECIPE [options]: train, test the best checkpoint, compare it with what the recipe expects.

  RECIPE                a name that `zoo recipes` lists, else a YAML of your own; the same as -c, --config; another -c adds to it
  --logger NAME         csv (default), tensorboard, wandb, wandb-offline, none, or package.Class of a logger of Lightning's or your
                        own; metrics.csv is written in any case (docs/tracking.md)
  --wandb-artifacts W   checkpoints that W&B gets at the end: none (default), best, best+last
  --resume [RUN]        continue a run in its own folder, with its own config.yaml: the newest of the recipe that has a checkpoint,
                        or a run folder, a version, a checkpoint; what is given beside it is recorded, or refused by name
  --save-every INTERVAL save within epochs, too: 10m, 500s, 1h30m, or 200steps of the optimizer (default: after each epoch)
  --keep K              keep the K last checkpoints: last.ckpt, and those before it as step_N.ckpt (default: 1); best.ckpt besides
  --time-limit TIME     save and stop after 23h50m, counted from the start of this command; under SLURM, requeue the job
  --runs FOLDER         where run folders are made (default: runs)
  --seeds K             train K runs with seeds s, s + 1 ..., s that of the recipe; tell mean, deviation and range of their metrics
  --folds K             train K runs, each of which validates on another of K folds of the training part, stratified by class
                        (--resume with either, or with their folder, goes on at the first run that is unfinished)
  --fast                mixed bfloat16 where this machine has it; sums and parameters stay 32-bit, results differ slightly
  --find-lr             train nothing, but try growing learning rates, draw the losses, and suggest one (docs/steps.md)
  --find-batch-size     train nothing, but try batch sizes up to what memory allows, and tell how fast each is
{OVERRIDES_HELP.format(verb="fit")}
Examples:
  zoo fit cnn/lenet_digits
  zoo fit cnn/lenet_digits --model.lr 0.01 --trainer.max_epochs 5
  zoo fit cnn/lenet_digits --resume
  zoo fit --resume runs/cnn/lenet_digits/version_0 --trainer.max_epochs 40
  zoo fit cnn/lenet_digits --find-lr
  zoo fit cnn/lenet_digits --seeds 3
  zoo fit cnn/lenet_digits --save-every 10m --keep 2 --time-limit 23h50m
"""
_FINDERS = ("--find-lr", "--find-batch-size")


def run(args: list[str]) -> int:
    """Run the verb ``fit``."""
    if any(arg.partition("=")[0] in _FINDERS for arg in args):
        return _find(args)
    if repeats.asked(args):
        return repeats.run(args)
    return run_verb("fit", args)


def _find(args: list[str]) -> int:
    """Try rates or batch sizes, and print what is suggested."""
    parser = Parser("zoo fit")
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--fast", action="store_true")
    for option in _FINDERS:
        parser.add_argument(option, action="store_true")
    parser.add_argument("--resume", nargs="?", const="")
    for name in ("logger", "seeds", "folds"):
        parser.add_argument(f"--{name}")
    word, args = split_word(args)
    options, overrides = parser.parse_known_args(args)
    chosen = [option for option in _FINDERS if getattr(options, option[2:].replace("-", "_"))]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)}: give one of the two; the batch size first, as the rate depends on it")
    for name in ("resume", "logger", "seeds", "folds"):
        if getattr(options, name) is not None:
            raise UserError(
                f"{chosen[0]} trains nothing that could be continued, logged or repeated: leave --{name} out"
            )
    recipes = [catalog.find(text) for text in ([] if word is None else [word]) + options.config]
    if not recipes:
        raise UserError(f"no recipe given: zoo fit NAME {chosen[0]} (`zoo recipes` lists them)")
    console = Console()
    with restored_process_state():
        with NoCaches(), exiting_at_once():
            from recipes.cli.run.building import RecipeCLI
            from recipes.cli.run.fast import fast_options
            from recipes.cli.run.options import OPTIONS_OF
        with captured_logs(console):
            fast = fast_options() if options.fast else []
            configs = [f"--config={recipe.path}" for recipe in recipes]
            cli = RecipeCLI([*configs, *fast, *overrides], overrides, verb_options=OPTIONS_OF["fit"])
            if chosen[0] == "--find-lr":
                _find_rate(cli, recipes[0], options.runs)
            else:
                _find_batch_size(cli)
    return OK


def _find_rate(cli: Any, recipe: catalog.Recipe, runs: Path) -> None:
    from recipes.cli.finders.lr_range import draw, range_test
    from recipes.cli.run.building import arguments_of

    curve = range_test(cli)
    name = next((name for name in ("lr", "learning_rate") if name in arguments_of(cli.config.model.class_path)), None)
    used = getattr(cli.model, "hparams", {}).get(name)
    ended = "where the loss diverged" if curve.diverged else "the end of the range"
    print(f"steps        {len(curve.rates)}, from a rate of {curve.rates[0]:.1e} to {curve.rates[-1]:.1e}, {ended}")
    floor = f"{curve.smoothed[curve.floor]:.4g} (smoothed), its floor, from a rate of {curve.rates[curve.floor]:.1e} on"
    print(f"loss         {curve.losses[0]:.4g} at first; {floor}")
    if curve.suggestion is None:
        print("suggested    none: the loss falls nowhere by more than it varies, so these few steps do not tell")
    else:
        option = f"--model.{name} {curve.suggestion:g}" if name else f"{curve.suggestion:g}"
        print(f"suggested    a tenth of that rate: {option}" + (f" (now {used:g})" if used else ""))
    path = runs / recipe.name / "lr_range.png"
    draw(curve, path, f"{recipe.name}: learning rate range test", used)
    print(f"picture      {path}")


def _find_batch_size(cli: Any) -> None:
    from recipes.cli.check.plan import size
    from recipes.cli.finders.batch_size import find

    good = []
    for i, each in enumerate(find(cli)):
        if i == 0:
            print(f"{'batch size':>10}  {'memory':>10}  {'examples/s':>10}")
        measured = ("", "") if math.isnan(each.bytes) else (size(each.bytes), f"{each.speed:,.0f}")
        print(f"{each.size:>10}  {measured[0]:>10}  {measured[1]:>10}  {each.problem}".rstrip(), flush=True)
        good += [each] if each.fits else []
    if not good:
        raise UserError("no batch size fits: take a smaller model, or smaller inputs")
    most, top = max(each.size for each in good), max(each.speed for each in good)
    enough = min(each.size for each in good if each.speed >= 0.9 * top)
    print(f"\nlargest      --data.batch_size {most}")
    print(f"fast enough  --data.batch_size {enough}: the smallest within 10% of the most examples a second")
    print("Another batch size wants another learning rate: --find-lr with it.")
