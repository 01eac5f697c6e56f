"""What nets that generate examples share: the size of a code, and conditions beside an input."""

import torch
import torch.nn.functional as F
from torch import Tensor


def check_latent_dim(latent_dim: int) -> None:
    """Refuse a code without numbers.

    Raises:
        ValueError: ``latent_dim`` is below 1.
    """
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be 1 or more, got {latent_dim}")


def one_hot(y: Tensor | None, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Return a row for each class label: 1 at its class, 0 elsewhere.

    Shape:
        ``(B,)`` -> ``(B, num_classes)``.

    Raises:
        ValueError: There are no labels.
    """
    if y is None:
        raise ValueError(f"a conditional net needs the class y of each example, in 0..{num_classes - 1}, got none")
    return F.one_hot(y.long(), num_classes).to(dtype)


def concat_conditions(x: Tensor, conditions: Tensor | None) -> Tensor:
    """Concatenate conditions to an input: to rows as columns, to images as constant maps, behind their channels.

    Shape:
        ``(B, C, ...)`` and ``(B, K)`` -> ``(B, C + K, ...)``.
    """
    if conditions is None:
        return x
    maps = conditions.view(*conditions.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])  # (B, K) -> (B, K, ...)
    return torch.cat([x, maps], dim=1)
