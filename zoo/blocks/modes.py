"""Evaluation mode that puts every module's own mode back."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Set evaluation mode, without ``gradients`` or with them; afterwards each part has the mode it had (some may be frozen)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with nullcontext() if gradients else torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
