"""Mixtures of Gaussians: where the centers are, how wide they are, and that nothing else is in them."""

from typing import Any

import numpy as np
import pytest
import torch

from datamodules import GaussianGridDataModule, GaussianRingDataModule


def test_the_centers() -> None:
    ring = GaussianRingDataModule().centers
    torch.testing.assert_close(ring.norm(dim=1), torch.full((8,), 2.0))
    torch.testing.assert_close(ring.sum(0), torch.zeros(2), atol=1e-6, rtol=0)
    assert torch.pdist(ring).min().item() == pytest.approx(4 * np.sin(np.pi / 8))
    grid = GaussianGridDataModule().centers
    steps = [-4.0, -2.0, 0.0, 2.0, 4.0]
    assert grid.tolist() == [[a, b] for a in steps for b in steps]
    assert GaussianGridDataModule(side=2, spacing=1.0).centers.tolist() == [
        [-0.5, -0.5],
        [-0.5, 0.5],
        [0.5, -0.5],
        [0.5, 0.5],
    ]


@pytest.mark.parametrize("cls", [GaussianRingDataModule, GaussianGridDataModule])
def test_rows_lie_about_the_center_of_their_class(cls: Any) -> None:
    data = cls()
    data.setup()
    assert data.num_classes == len(data.centers)
    for part, count in (("train", 36000), ("val", 4000), ("test", 10000)):
        x, y = data._parts[part].x, data._parts[part].y
        assert len(y) == count
        off = x - data.centers[y]
        assert off.std().item() == pytest.approx(data.sigma, rel=0.05)
        assert off.abs().max() < 6 * data.sigma
        assert torch.bincount(y).min() > 0.9 * len(y) / data.num_classes


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (GaussianRingDataModule, {"modes": 1}, "modes must be an integer >= 2, got 1"),
        (GaussianRingDataModule, {"radius": 0.0}, "radius must be > 0, got 0.0"),
        (GaussianGridDataModule, {"side": 1}, "side must be an integer >= 2, got 1"),
        (GaussianGridDataModule, {"spacing": -1.0}, "spacing must be > 0, got -1.0"),
        (GaussianGridDataModule, {"noise": 0.0}, "noise must be the standard deviation of a Gaussian, > 0, got 0.0"),
    ],
)
def test_wrong_arguments_are_refused(cls: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**arguments)
