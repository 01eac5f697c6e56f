"""Calibration of classifiers: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.metrics.labels import IGNORED, add_at
from zoo.metrics.pixels import exact_dtype


class Reliability(NamedTuple):
    """What a reliability diagram shows, ``(M,)`` each: an equal-width bin of the confidence an entry.

    Attributes:
        counts: Number of decisions in each bin, int64.
        accuracy: Share of them that are right; nan in an empty bin.
        confidence: Their mean confidence; nan in an empty bin.
    """

    counts: Tensor
    accuracy: Tensor
    confidence: Tensor


class CalibrationError(Metric):
    """How far the confidence of decisions is from the share of them that is right, in [0, 1]; nan without decisions.

    The confidence of a decision is the probability of the class that is decided for, the most probable one. Decisions are put
    into M bins of equal width, ``((m - 1) / M, m / M]``; the error of a bin is the absolute difference between its accuracy and its
    mean confidence. A binary or multi-label probability is one of two classes, so its confidence is ``max(p, 1 - p)``.

    The states are counts, and sums of confidences in float64: the value does not depend on how examples are cut into batches and
    processes.

    Args:
        bins: Number of bins M, >= 1; 15 in the paper (section 4).
        kind: "expected", the mean error over all decisions (equation 3), or "max", the largest error of a bin (equation 5).

    Shape:
        of each update: probabilities ``(N, K)`` and true labels ``(N,)``; or probabilities of class 1 and labels 0 or 1, both
        ``(N,)`` or ``(N, K)``. A true label of -1 does not count.

    Raises:
        ValueError: An argument out of its range, or values that are no probabilities, such as logits.

    Example:
        >>> error = CalibrationError()
        >>> error.update(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1]))
        >>> round(error.compute().item(), 4)
        0.3
    """

    full_state_update = False
    count: Tensor
    right: Tensor
    confidence: Tensor

    def __init__(self, bins: int = 15, kind: Literal["expected", "max"] = "expected", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if bins < 1:
            raise ValueError(f"bins must be 1 or more, got {bins}")
        if kind not in ("expected", "max"):
            raise ValueError(f"kind must be 'expected' or 'max', got {kind!r}")
        self.bins, self.kind = bins, kind
        for name in ("count", "right"):
            self.add_state(name, torch.zeros(bins, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("confidence", torch.zeros(bins, dtype=exact_dtype(self.device)), dist_reduce_fx="sum")

    def update(self, p: Tensor, target: Tensor) -> None:
        if target.shape not in (p.shape, p.shape[:1]):
            raise ValueError(
                f"probabilities (N, K) need labels (N,) or (N, K), got {tuple(p.shape)} and {tuple(target.shape)}"
            )
        if not bool(((p >= 0) & (p <= 1 + 1e-5)).all()):  # a sum may be rounded up
            raise ValueError(
                f"probabilities lie in [0, 1], got {p.min():.4g} to {p.max():.4g}: give model.outputs(x)['probabilities'], not "
                "logits"
            )
        p = p.to(self.confidence.dtype)
        if p.ndim > target.ndim:
            confidence, decided = p.max(dim=1)
        else:
            confidence, decided = torch.maximum(p, 1 - p), (p >= 0.5).long()
        valid = target != IGNORED
        index = ((confidence * self.bins).ceil().long() - 1).clamp(0, self.bins - 1)
        add_at(self.count, index, valid)
        add_at(self.right, index, decided == target)  # never -1
        self.confidence.index_add_(0, index.flatten(), torch.where(valid, confidence, 0).flatten())

    def compute(self) -> Tensor:
        if not self.count.any():
            return torch.full((), float("nan"), device=self.count.device)
        gap = (self.right - self.confidence).abs()  # of a bin, times its count
        return (
            gap.sum() / self.count.sum() if self.kind == "expected" else (gap / self.count).nan_to_num().max()
        ).float()

    def reliability(self) -> Reliability:
        """Return count, accuracy and mean confidence of each bin, of what this process has seen."""
        total = self.count.to(self.confidence.dtype)  # 0 / 0: nan
        return Reliability(self.count.clone(), self.right / total, self.confidence / total)
