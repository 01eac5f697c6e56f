"""Metrics of segmentation, computed from sums over pixels."""

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.losses.pixels import PixelLoss, PixelSums


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the widest floating type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


class EvaluationLoss(Metric):
    """Loss over all valid pixels of an evaluation together, on all processes.

    Args:
        loss: Loss, a function of the sums.
        num_classes: Number of classes K.
        dtype: Type that the sums are kept in, see :func:`exact_dtype`.
    """

    full_state_update = False

    def __init__(self, loss: PixelLoss, num_classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.loss = loss
        self.terms: dict[str, Tensor] = {}  # of the last computed loss
        for name, zero in zip(PixelSums._fields, PixelSums.zeros(num_classes, dtype), strict=True):
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(self, sums: PixelSums) -> None:
        for name, value in zip(PixelSums._fields, sums, strict=True):
            setattr(self, name, getattr(self, name) + value)

    def compute(self) -> Tensor:
        loss, self.terms = self.loss(PixelSums(*(getattr(self, name) for name in PixelSums._fields)))
        return loss


def scores(confusion: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Return mean intersection over union, pixel accuracy, and the intersection over union of each class.

    Args:
        confusion: Counts of pixels ``(K, K)``: rows are true, columns predicted classes.
        names: Names of the classes.

    Returns:
        ``miou`` (over the classes that occur or are predicted), ``acc``, ``iou/<name>`` (nan for a class that neither occurs nor is
        predicted); nan without pixels.
    """
    counts = confusion.to(exact_dtype(confusion.device))
    right, total = counts.diagonal(), counts.sum()
    iou = right / (counts.sum(0) + counts.sum(1) - right)  # 0 / 0: nan
    return {
        "miou": iou.nanmean(),
        "acc": right.sum() / total,
        **{f"iou/{n}": v for n, v in zip(names, iou, strict=True)},
    }
