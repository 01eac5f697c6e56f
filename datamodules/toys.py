"""Toy tables with two numbers in a row, so that what a model has learned can be drawn."""

from typing import Any

import numpy as np
from typing_extensions import override

from datamodules.arrays import TableDataModule
from datamodules.checks import check_integer, is_number


class ToyTable(TableDataModule):
    """Random rows. A subclass defines :meth:`draw`.

    Args:
        count: Number of rows; a fifth of them is the test part (``test_fraction``).
        noise: Standard deviation of the Gaussian noise, >= 0, in units of the features (for regression, of the target).
        data_seed: Seed of the data, which do not depend on the run's seed.
        **table: Arguments of :class:`~datamodules.TableDataModule`.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.
    """

    feature_names = ["x0", "x1"]

    def __init__(self, count: int = 1000, noise: float = 0.1, data_seed: int = 0, **table: Any) -> None:
        super().__init__(**table)
        check_integer("count", count, 1)
        check_integer("data_seed", data_seed, 0)
        if not (is_number(noise) and noise >= 0):
            raise ValueError(f"noise must be a standard deviation >= 0, got {noise}")
        self.count = count
        self.noise = noise
        self.data_seed = data_seed

    @override
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        return self.draw(np.random.default_rng(self.data_seed))

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return ``count`` rows and their targets, noise included."""
        raise TypeError(f"{type(self).__name__} must define draw(rng), which returns its rows and targets")

    def _noisy(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return clean + self.noise * rng.standard_normal(clean.shape)


class MoonsDataModule(ToyTable):
    """Two interleaving half circles of radius 1, which no straight line separates.

    Args: See :class:`~datamodules.toys.ToyTable`.

    Example:
        >>> data = MoonsDataModule(count=100)
        >>> data.setup("fit")
        >>> data.class_counts
        [36, 36]
    """

    class_names = ["upper", "lower"]

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        label = np.arange(self.count) % 2
        angle = rng.uniform(0, np.pi, self.count)
        upper = np.stack([np.cos(angle), np.sin(angle)], 1)  # (N, 2)
        lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
        return self._noisy(np.where(label[:, None] == 0, upper, lower), rng), label


class CirclesDataModule(ToyTable):
    """A circle of radius 1 and a concentric one of radius 0.5.

    Args: See :class:`~datamodules.toys.ToyTable`.

    Example:
        >>> CirclesDataModule().class_names
        ['outer', 'inner']
    """

    class_names = ["outer", "inner"]

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        label = np.arange(self.count) % 2
        angle = rng.uniform(0, 2 * np.pi, self.count)
        radius = np.where(label == 0, 1.0, 0.5)
        return self._noisy(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), rng), label


class SpiralsDataModule(ToyTable):
    """Spirals around the origin, one for each class; the radius grows from 0 to 1 over ``turns`` turns.

    Args:
        arms: Number of spirals, and so of classes, >= 2.
        turns: Number of turns of each spiral, > 0.
        noise: See :class:`~datamodules.toys.ToyTable`.
        **toy: Other arguments of :class:`~datamodules.toys.ToyTable`.

    Example:
        >>> SpiralsDataModule(arms=3).num_classes
        3
    """

    def __init__(self, arms: int = 2, turns: float = 1.5, noise: float = 0.02, **toy: Any) -> None:
        check_integer("arms", arms, 2)
        if not (is_number(turns) and turns > 0):
            raise ValueError(f"turns must be > 0, got {turns}")
        super().__init__(noise=noise, **toy)
        self.arms = arms
        self.turns = turns
        self.class_names = [f"arm {i}" for i in range(arms)]

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        label = np.arange(self.count) % self.arms
        radius = np.sqrt(rng.uniform(0, 1, self.count))  # a uniform density along each arm
        angle = 2 * np.pi * (self.turns * radius + label / self.arms)
        return self._noisy(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), rng), label


class XORDataModule(ToyTable):
    """The corners of the unit square; the class is the exclusive or of the coordinates (Minsky and Papert 1969).

    Without noise there are only four different rows, the truth table.

    Args: See :class:`~datamodules.toys.ToyTable`.

    Example:
        >>> XORDataModule(noise=0.0).input_shape
        (2,)
    """

    class_names = ["equal", "different"]

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        corner = np.arange(self.count) % 4
        bits = np.stack([corner // 2, corner % 2], 1)  # (N, 2)
        return self._noisy(bits.astype(np.float64), rng), bits[:, 0] ^ bits[:, 1]


class SinusoidDataModule(ToyTable):
    """Regression: sin(2 pi x) for x uniform in [0, 1], with noise on the target (Bishop 2006, section 1.1).

    Args: See :class:`~datamodules.toys.ToyTable`.

    Example:
        >>> data = SinusoidDataModule(noise=0.3)
        >>> data.input_shape, data.num_outputs
        ((1,), 1)
    """

    kind = "regression"
    feature_names = ["x"]
    target_names = ["y"]

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform(0, 1, (self.count, 1))
        return x, self._noisy(np.sin(2 * np.pi * x), rng)
