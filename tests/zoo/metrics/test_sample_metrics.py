"""Metrics of samples against scipy and against counts by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from zoo.metrics.samples import FrechetDistance, Shares, entropy, frechet_distance, mode_of, num_reached, share_within


def features(count: int, seed: int, dim: int = 6) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=g, dtype=torch.float64)
    return torch.randn(count, dim, generator=g, dtype=torch.float64) @ mix + seed


def by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    """Heusel et al. 2017, eq. 6, as written there."""
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d - 2 * linalg.sqrtm(c @ d).real))


@pytest.mark.parametrize("count", [40, 5], ids=["full rank", "fewer examples than features"])
def test_the_frechet_distance_equals_scipys(count: int) -> None:
    x, y = features(60, 0), features(count, 1)
    metric = FrechetDistance(6)
    for part in x.split(17):
        metric.update(part, real=True)
    for part in y.split(9):
        metric.update(part, real=False)
    assert metric.compute().item() == pytest.approx(by_scipy(x.numpy(), y.numpy()), rel=1e-5 if count < 6 else 1e-9)


def test_the_frechet_distance_of_known_distributions() -> None:
    """Of diagonal covariances: the squared distances of means and of standard deviations. Of a set and itself: 0."""
    mean, std = torch.tensor([[0.0, 1.0], [3.0, 1.0]]).double(), torch.tensor([[1.0, 2.0], [2.0, 5.0]]).double()
    got = frechet_distance(mean[0], std[0].square().diag(), mean[1], std[1].square().diag())
    assert got.item() == pytest.approx(3**2 + 1**2 + 3**2)
    metric, x = FrechetDistance(6), features(50, 2).float()
    metric.update(x, real=True)
    metric.update(x.flip(0), real=False)
    assert 0 <= metric.compute().item() < 1e-6


def test_the_distance_from_values_that_are_not_finite_is_nan() -> None:
    """And from a single example. An error of the eigenvalue solver would hide that the loss is not finite."""
    for broken in (torch.full((50, 6), math.nan), torch.full((50, 6), math.inf), features(1, 0)):
        metric = FrechetDistance(6)
        metric.update(features(50, 2), real=True)
        metric.update(broken, real=False)
        assert metric.compute().isnan()


def test_modes_and_samples_near_them_are_counted() -> None:
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    near = [[0.0, 0.05]] * 60 + [[1.0, -0.11]] * 5 + [[0.97, 0.0]] * 3 + [[0.0, 1.0]] * 2 + [[3.0, 3.0]] * 30
    modes = mode_of(torch.tensor(near), centers, 0.1)
    assert torch.bincount(modes + 1).tolist() == [35, 60, 3, 2]
    reached, within, spread = (Shares(4, statistic) for statistic in (num_reached, share_within, entropy))
    for part in modes.split(33):
        for metric in (reached, within, spread):
            metric.update(part)
    assert within.compute().item() == pytest.approx(0.65)
    assert reached.compute() == 2  # a tenth of 100 / 4 is 2.5: three suffice, two do not
    shares = [60 / 65, 3 / 65, 2 / 65]
    assert spread.compute().item() == pytest.approx(-sum(p * math.log(p) for p in shares))


def test_equal_shares_have_the_largest_entropy() -> None:
    metric: Any = Shares(10, entropy)
    metric.update(torch.arange(50) % 10)
    assert metric.compute().item() == pytest.approx(math.log(10))
