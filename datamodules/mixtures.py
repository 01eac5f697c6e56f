"""Mixtures of Gaussians in the plane with known centers, so that the modes of a generative model can be counted."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.checks import check_integer, is_number
from datamodules.toys import ToyTable


class GaussianMixture(ToyTable):
    """Isotropic Gaussians with equally many rows. A subclass gives their ``centers``. The class of a row is its Gaussian.

    Args:
        centers: Centers of the Gaussians ``(K, 2)``.
        count: Number of rows; a fifth of them is the test part (``test_fraction``).
        noise: Standard deviation of each Gaussian, > 0.
        **toy: Arguments of :class:`~datamodules.toys.ToyTable`.

    Attributes:
        centers: Centers of the Gaussians, a tensor ``(K, 2)``.
        sigma: Their standard deviation.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, centers: np.ndarray, count: int, noise: float, **toy: Any) -> None:
        super().__init__(count=count, noise=noise, **toy)
        if not noise > 0:
            raise ValueError(f"noise must be the standard deviation of a Gaussian, > 0, got {noise}")
        self.centers: Tensor = torch.from_numpy(centers).float()
        self.sigma = noise
        self.class_names = [str(k) for k in range(len(centers))]

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        label = np.arange(self.count) % len(self.centers)
        return self._noisy(self.centers.double().numpy()[label], rng), label


class GaussianRingDataModule(GaussianMixture):
    """Eight Gaussians on a circle, as in Metz et al. 2017, "Unrolled Generative Adversarial Networks", arXiv:1611.02163.

    Args:
        modes: Number of Gaussians on the circle, >= 2.
        radius: Radius of the circle, > 0.
        count, noise, **toy: See :class:`~datamodules.mixtures.GaussianMixture`.

    Example:
        >>> data = GaussianRingDataModule()
        >>> tuple(data.centers.shape), data.sigma
        ((8, 2), 0.02)
    """

    def __init__(
        self, modes: int = 8, radius: float = 2.0, count: int = 50000, noise: float = 0.02, **toy: Any
    ) -> None:
        check_integer("modes", modes, 2)
        if not (is_number(radius) and radius > 0):
            raise ValueError(f"radius must be > 0, got {radius}")
        angle = 2 * np.pi * np.arange(modes) / modes
        super().__init__(radius * np.stack([np.cos(angle), np.sin(angle)], 1), count, noise, **toy)


class GaussianGridDataModule(GaussianMixture):
    """25 Gaussians on a square grid, as in Dumoulin et al. 2017, "Adversarially Learned Inference", arXiv:1606.00704.

    Args:
        side: Number of Gaussians along a side of the grid, >= 2.
        spacing: Distance between neighbors, > 0.
        count, noise, **toy: See :class:`~datamodules.mixtures.GaussianMixture`.

    Example:
        >>> GaussianGridDataModule().centers[0].tolist()
        [-4.0, -4.0]
    """

    def __init__(
        self, side: int = 5, spacing: float = 2.0, count: int = 50000, noise: float = 0.05, **toy: Any
    ) -> None:
        check_integer("side", side, 2)
        if not (is_number(spacing) and spacing > 0):
            raise ValueError(f"spacing must be > 0, got {spacing}")
        steps = spacing * (np.arange(side) - (side - 1) / 2)
        super().__init__(np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2), count, noise, **toy)
