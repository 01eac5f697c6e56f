"""Metrics of generated samples: modes reached, classes by a judge, and the Frechet distance of its features."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

FAIR = 0.1  # a mode is reached if it has this part of its fair share


def mode_of(points: Tensor, centers: Tensor, radius: float) -> Tensor:
    """Return the index of the nearest center of each point, or -1 if it is farther than ``radius``.

    Shape:
        points ``(N, D)``, centers ``(K, D)`` -> ``(N,)``.
    """
    distance, nearest = torch.cdist(points.double(), centers.double()).min(dim=1)
    return torch.where(distance <= radius, nearest, -1)


class Shares(Metric):
    """A statistic of the numbers of samples in each of K modes or classes.

    Args:
        count: Number of modes or classes K.
        statistic: Function of the counts ``(K,)`` and the total number of samples: :func:`num_reached`, :func:`share_within` or
            :func:`entropy`.
    """

    counts: Tensor
    total: Tensor
    full_state_update = False

    def __init__(self, count: int, statistic: Callable[[Tensor, Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.statistic = statistic
        self.add_state("counts", torch.zeros(count, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, labels: Tensor) -> None:
        """Add samples by their label ``(N,)``; -1 is none of the K."""
        self.counts += torch.bincount(labels[labels >= 0], minlength=len(self.counts))
        self.total += len(labels)

    def compute(self) -> Tensor:
        return self.statistic(self.counts, self.total)


def num_reached(counts: Tensor, total: Tensor) -> Tensor:
    """Return how many of the K have at least a tenth of their fair share N / K of all N samples."""
    return (counts >= FAIR * total / len(counts)).sum().float()


def share_within(counts: Tensor, total: Tensor) -> Tensor:
    """Return the share of samples that belong to any of the K."""
    return counts.sum() / total


def entropy(counts: Tensor, total: Tensor) -> Tensor:
    """Return the entropy of the shares of the K, in nats; ln K if all are equally frequent."""
    p = counts / counts.sum()
    return -torch.special.xlogy(p, p).sum()


class FrechetDistance(Metric):
    """Frechet distance between real and generated features, both taken as normally distributed.

    Heusel et al. 2017, arXiv:1706.08500, eq. 6. Computed in float64 from sums, so that it does not depend on how examples are
    spread over processes. With few examples it is too large: compare only values of equally many.

    Args:
        features: Number D of features of an example.
    """

    full_state_update = False

    def __init__(self, features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for kind in ("real", "fake"):
            for name, shape in (("count", ()), ("sum", (features,)), ("outer", (features, features))):
                self.add_state(f"{kind}_{name}", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, real: bool) -> None:
        """Add features ``(B, D)`` of real or of generated examples."""
        x, kind = features.double(), "real" if real else "fake"
        for name, value in (("count", len(x)), ("sum", x.sum(0)), ("outer", x.T @ x)):
            setattr(self, f"{kind}_{name}", getattr(self, f"{kind}_{name}") + value)

    def compute(self) -> Tensor:
        return frechet_distance(*self._moments("real"), *self._moments("fake"))

    def _moments(self, kind: str) -> tuple[Tensor, Tensor]:
        count, total, outer = (getattr(self, f"{kind}_{name}") for name in ("count", "sum", "outer"))
        mean = total / count
        return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)


def frechet_distance(mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> Tensor:
    """Return |m0 - m1|^2 + tr(C0 + C1 - 2 (C0 C1)^(1/2)) of two normal distributions, in float64; >= 0, or nan.

    The trace of the root is that of the symmetric (C0^(1/2) C1 C0^(1/2))^(1/2), whose eigenvalues are those of C0 C1.
    """
    if not (cov0.isfinite().all() and cov1.isfinite().all()):
        return cov0.new_tensor(math.nan)  # eigenvalues would raise an error
    values, vectors = torch.linalg.eigh(cov0)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cov1 @ root).clamp(min=0).sqrt().sum()
    return ((mean0 - mean1).square().sum() + cov0.trace() + cov1.trace() - 2 * trace).clamp(min=0)
