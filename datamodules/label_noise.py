"""Labels that are wrong on purpose."""

import torch
from torch import Tensor


def plant(y: Tensor, share: float, seed: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return labels of which a share is replaced by another class, and which were.

    Args:
        y: Classes, int64 ``(N,)``.
        share: Share of all labels that are replaced, in [0, 1]: ``round(share * N)`` of them.
        seed: Seed of the choice of labels and of their new classes.
        num_classes: Number of classes K >= 2; each of the K - 1 others is as likely.

    Returns:
        The labels, int64 ``(N,)``, and True where they are new, bool ``(N,)``.

    Example:
        >>> y, planted = plant(torch.zeros(20, dtype=torch.long), 0.15, 0, 3)
        >>> int(planted.sum()), bool((y[planted] != 0).all()), int(y[~planted].sum())
        (3, True, 0)
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    noisy = y.clone()
    noisy[chosen] = (y[chosen] + torch.randint(1, num_classes, (len(chosen),), generator=generator)) % num_classes
    return noisy, noisy != y
