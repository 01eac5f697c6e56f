"""Metrics of the codes of an autoencoder."""

import torch
from torch import Tensor
from torchmetrics import Metric

ACTIVE = 0.01  # variance of a code's number over the examples from which on it is active


class ActiveUnits(Metric):
    """Number of code dimensions whose variance over the examples is above 0.01 (Burda et al. 2016, arXiv:1509.00519).

    Shape:
        ``(B, D)`` in each update.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, 1), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        rows = values.float()
        self.sums = self.sums + torch.stack([torch.ones_like(rows), rows, rows.square()]).sum(dim=1)  # (3, D)

    def compute(self) -> Tensor:
        count, total, squares = self.sums
        return ((squares / count - (total / count).square()) > ACTIVE).sum().float()
