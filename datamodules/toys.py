"""Toy tables that are drawn from a formula: two numbers a row, so that what a model has learned can be seen."""

import math
from typing import Any

import numpy as np
from typing_extensions import override

from datamodules.arrays import TableDataModule
from datamodules.checks import check_integer


class ToyTable(TableDataModule):
    """Rows drawn from a formula; a subclass defines :meth:`draw`.

    Args:
        count: rows in all; a fifth of them tests (``test_fraction``).
        noise: standard deviation of the Gaussian noise, >= 0, in the formula's own units.
        data_seed: of the draw; the run's seed does not change the data.
        **table: those of :class:`~datamodules.TableDataModule`.

    Raises:
        ValueError, TypeError: an argument out of its range, or of another type.
    """

    feature_names = ["x0", "x1"]

    def __init__(self, count: int = 1000, noise: float = 0.1, data_seed: int = 0, **table: Any) -> None:
        super().__init__(**table)
        check_integer("count", count, 1)
        check_integer("data_seed", data_seed, 0)
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise is a standard deviation >= 0, got {noise}")
        self.count = count
        self.noise = noise
        self.data_seed = data_seed

    @override
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        return self.draw(np.random.default_rng(self.data_seed))

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """``count`` rows and their targets, noise included."""
        raise TypeError(f"{type(self).__name__} does not say what it draws: define draw(rng)")

    def _noisy(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return clean + self.noise * rng.standard_normal(clean.shape)


class MoonsDataModule(ToyTable):
    """Two half circles of radius 1 that reach into each other: no straight line tells them apart.

    Args: those of :class:`~datamodules.toys.ToyTable`.

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
    """A circle of radius 1 and one of radius 0.5 around the same point.

    Args: those of :class:`~datamodules.toys.ToyTable`.

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
    """Arms that wind around the origin, one class each; the radius grows from 0 to 1 over ``turns`` turns.

    Args:
        arms: number of spirals, and so of classes, >= 2.
        turns: of each arm, > 0.
        **toy: those of :class:`~datamodules.toys.ToyTable`; ``noise`` is 0.02 here.

    Example:
        >>> SpiralsDataModule(arms=3).num_classes
        3
    """

    def __init__(self, arms: int = 2, turns: float = 1.5, noise: float = 0.02, **toy: Any) -> None:
        check_integer("arms", arms, 2)
        if not 0 < turns < math.inf:
            raise ValueError(f"turns must be > 0, got {turns}")
        super().__init__(noise=noise, **toy)
        self.arms = arms
        self.turns = turns
        self.class_names = [f"arm {i}" for i in range(arms)]

    @override
    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        label = np.arange(self.count) % self.arms
        radius = np.sqrt(rng.uniform(0, 1, self.count))  # the same density all along an arm
        angle = 2 * np.pi * (self.turns * radius + label / self.arms)
        return self._noisy(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), rng), label


class XORDataModule(ToyTable):
    """The corners of the unit square; the class is the exclusive or of the coordinates (Minsky and Papert 1969).

    Without noise there are four different rows only, the truth table itself.

    Args: those of :class:`~datamodules.toys.ToyTable`.

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

    Args: those of :class:`~datamodules.toys.ToyTable`.

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
