"""Input of nets that take a row of numbers."""

from torch import Tensor, nn


def flatten_features(net: nn.Module, x: Tensor, features: int) -> Tensor:
    """Flatten the examples of a batch, and check their size.

    Args:
        net: The net that takes them, for the message.
        x: Batch of rows or images.
        features: Number D of features that the net takes.

    Shape:
        ``(B, ...)`` -> ``(B, D)``.

    Raises:
        ValueError: The examples have another number of features.
    """
    x = x.flatten(1)  # (B, ...) -> (B, D)
    if x.shape[1] != features:
        raise ValueError(
            f"{type(net).__name__} takes {features} numbers an example, got {x.shape[1]}: set in_features={x.shape[1]}"
        )
    return x
