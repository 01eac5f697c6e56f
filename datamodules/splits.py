"""Random splits and fingerprints, the same on every machine."""

import hashlib

import torch
from torch import Tensor


def held_out(name: str, fraction: float, count: int, seed: int, labels: Tensor | None = None) -> Tensor:
    """Return the mask of a random share of examples.

    Args:
        name: Name of the share, for the error.
        fraction: Share in [0, 1).
        count: Number of examples N.
        seed: Seed of the choice.
        labels: Classes to stratify by, int64 ``(N,)``; None does not stratify.

    Returns:
        Bool ``(N,)``, True for the chosen examples.

    Raises:
        ValueError: There are too few examples (of a class) for both parts.
    """
    chosen = torch.zeros(count, dtype=torch.bool)
    if fraction > 0:
        from sklearn.model_selection import train_test_split  # here, for who predicts needs none of it

        stratify = None if labels is None else labels.numpy()
        try:
            _, indices = train_test_split(range(count), test_size=fraction, random_state=seed, stratify=stratify)
        except ValueError as error:
            cure = "give a larger share, or 0 for none"
            if labels is not None and int(fewest := torch.bincount(labels)[labels.unique()].min()) < 2:
                cure = f"a class has {int(fewest)} example and needs 2: add some, or give 0"
            raise ValueError(
                f"{name}={fraction} of {count} examples cannot hold every class in both parts: {cure}"
            ) from error
        chosen[indices] = True
    return chosen


def digest(*parts: Tensor | str) -> str:
    """Return 16 hexadecimal digits, the same for the same values, types and shapes on any machine.

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
