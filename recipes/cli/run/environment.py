"""Where a run was made: versions, the machine, and the commit of the code in the current folder. Imports no torch."""

import subprocess

from recipes.cli.report import facts


def environment() -> dict[str, str]:
    """Return the facts of ``zoo --version``, and in a git repository ``git_commit`` and ``git_dirty`` ("yes" or "no").

    Only changes of files that git follows make it dirty.
    """
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return facts()
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {**facts(), "git_commit": commit, "git_dirty": "yes" if changed else "no"}


def _git(*arguments: str) -> str:
    """Return what git prints; an empty text if there is no git, no repository, or one that it refuses to read."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, errors="replace", timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
