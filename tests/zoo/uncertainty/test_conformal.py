"""Conformal sets: the order statistic by hand, and their coverage on digits, which theory bounds on both sides."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.uncertainty import conformal_scores, conformal_sets, conformal_threshold


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Probabilities ``(N, 10)`` and labels of digits that a model of 300 others has not seen."""
    from sklearn.datasets import (
        load_digits,
    )  # after Lightning: it makes float | int of what Lightning has as int | float
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    x = x / 16
    order = np.random.default_rng(0).permutation(len(x))
    train, rest = order[:300], order[300:]
    model = LogisticRegression(C=0.1).fit(x[train], y[train])
    assert 0.85 < model.score(x[rest], y[rest]) < 0.97
    return torch.from_numpy(model.predict_proba(x[rest])), torch.from_numpy(y[rest])


def coverages(digits: tuple[Tensor, Tensor], score: str, count: int, alpha: float, splits: int) -> Tensor:
    """Coverage of the rest in random splits, ``count`` examples of which calibrate."""
    p, y = digits
    found, generator = [], torch.Generator().manual_seed(count)
    true = conformal_scores(p, score).gather(1, y[:, None])[:, 0]  # type: ignore[arg-type]
    for _ in range(splits):
        order = torch.randperm(len(y), generator=generator)
        threshold = conformal_threshold(true[order[:count]], alpha)
        rest = order[count : 2 * count] if count > 100 else order[count:]
        sets = conformal_sets(p[rest], threshold, score)  # type: ignore[arg-type]
        found.append(sets.gather(1, y[rest, None]).double().mean())
    return torch.stack(found)


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.1), (20, 0.1), (12, 0.3), (748, 0.1), (748, 0.02)])
def test_sets_hold_the_true_digit_as_often_as_they_must_and_hardly_more(
    digits: tuple[Tensor, Tensor], count: int, alpha: float
) -> None:
    """The mean over random splits lies between 1 - alpha and 1 - alpha + 1 / (n + 1), but for its standard error.

    The variance of a split's coverage is at most that of two binomials, of the calibration and of the test examples.
    """
    splits = 1500 if count < 100 else 300
    found = coverages(digits, "lac", count, alpha, splits)
    rest = 748 if count > 100 else len(digits[1]) - count
    error = math.sqrt(alpha * (1 - alpha) * (1 / count + 1 / rest) / splits)
    assert 1 - alpha - 3 * error <= found.mean() <= 1 - alpha + 1 / (count + 1) + 3 * error
    if count < 100:
        assert 3 * error < 0.5 / (count + 1)  # a threshold that is one example off is seen


def test_adaptive_sets_cover_and_are_never_empty(digits: tuple[Tensor, Tensor]) -> None:
    p, y = digits
    assert coverages(digits, "aps", 748, 0.1, 200).mean() > 0.9
    true = conformal_scores(p, "aps").gather(1, y[:, None])[:, 0]
    for alpha in (0.05, 0.3):
        sizes = conformal_sets(p, conformal_threshold(true, alpha), "aps").sum(dim=1)
        assert sizes.min() == 1
        unsure = p.amax(dim=1) < p.amax(dim=1).median()
        assert sizes[unsure].double().mean() > sizes[~unsure].double().mean() + 0.3


def test_scores_by_hand() -> None:
    p = torch.tensor([[0.5, 0.125, 0.375]])
    assert conformal_scores(p).tolist() == [[0.5, 0.875, 0.625]]
    assert conformal_scores(p, "aps").tolist() == [[0.5, 1.0, 0.875]]
    assert conformal_sets(p, 0.625).tolist() == [[True, False, True]]
    assert conformal_sets(p, 0.4).tolist() == [[False, False, False]]
    # the label that passes the threshold is in
    assert conformal_sets(p, 0.4, "aps").tolist() == [[True, False, False]]
    assert conformal_sets(p, 0.5, "aps").tolist() == [[True, False, False]]
    assert conformal_sets(p, 0.51, "aps").tolist() == [[True, False, True]]
    assert conformal_sets(p, math.inf).all()
    assert conformal_sets(p, math.inf, "aps").all()


@pytest.mark.parametrize(
    ("count", "alpha", "k"), [(9, 0.1, 9), (10, 0.1, 10), (19, 0.1, 18), (99, 0.29, 71), (109, 0.1, 99), (3, 0.5, 2)]
)
def test_the_threshold_is_an_order_statistic(count: int, alpha: float, k: int) -> None:
    """ceil((n + 1) (1 - alpha)), where the product of floats is above a whole number it stands for."""
    scores = torch.randperm(count).double() + 1
    assert conformal_threshold(scores, alpha) == k


def test_too_few_examples_have_an_infinite_threshold_with_a_word() -> None:
    with pytest.warns(UserWarning, match=r"8 calibration examples are too few for alpha=0.1, which takes 9 or more"):
        assert conformal_threshold(torch.rand(8), 0.1) == math.inf
    with pytest.warns(UserWarning, match=r"0 calibration examples"):
        assert conformal_threshold(torch.rand(0), 0.5) == math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert conformal_threshold(torch.rand(9), 0.1) < 1


def test_bad_values() -> None:
    for alpha in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"in \(0, 1\), got"):
            conformal_threshold(torch.rand(20), alpha)
    with pytest.raises(ValueError, match=r"shape \(N,\)"):
        conformal_threshold(torch.rand(20, 2), 0.1)
    with pytest.raises(ValueError, match=r"shape \(N, K\), got \(3,\)"):
        conformal_scores(torch.rand(3))
    with pytest.raises(ValueError, match="score must be 'lac' or 'aps', got 'raps'"):
        conformal_scores(torch.rand(3, 2), "raps")  # type: ignore[arg-type]
