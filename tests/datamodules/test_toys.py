"""Toys: the rows obey their formula, the seed is their own, and they are as hard as they are meant to be."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from datamodules import CirclesDataModule, MoonsDataModule, SinusoidDataModule, SpiralsDataModule, XORDataModule

CLASSES = [MoonsDataModule, CirclesDataModule, SpiralsDataModule, XORDataModule]


def rows(data: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = data.table()
    return np.asarray(x), np.asarray(y)


def residual(data: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far a row is from where its class lies."""
    if isinstance(data, MoonsDataModule):
        center = np.where(y[:, None] == 0, [0.0, 0.0], [1.0, 0.5])
        side = np.where(y == 0, 1, -1) * (x - center)[:, 1]
        return np.maximum(np.abs(np.hypot(*(x - center).T) - 1), np.maximum(-side, 0))
    if isinstance(data, CirclesDataModule):
        return np.abs(np.hypot(*x.T) - np.where(y == 0, 1, 0.5))
    if isinstance(data, SpiralsDataModule):
        radius = np.hypot(*x.T)
        angle = np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) - data.turns * radius - y / data.arms
        return np.abs(angle - angle.round())
    return np.hypot(*(x - x.round()).T) + (x.round().sum(1) % 2 != y)


@pytest.mark.parametrize("cls", CLASSES)
def test_without_noise_every_row_lies_where_its_class_does(cls: Any) -> None:
    for data in [
        cls(noise=0.0),
        *([SpiralsDataModule(arms=3, turns=0.7, noise=0.0)] if cls is SpiralsDataModule else []),
    ]:
        x, y = rows(data)
        assert residual(data, x, y).max() < 1e-9
        assert residual(data, x, (y + 1) % data.num_classes).max() > 0.2
        assert np.ptp(np.bincount(y)) <= 1


def test_the_truth_table() -> None:
    x, y = rows(XORDataModule(count=4, noise=0.0))
    assert np.c_[x, y].astype(int).tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("cls", CLASSES)
def test_noise_is_gaussian_with_this_deviation(cls: Any) -> None:
    clean, noisy = (rows(cls(count=4000, noise=noise))[0] for noise in (0.0, 0.3))
    assert abs((noisy - clean).std() - 0.3) < 0.015
    assert abs((noisy - clean).mean()) < 0.02


def test_the_sinusoid_has_its_noise_on_the_target_only() -> None:
    data = SinusoidDataModule(count=4000, noise=0.3)
    x, y = rows(data)
    assert x.shape == y.shape == (4000, 1)
    assert 0 <= x.min() < 0.01 < 0.99 < x.max() < 1
    off = y - np.sin(2 * np.pi * x)
    assert abs(off.std() - 0.3) < 0.015
    assert abs(np.corrcoef(off[:, 0], x[:, 0])[0, 1]) < 0.05
    data.setup("fit")
    assert (data.class_counts, data._parts["train"].y.shape) == (None, (2880, 1))


@pytest.mark.parametrize("cls", [*CLASSES, SinusoidDataModule])
def test_only_the_data_seed_changes_the_data(cls: Any) -> None:
    def x(seed: int, **kwargs: Any) -> torch.Tensor:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        data = cls(count=200, **kwargs)
        data.setup("fit")
        return data._parts["train"].x

    assert torch.equal(x(0), x(1))
    assert not torch.equal(x(0), x(0, data_seed=1))


@pytest.mark.parametrize(
    ("cls", "most"),
    [(MoonsDataModule, 0.9), (CirclesDataModule, 0.65), (XORDataModule, 0.65), (SpiralsDataModule, 0.75)],
)
def test_neighbors_tell_the_classes_apart_and_a_line_does_not(cls: Any, most: float) -> None:
    data = cls()
    data.setup()
    (x, y), (x_test, y_test) = (
        (part.x.numpy(), part.y.numpy()) for part in (data._parts["train"], data._parts["test"])
    )
    assert KNeighborsClassifier(5).fit(x, y).score(x_test, y_test) > 0.98
    assert LogisticRegression().fit(x, y).score(x_test, y_test) < most


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"count": 0}, ValueError, "count must be an integer >= 1, got 0"),
        ({"count": 10.0}, TypeError, "count must be an integer"),
        ({"noise": -0.1}, ValueError, "noise must be a standard deviation >= 0, got -0.1"),
        ({"noise": float("nan")}, ValueError, "noise must be a standard deviation >= 0, got nan"),
        ({"data_seed": -1}, ValueError, "data_seed must be an integer >= 0"),
        ({"arms": 1}, ValueError, "arms must be an integer >= 2, got 1"),
        ({"turns": 0}, ValueError, "turns must be > 0, got 0"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SpiralsDataModule(**kwargs)


def test_too_few_rows_are_said() -> None:
    with pytest.raises(ValueError, match=r"test_fraction=0.2 of 3 examples cannot hold every class"):
        MoonsDataModule(count=3).setup("fit")
