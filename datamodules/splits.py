"""Random splits and fingerprints, the same on every machine."""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor


def held_out(
    name: str, fraction: float, count: int, seed: int, labels: Tensor | None = None, things: str = "examples"
) -> Tensor:
    """Return the mask of a random share of examples.

    Args:
        name: Name of the share, for the error.
        fraction: Share in [0, 1).
        count: Number of examples N.
        seed: Seed of the choice.
        labels: Classes to stratify by, int64 ``(N,)``; None does not stratify.
        things: What the examples are, for the error.

    Returns:
        Bool ``(N,)``, True for the chosen examples.

    Raises:
        ValueError: There are too few examples (of a class) for both parts.
    """
    chosen = np.zeros(count, bool)
    if fraction > 0:
        random = np.random.RandomState(seed)  # the draws of scikit-learn's train_test_split
        size = math.ceil(fraction * count)
        if labels is None:
            enough = 0 < size < count
        else:
            order = np.argsort(labels.numpy(), kind="stable")
            counts = np.bincount(labels.numpy())
            counts = counts[counts > 0]
            enough = counts.min(initial=count) > 1 and len(counts) <= min(size, count - size)
        if not enough:
            what, cure = "cannot hold every class in both parts", "give a larger share, or 0 for none"
            if labels is None:
                what, cure = "leaves none for the other part", "add some, or give a smaller share, 0 for none"
            elif (fewest := counts.min(initial=count)) < 2:
                cure = f"a class has {fewest} example and needs 2: add some, or give 0"
            raise ValueError(f"{name}={fraction} of {count} {things} {what}: {cure}")
        if labels is None:
            chosen[random.permutation(count)[:size]] = True
        else:
            kept = _shares(counts, count - size, random)
            taken = _shares(counts - kept, size, random)
            for members, first, number in zip(np.split(order, np.cumsum(counts)[:-1]), kept, taken, strict=True):
                chosen[members[random.permutation(len(members))[first : first + number]]] = True
    return torch.from_numpy(chosen)


def fold(
    number: int, of: int, count: int, seed: int, labels: Tensor | None = None, names: list[str] | None = None
) -> Tensor:
    """Return the mask of one of several equal, disjoint parts of the examples, as in k-fold cross-validation.

    Args:
        number: Which part, in 1..of.
        of: Number of parts k.
        count: Number of examples N.
        seed: Seed of the choice.
        labels: Classes to stratify by, int64 ``(N,)``; None does not stratify.
        names: Names of the classes, for the error.

    Returns:
        Bool ``(N,)``, True for the examples of the part. Each example is in one of the k parts. Sizes of parts differ by one at
        most, without labels; and so does the number of a class in them.

    Raises:
        ValueError: There are fewer than k examples, or fewer than k of a class.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    counts = np.bincount(labels.numpy()) if labels is not None else np.array([count])
    few = [k for k in np.flatnonzero(counts) if counts[k] < of]
    if few or count < of:
        of_class = "" if labels is None else f" of class {names[few[0]] if names else few[0]!r}"
        raise ValueError(
            f"{of} folds need {of} examples{of_class}, and there {'is' if counts[few[0]] == 1 else 'are'} {counts[few[0]]}: take "
            f"fewer folds, or add examples"
        )
    kind = KFold if labels is None else StratifiedKFold
    parts = kind(of, shuffle=True, random_state=seed).split(np.empty(count), labels)
    _, chosen = list(parts)[number - 1]
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.from_numpy(chosen)] = True
    return mask


def _shares(counts: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """Return how many of each class make ``total`` examples, in proportion to their counts; ties are broken at random."""
    exact = counts / counts.sum() * total
    shares = np.floor(exact)
    rest = int(total - shares.sum())
    remainders = exact - shares
    for remainder in np.unique(remainders)[::-1]:
        if not rest:
            break
        classes = np.flatnonzero(remainders == remainder)
        more = random.choice(classes, size=min(len(classes), rest), replace=False)
        shares[more] += 1
        rest -= len(more)
    return shares.astype(int)


def digest(*parts: Tensor | str) -> str:
    """Return 16 hexadecimal digits, the same for the same values, types and shapes on any machine.

    Example:
        >>> digest("a", torch.zeros(2)) == digest("a", torch.zeros(2)), digest("a", "b") == digest("ab")
        (True, False)
    """
    summary = hashlib.blake2b(digest_size=8)
    for part in parts:
        kind = "text" if isinstance(part, str) else f"{part.dtype} {tuple(part.shape)}"
        content = memoryview(part.encode()) if isinstance(part, str) else part.contiguous().numpy().data
        summary.update(f"{kind} {content.nbytes}\n".encode())
        summary.update(content)
    return summary.hexdigest()
