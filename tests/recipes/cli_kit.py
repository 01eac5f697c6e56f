"""What the command line's tests share."""

from collections.abc import Callable
from dataclasses import dataclass

RECIPE = "linear/softmax_digits"
SHORT = ("--trainer.limit_train_batches=3", "--trainer.log_every_n_steps=1")


@dataclass
class Result:
    """What a command line gave."""

    code: int
    out: str
    err: str


Zoo = Callable[..., Result]


def assert_one_line(result: Result, *words: str, code: int = 2) -> None:
    """A user's error: its exit code, one line on stderr with these words, nothing on stdout."""
    assert result.code == code, result.err
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("zoo: error: ")
    for word in words:
        assert word in lines[0], lines[0]
