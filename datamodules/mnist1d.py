"""MNIST-1D: Greydanus and Kobak 2020, "Scaling down Deep Learning with MNIST-1D", arXiv:2011.14439."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.checks import check_integer, check_share
from datamodules.label_noise import plant
from datamodules.sequence import SequenceDataModule

_HEIGHTS = (  # of the ten digits' strokes, section 2 and figure 1 of the paper
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_COUNT, _TRAIN = 5000, 4000
_LONG, _STEPS = 72, 40  # times before and after the last resampling
_SEED = 42


class MNIST1DDataModule(SequenceDataModule):
    """5,000 series of 40 numbers, of 10 classes, made of a digit's outline each: 4,000 to train, 1,000 to test.

    The data of the paper's package (Apache License 2.0) with its default settings, made here and not downloaded: a template of
    12 points is padded with 36 to 60 zeros, resampled, scaled by up to 20%, shifted by up to 47 of 72 places, sheared, and covered
    with noise; the whole set has mean 0 and deviation 1.

    The paper's test accuracies (table 1): logistic regression 0.32, MLP 0.68, CNN 0.94, GRU 0.91, human 0.96; with the times in
    another order (``shuffled``) 0.32, 0.68, 0.56, 0.57, 0.30.

    Args:
        shuffled: Whether the 40 numbers are in a random order, the same for all series: what is left of a net's advantage by
            knowing which are neighbors.
        count: Number of series of the training part, in 1..4000, validation among them; fewer than 4,000 are drawn at random.
        label_noise: Share of the labels of the training part, validation among them, that are replaced by another class, in
            [0, 1). Labels of the test part are right.
        data_seed: Seed of these two draws, which do not depend on the run's seed.
        **sequence: Arguments of :class:`~datamodules.SequenceDataModule`.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.

    Example:
        >>> data = MNIST1DDataModule()
        >>> data.setup("fit")
        >>> data.input_shape, data.num_classes, sum(data.class_counts)
        ((40, 1), 10, 3600)
    """

    class_names = list("0123456789")
    input_shape = (_STEPS, 1)

    def __init__(
        self,
        shuffled: bool = False,
        count: int = _TRAIN,
        label_noise: float = 0.0,
        data_seed: int = 0,
        **sequence: Any,
    ) -> None:
        super().__init__(**sequence)
        check_integer("count", count, 1, _TRAIN)
        check_share("label_noise", label_noise, "the labels of the training part")
        check_integer("data_seed", data_seed, 0, 2**32 - 1)
        self.shuffled = shuffled
        self.count = count
        self.label_noise = label_noise
        self.data_seed = data_seed

    @override
    def sequences(self) -> tuple[Tensor, Tensor]:
        x, y = make_mnist1d(self.shuffled)
        drawn = torch.randperm(_TRAIN, generator=torch.Generator().manual_seed(self.data_seed))[: self.count]
        drawn = drawn.sort()[0]  # all of them are in the order of the package
        return x[drawn], plant(y[drawn], self.label_noise, self.data_seed, len(_HEIGHTS))[0]

    @override
    def test_sequences(self) -> tuple[Tensor, Tensor]:
        x, y = make_mnist1d(self.shuffled)
        return x[_TRAIN:], y[_TRAIN:]


@lru_cache(2)
def make_mnist1d(shuffled: bool = False) -> tuple[Tensor, Tensor]:
    """Return all series, float32 ``(5000, 40, 1)``, and their classes, int64 ``(5000,)``; the first 4,000 train."""
    rng = np.random.RandomState(_SEED)
    y = np.arange(_COUNT) // (_COUNT // len(_HEIGHTS))
    templates = _templates()
    x = np.empty((_COUNT, _LONG))
    smooth, sheared = np.empty_like(x), np.empty(_COUNT)
    noise = np.empty_like(x)
    for i, digit in enumerate(y):  # the order of the draws is that of the package
        padded = np.append(templates[digit], np.zeros(36 + int(rng.rand() * 25)))
        scale = 1 + 0.4 * (rng.rand() - 0.5)
        x[i] = np.roll(scale * _resampled(padded, _LONG), rng.choice(48))
        smooth[i], noise[i] = 0.25 * rng.randn(_LONG), 2e-2 * rng.randn(_LONG)
        sheared[i] = 0.75 * (rng.rand() - 0.5)
    x = np.where(x != 0, x, _smoothed(smooth)) + noise
    x -= sheared[:, None] * np.linspace(-0.5, 0.5, _LONG)
    x = np.stack([_resampled(row, _STEPS) for row in x])
    order = rng.permutation(_COUNT)
    x, y = x[order], y[order]
    if shuffled:
        x = x[:, rng.permutation(_STEPS)]
    x = (x - x.mean()) / x.std()
    return torch.from_numpy(x).float()[:, :, None], torch.from_numpy(y)


def _templates() -> np.ndarray:
    """Return the digits' outlines, ``(10, 12)``, which begin at 0; no value in one is exactly 0, unlike in the padding."""
    x = np.array(_HEIGHTS)
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    return (x - x[:, :1]) / 6 + 1e-8


def _resampled(x: np.ndarray, count: int) -> np.ndarray:
    """Return a series at ``count`` times, linear in between: ``(T,)`` -> ``(count,)``."""
    return np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(x)), x)


def _smoothed(x: np.ndarray) -> np.ndarray:
    """Return series under a Gaussian window with a deviation of 2 times, mirrored at their ends: ``(N, T)`` -> ``(N, T)``."""
    window = np.exp(-0.5 * (np.arange(-8, 9) / 2) ** 2)
    mirrored = np.pad(x, ((0, 0), (8, 8)), mode="symmetric")
    return np.lib.stride_tricks.sliding_window_view(mirrored, 17, axis=1) @ (window / window.sum())
