"""Metrics of language models, each a quotient of two sums: total negative log-probability, and what it is divided by."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class NatsPer(Metric):
    """Negative log-probability in nats for each unit: token, character or byte. nan without units.

    Args:
        dtype: Type that the sum is kept in, see :func:`~zoo.metrics.pixels.exact_dtype`.
    """

    full_state_update = False
    nats: Tensor
    units: Tensor

    def __init__(self, dtype: torch.dtype = torch.float64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("nats", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("units", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, nats: Tensor, units: Tensor) -> None:
        """Add the losses of tokens in nats ``(N,)``, and the number of units that each stands for, int64 ``(N,)``."""
        self.nats = self.nats + nats.sum(dtype=self.nats.dtype)
        self.units = self.units + units.sum()

    def compute(self) -> Tensor:
        return (self.nats / self.units).float()


class Perplexity(NatsPer):
    """Exponential of the mean over all tokens: the number of equally probable tokens among which a choice would be as uncertain."""

    def compute(self) -> Tensor:
        return (self.nats / self.units).exp().float()


class BitsPer(NatsPer):
    """Negative log-probability in bits for each unit."""

    def compute(self) -> Tensor:
        return (self.nats / self.units / math.log(2)).float()
