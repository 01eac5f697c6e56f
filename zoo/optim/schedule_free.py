"""The two sets of weights of schedule-free optimizers: Defazio et al. 2024, "The Road Less Scheduled", arXiv:2405.15682."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def is_schedule_free(optimizer: Optimizer | type[Optimizer]) -> bool:
    """Return whether an optimizer, or its class, is one of the package schedulefree: it has two sets of weights."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


@torch.no_grad()
def averaged_weights(optimizers: Iterable[Optimizer]) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the parameters that have been trained, while they are the training weights y, each with its average x.

    ``x = y + (1 - 1 / beta1) (z - y)``, where the optimizer keeps z. Its own ``eval()`` and ``train()`` overwrite the weights, and
    bring y back only up to rounding.
    """
    return [
        (p, torch.lerp(p, optimizer.state[p]["z"], 1 - 1 / _beta(group)))
        for optimizer in optimizers
        if is_schedule_free(optimizer)
        for group in optimizer.param_groups
        for p in group["params"]
        if "z" in optimizer.state.get(p, {})
    ]


def _beta(group: dict[str, object]) -> float:
    """Return the share of the average in the training weights: Adam's first beta, SGD's momentum."""
    return group["betas"][0] if "betas" in group else group["momentum"]  # type: ignore[index, return-value]
