"""Which examples are held out, and the fingerprint of what came of it: the same on every machine."""

import hashlib

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor


def held_out(name: str, fraction: float, count: int, seed: int, labels: Tensor | None = None) -> Tensor:
    """True for a random share of some examples.

    Args:
        name: of the share, for the error.
        fraction: the share, in [0, 1); 0 holds nothing out.
        count: N, the number of examples.
        seed: chooses them.
        labels: int64 ``(N,)``; every class gets its share. None does not look at classes.

    Shape:
        ``(N,)``.

    Raises:
        ValueError: there are too few examples (of a class) for both parts.
    """
    chosen = torch.zeros(count, dtype=torch.bool)
    if fraction > 0:
        stratify = None if labels is None else labels.numpy()
        try:
            _, places = train_test_split(range(count), test_size=fraction, random_state=seed, stratify=stratify)
        except ValueError as error:
            cure = "give a larger one, or 0 for none"
            if labels is not None and int(fewest := torch.bincount(labels)[labels.unique()].min()) < 2:
                cure = f"a class has {int(fewest)} example and needs 2: add some, or give 0 for none"
            raise ValueError(
                f"{name}={fraction} of {count} examples cannot hold every class in both parts: {cure}"
            ) from error
        chosen[places] = True
    return chosen


def digest(*parts: Tensor | str) -> str:
    """16 hexadecimal digits: the same for the same values, types and shapes, on any machine.

    Example:
        >>> digest("a", torch.zeros(2)) == digest("a", torch.zeros(2)), digest("a", "b") == digest("ab")
        (True, False)
    """
    summary = hashlib.blake2b(digest_size=8)
    for part in parts:
        kind = "text" if isinstance(part, str) else f"{part.dtype} {tuple(part.shape)}"
        content = part.encode() if isinstance(part, str) else part.contiguous().numpy().tobytes()
        summary.update(f"{kind} {len(content)}\n".encode())
        summary.update(content)
    return summary.hexdigest()
