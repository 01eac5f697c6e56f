"""Flat input: what nets that take a row of numbers share."""

from torch import Tensor, nn


def flatten_features(net: nn.Module, x: Tensor, features: int) -> Tensor:
    """An example as a row of numbers.

    Args:
        net: named in the message.
        x: the batch; images are flattened.
        features: wanted numbers D an example.

    Shape:
        ``(B, ...)`` -> ``(B, D)``.

    Raises:
        ValueError: what came, what was wanted, the cure.
    """
    x = x.flatten(1)  # (B, ...) -> (B, D)
    if x.shape[1] != features:
        raise ValueError(
            f"{type(net).__name__} takes {features} numbers an example, got {x.shape[1]}: set in_features={x.shape[1]}"
        )
    return x
