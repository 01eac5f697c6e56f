"""``python -m recipes.cli.many.worker STUDY``: train trials of a study beside others, for ``zoo tune --jobs``."""

import sys
from pathlib import Path

from recipes.cli.errors import OK
from recipes.cli.run.process import restored_process_state
from recipes.cli.run.signals import end_with_parent


def main(args: list[str]) -> int:
    """Train trials until none is left."""
    end_with_parent()
    from recipes.cli.many.trials import work

    with restored_process_state():
        work(Path(args[0]), lambda line: print(line, flush=True))
    return OK


if __name__ == "__main__":
    from recipes.cli.__main__ import guarded

    sys.exit(guarded(main, sys.argv[1:]))
