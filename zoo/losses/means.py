"""Weighted means of losses."""

from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor | None = None) -> tuple[Tensor, int | Tensor]:
    """Return the weighted mean of losses and its denominator, the number of examples or the total weight.

    Args:
        values: Losses, one for each example, or several (for each label, output or token).
        weight: Weights >= 0 of the examples or of each value; 0 does not count. None: all examples count equally.

    Shape:
        values ``(B,)`` or ``(B, ...)``; weight ``(B,)``, then the values of an example are averaged first, or the shape of the
        values, then it is a mean over values.

    Returns:
        The mean, 0 if nothing counts; and its denominator.
    """
    values = values if weight is not None and weight.shape == values.shape else by_example(values)
    if weight is None:
        return values.mean(), len(values)
    total = weight.sum()
    return (values * weight).sum() / total.where(total > 0, 1), total


def counted(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the values with a weight above 0, for an evaluation metric.

    Shape:
        As in :func:`weighted_mean` -> ``(N,)``.
    """
    if weight is not None and weight.shape == values.shape:
        return values[weight > 0]
    values = by_example(values)
    return values if weight is None else values[weight > 0]


def by_example(values: Tensor) -> Tensor:
    """Average the values of each example: ``(B, ...)`` -> ``(B,)``."""
    return values.flatten(1).mean(dim=1) if values.ndim > 1 else values
