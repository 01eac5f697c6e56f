"""Metrics of forecasts, from sums over windows."""

import torch
from torch import Tensor
from torchmetrics import Metric


class RelativeError(Metric):
    """Mean absolute error of forecasts, divided by that of the seasonal naive forecasts of the same windows.

    Below 1 it is better than to repeat the season before: "RelMAE" of Hyndman and Koehler 2006, "Another look at measures of
    forecast accuracy", International Journal of Forecasting 22(4), section 2.4. Of several targets it is the mean of theirs, so
    that no unit counts more than another. It is not finite where the naive forecast makes no error.

    Args:
        num_outputs: Number of targets K.
        dtype: Type that the sums are kept in, see :func:`~zoo.metrics.pixels.exact_dtype`.
    """

    full_state_update = False
    errors: Tensor  # (2, K): of the forecasts, of the naive ones

    def __init__(self, num_outputs: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.add_state("errors", torch.zeros(2, num_outputs, dtype=dtype), dist_reduce_fx="sum")

    def update(self, errors: Tensor, naive: Tensor, counts: Tensor) -> None:
        """Add the errors of forecasts and of naive forecasts, and which of them count: ``(B, H, K)`` each."""
        both = torch.stack([errors, naive]).abs().where(counts, 0)
        self.errors += both.sum(dim=(1, 2), dtype=self.errors.dtype)

    def compute(self) -> Tensor:
        return (self.errors[0] / self.errors[1]).mean().float()


def seasonal_naive(context: Tensor, horizon: int, season: int) -> Tensor:
    """Return forecasts that repeat the last season; season 1 repeats the last value.

    Args:
        context: What is known, of ``season`` steps or more.
        horizon: Number of steps H to forecast.
        season: Number of steps of a season, >= 1.

    Shape:
        ``(B, T, K)`` -> ``(B, H, K)``.

    Raises:
        ValueError: The context is shorter than a season.
    """
    steps = context.shape[1]
    if steps < season:
        raise ValueError(
            f"season is {season}, and the context has {steps} steps only: read a longer one, or set season={steps} or less"
        )
    return context[:, steps - season + torch.arange(horizon, device=context.device) % season]
