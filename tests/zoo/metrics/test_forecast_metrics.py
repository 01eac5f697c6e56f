"""The error relative to the seasonal naive forecast, against numpy and loops."""

import numpy as np
import pytest
import torch

from zoo.metrics import RelativeError, seasonal_naive


def test_the_naive_forecast_repeats_the_last_season() -> None:
    context = torch.arange(10.0).view(1, 10, 1) + torch.tensor([0.0, 100.0])  # (1, 10, 2)
    for season in (1, 3, 4, 10):
        for horizon in (1, 3, 12):
            wanted = []
            while len(wanted) < horizon:
                wanted += range(10 - season, 10)
            forecast = seasonal_naive(context, horizon, season)
            assert forecast.shape == (1, horizon, 2)
            assert forecast[0, :, 0].tolist() == wanted[:horizon]
            assert forecast[0, :, 1].tolist() == [value + 100 for value in wanted[:horizon]]
    with pytest.raises(ValueError, match=r"season is 11, and the context has 10 steps only"):
        seasonal_naive(context, 3, 11)


def test_relative_error_is_a_quotient_of_sums_by_target() -> None:
    """Over batches and processes together; what does not count is left out, whatever it is."""
    rng = np.random.default_rng(0)
    errors, naive = rng.normal(size=(2, 9, 4, 3)) * [1, 100, 0.01]
    counts = rng.random((9, 4, 3)) < 0.7
    wanted = np.mean(
        [np.abs(errors[..., k])[counts[..., k]].sum() / np.abs(naive[..., k])[counts[..., k]].sum() for k in range(3)]
    )
    errors[~counts] = np.nan
    whole, first, second = (RelativeError(3) for _ in range(3))
    for metric, rows in ((whole, slice(0, 9)), (first, slice(0, 2)), (second, slice(2, 9))):
        for start in range(rows.start, rows.stop, 2):
            part = slice(start, min(start + 2, rows.stop))
            metric.update(
                *(torch.from_numpy(each[part]).float() for each in (errors, naive)), torch.from_numpy(counts[part])
            )
    assert float(whole.compute()) == pytest.approx(wanted, rel=1e-6)
    first.errors += second.errors  # as processes gather
    assert float(first.compute()) == pytest.approx(wanted, rel=1e-6)


def test_a_naive_forecast_without_error_has_no_quotient() -> None:
    metric = RelativeError(1)
    metric.update(torch.ones(2, 1, 1), torch.zeros(2, 1, 1), torch.ones(2, 1, 1, dtype=torch.bool))
    assert metric.compute().isinf()
