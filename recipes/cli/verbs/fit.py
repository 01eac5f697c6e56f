"""``zoo fit``: train a recipe, test the best checkpoint, or continue a run."""

from recipes.cli.run.process import OVERRIDES_HELP, run_verb

HELP = f"""zoo fit RECIPE [options]: train, test the best checkpoint, compare it with what the recipe expects.

  RECIPE                a name that `zoo recipes` lists, else a YAML of your own; the same as -c, --config; another -c adds to it
  --logger NAME         csv (default), tensorboard, wandb, wandb-offline, none; metrics.csv is written in any case
  --resume [RUN]        continue a run in its own folder, with its own config.yaml: the newest of the recipe that has a checkpoint,
                        or a run folder, a version, a checkpoint; what is given beside it is recorded, or refused by name
  --runs FOLDER         where run folders are made (default: runs)
  --fast                mixed bfloat16 where this machine has it; sums and parameters stay 32-bit, results differ slightly
{OVERRIDES_HELP.format(verb="fit")}
Examples:
  zoo fit cnn/lenet_digits
  zoo fit cnn/lenet_digits --model.lr 0.01 --trainer.max_epochs 5
  zoo fit cnn/lenet_digits --resume
  zoo fit --resume runs/cnn/lenet_digits/version_0 --trainer.max_epochs 40
"""


def run(args: list[str]) -> int:
    """Run the verb ``fit``."""
    return run_verb("fit", args)
