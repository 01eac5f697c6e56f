"""How good samples are: modes that are found, classes that a judge sees, and the Frechet distance of its features."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

FAIR = 0.1  # of its fair share: what a mode must get to count as found


def mode_of(points: Tensor, centers: Tensor, radius: float) -> Tensor:
    """The number of the nearest center within ``radius``, else -1: ``(N, D)`` and ``(K, D)`` -> ``(N,)``."""
    distance, nearest = torch.cdist(points.double(), centers.double()).min(dim=1)
    return torch.where(distance <= radius, nearest, -1)


class Shares(Metric):
    """How often each of K modes or classes came up, and what ``told`` makes of it.

    Args:
        count: K.
        told: of the counts ``(K,)`` and the number of all samples: :func:`found`, :func:`within` or :func:`entropy`.
    """

    counts: Tensor
    total: Tensor
    full_state_update = False

    def __init__(self, count: int, told: Callable[[Tensor, Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.told = told
        self.add_state("counts", torch.zeros(count, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, labels: Tensor) -> None:
        """Add samples by their label; -1 is none of the K."""
        self.counts += torch.bincount(labels[labels >= 0], minlength=len(self.counts))
        self.total += len(labels)

    def compute(self) -> Tensor:
        """What ``told`` says."""
        return self.told(self.counts, self.total)


def found(counts: Tensor, total: Tensor) -> Tensor:
    """How many of the K came up often enough: a tenth of their fair share of all samples, N / K, or more."""
    return (counts >= FAIR * total / len(counts)).sum().float()


def within(counts: Tensor, total: Tensor) -> Tensor:
    """The share of samples that belong to any of the K."""
    return counts.sum() / total


def entropy(counts: Tensor, total: Tensor) -> Tensor:
    """The entropy of the K's shares, in nats: ln K where all came up equally often."""
    p = counts / counts.sum()
    return -torch.special.xlogy(p, p).sum()


class FrechetDistance(Metric):
    """The Frechet distance between two sets of features, each taken for normally distributed (Heusel et al. 2017).

    arXiv:1706.08500, eq. 6, in float64, from sums, so that it is the same however examples are spread over processes. Few
    examples make it too large: compare only what was computed from equally many.

    Args:
        features: numbers D an example.
    """

    full_state_update = False

    def __init__(self, features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for kind in ("real", "fake"):
            for name, shape in (("count", ()), ("sum", (features,)), ("outer", (features, features))):
                self.add_state(f"{kind}_{name}", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, real: bool) -> None:
        """Add features ``(B, D)`` of real or of made examples."""
        x, kind = features.double(), "real" if real else "fake"
        for name, value in (("count", len(x)), ("sum", x.sum(0)), ("outer", x.T @ x)):
            setattr(self, f"{kind}_{name}", getattr(self, f"{kind}_{name}") + value)

    def compute(self) -> Tensor:
        """The distance, >= 0; nan of features that are not finite, and of fewer than two examples."""
        return frechet_distance(*self._moments("real"), *self._moments("fake"))

    def _moments(self, kind: str) -> tuple[Tensor, Tensor]:
        count, total, outer = (getattr(self, f"{kind}_{name}") for name in ("count", "sum", "outer"))
        mean = total / count
        return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)


def frechet_distance(mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> Tensor:
    """|m0 - m1|^2 + tr(C0 + C1 - 2 (C0 C1)^(1/2)) of two normal distributions, in float64; >= 0, or nan.

    The root's trace is that of the symmetric (C0^(1/2) C1 C0^(1/2))^(1/2), whose eigenvalues are those of C0 C1.
    """
    if not (cov0.isfinite().all() and cov1.isfinite().all()):
        return cov0.new_tensor(math.nan)  # eigenvalues would raise an error
    values, vectors = torch.linalg.eigh(cov0)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cov1 @ root).clamp(min=0).sqrt().sum()
    return ((mean0 - mean1).square().sum() + cov0.trace() + cov1.trace() - 2 * trace).clamp(min=0)
