"""Metrics of codes."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ActiveUnits(Metric):
    """Number of columns of ``(B, D)`` whose variance is above 0.01 (Burda et al. 2016); sums are gathered over ranks."""

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, 1), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        rows = values.float()
        self.sums = self.sums + torch.stack([torch.ones_like(rows), rows, rows.square()]).sum(dim=1)  # (3, D)

    def compute(self) -> Tensor:
        count, total, squares = self.sums
        return ((squares / count - (total / count).square()) > 0.01).sum().float()
