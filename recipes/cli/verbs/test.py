"""``zoo test``: measure a checkpoint on the test data."""

from recipes.cli.run.process import EVALUATION_HELP, run_verb

HELP = EVALUATION_HELP.format(verb="test", data="the test data")


def run(args: list[str]) -> int:
    """Run the verb ``test``."""
    return run_verb("test", args)
