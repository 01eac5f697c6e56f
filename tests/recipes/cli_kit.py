"""Helpers of the command line's tests."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPE = "linear/softmax_digits"
SHORT = ("--trainer.limit_train_batches=3", "--trainer.log_every_n_steps=1")

# the vocabulary of the fixture lm
LETTERS = {"kind": "characters", "tokens": ["\n", " ", "a", "b", "é"]}


@dataclass
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Zoo = Callable[..., Result]


def results(run: Path) -> dict[str, Any]:
    """How a run has ended, of its results.json."""
    return json.loads((run / "results.json").read_text())


def assert_one_line(result: Result, *words: str, code: int = 2, started: bool = False) -> None:
    """Assert a one-line error.

    Args:
        result: Result of the command.
        words: Parts of the line.
        code: Exit code.
        started: Whether the command may have printed to stdout before, such as the start of a run.
    """
    assert result.code == code, result.err
    assert started or not result.out, result.out
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("zoo: error: ")
    for word in words:
        assert word in lines[0], lines[0]
