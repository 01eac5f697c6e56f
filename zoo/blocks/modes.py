"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Set a module to evaluation mode for a while.

    Afterwards each of its parts has the mode that it had before, since some may be frozen.

    Args:
        module: The module.
        gradients: Whether gradients are computed.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with nullcontext() if gradients else torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
