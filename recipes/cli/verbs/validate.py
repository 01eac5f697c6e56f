"""``zoo validate``: measure a checkpoint on the validation data."""

from recipes.cli.run.process import EVALUATION_HELP, run_verb

HELP = EVALUATION_HELP.format(verb="validate", data="the validation data")


def run(args: list[str]) -> int:
    """Run the verb ``validate``."""
    return run_verb("validate", args)
