"""Suggestions for misspelled words."""

import difflib
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` with the closest known word, or an empty string.

    Case is ignored, and so is a path before the last ``/`` where the whole word is close to none.

    Example:
        >>> suggest("lenet_digit", ["cnn/lenet_digits", "linear/mlp_xor"])
        ", did you mean 'cnn/lenet_digits'?"
    """
    word, words = str(word).lower(), {name.lower(): name for name in known}
    tails = {name.rpartition("/")[2]: whole for name, whole in words.items()}
    for candidates, tried in ((words, word), (tails, word.rpartition("/")[2])):
        if close := difflib.get_close_matches(tried, candidates, n=1):
            return f", did you mean {candidates[close[0]]!r}?"
    return ""
