"""Forecasting: the next steps of series from those before, learned in standardized units, given in the series' own."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, Metric

from zoo.drawing import figures
from zoo.losses.means import weighted_mean
from zoo.metrics.pixels import exact_dtype
from zoo.metrics.series import RelativeError, seasonal_naive
from zoo.model import Makes, Reads
from zoo.tasks.base import input_of
from zoo.tasks.regression import RegressionArguments, RegressionTask

_STEPS = 24  # of an example, where no data told how many


class ForecastingArguments(RegressionArguments, total=False):
    """Arguments of :class:`ForecastingTask` but the net, ``num_outputs`` and ``horizon``."""

    season: int


class ForecastingTask(RegressionTask):
    """Train a net to forecast series.

    The net learns targets that are standardized with ``target_mean`` and ``target_std``; :meth:`forward`, predictions and metrics
    are in the series' own unit, see :class:`RegressionTask`. The loss is a mean over the targets that count. Logs ``loss``,
    ``rmse`` and ``mae`` (over all errors), and in evaluation ``relative_mae``, the error relative to that of the seasonal naive
    forecast of the same windows (:class:`zoo.metrics.series.RelativeError`): below 1 the net is better than to repeat the season
    before.

    Args:
        net: ``(B, T, D)``, of which the first K columns are the targets, -> ``(B, H, K)``, both in standardized units.
        num_outputs: Number of targets K.
        horizon: Number of steps H.
        season: Number of steps of a season, at most T, for ``relative_mae``; 1 compares with the last value. The data know it.
        task: Arguments of :class:`RegressionTask`; ``monitor`` may also be "val/relative_mae".

    Shape:
        batch: ``(x, y)`` with x ``(B, T, D)`` and y ``(B, H, K)``; or ``(x, y, weight)`` with weight ``(B,)`` or ``(B, H, K)``: of
        weight 0 nothing counts.

    Raises:
        ValueError: An argument out of its range, or targets of another shape.
    """

    standardize_axis: ClassVar[int] = -1
    output_meaning = "forecasts (B, H, K), in the series' own unit"

    def __init__(
        self,
        net: nn.Module,
        num_outputs: int = 1,
        horizon: int = 12,
        season: int = 1,
        **task: Unpack[RegressionArguments],
    ) -> None:
        for name, value in (("horizon", horizon), ("season", season)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        super().__init__(net, num_outputs, **task)
        self.horizon, self.season = horizon, season

    @property
    def reads(self) -> Reads:
        return "series"

    @property
    def makes(self) -> Makes:
        return "series"

    @property
    def learns(self) -> tuple[str, ...]:
        return ("forecasting",)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """``(T, D)``: as the data told, else 24 steps."""
        if self.input_shape is None and "input_size" in self.hparams:
            return max(_STEPS, self.season), self.hparams["input_size"]
        return super().example_shape

    def output_shape(self) -> tuple[int, ...]:
        return self.horizon, self.num_outputs

    def setup(self, stage: str) -> None:
        """Compare the horizon with the data's, too.

        Raises:
            ValueError: They differ, or the data's context is shorter than a season.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        horizon = getattr(data, "horizon", self.horizon)
        if horizon != self.horizon:
            raise ValueError(
                f"horizon is {self.horizon}, but {type(data).__name__} has {horizon}: build the model with horizon={horizon}"
            )
        super().setup(stage)
        if self.input_shape is not None and self.input_shape[0] < self.season:
            raise ValueError(
                f"season is {self.season}, but a context has {self.input_shape[0]} steps: set season lower"
            )

    def standardize_target(self, y: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return ``(y - target_mean) / target_std``: ``(B, H, K)``.

        Raises:
            ValueError: Another shape.
        """
        if y.shape[1:] != (self.horizon, self.num_outputs):
            raise ValueError(
                f"targets must have shape (B, {self.horizon}, {self.num_outputs}) for horizon={self.horizon} and "
                f"num_outputs={self.num_outputs}, got {tuple(y.shape)}"
            )
        target = (y - self.target_mean) / self.target_std
        return target.to(dtype or self.net_dtype) if target.dtype == torch.float64 else target

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean loss over the targets that count; the mean absolute error, in their unit, is logged beside it."""
        x, y, *weight = batch
        residuals, _ = self._residuals(x, y)
        loss, count = weighted_mean(self._losses(residuals), *weight)
        mae, _ = weighted_mean((residuals.detach() * self.target_std).abs(), *weight)
        return loss, {"loss": loss, "mae": mae}, count

    @property
    def unfit_diagnoses(self) -> tuple[str, ...]:
        """The end of a series, which validates, may well be unlike its beginning."""
        return ("distribution mismatch",)

    def build_metrics(self) -> dict[str, Metric]:
        """Return loss (standardized), RMSE and MAE (the series' unit), and the error relative to the seasonal naive forecast's."""
        return {
            "loss": MeanMetric(nan_strategy="disable"),
            "rmse": MeanSquaredError(squared=False),
            "mae": MeanAbsoluteError(),
            "relative_mae": RelativeError(self.num_outputs, exact_dtype(self.device)),
        }

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *rest = batch
        residuals, _ = self._residuals(x, y)
        counts = _counts(residuals, *rest)
        metrics["loss"].update(self._losses(residuals)[counts])
        errors = residuals * self.target_std
        for name in ("rmse", "mae"):
            metrics[name].update(errors[counts], torch.zeros_like(errors[counts]))
        metrics["relative_mae"].update(errors, self.naive(x) - y, counts)

    def naive(self, x: Tensor) -> Tensor:
        """Return the seasonal naive forecasts of contexts, in the series' own unit: ``(B, T, D)`` -> ``(B, H, K)``."""
        return seasonal_naive(x[:, :, : self.num_outputs], self.horizon, self.season)

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return ``value``, forecasts ``(B, H, K)`` in the series' own unit."""
        value = self(input_of(batch))
        return {"value": value.to(torch.promote_types(value.dtype, torch.float32))}

    @torch.no_grad()
    def render(self, batch: Any) -> dict[str, Any]:
        """Return a picture of some windows: history, truth, forecast, and the seasonal naive forecast."""
        x, y, *rest = batch
        truth = y.where(_counts(y, *rest), torch.nan)
        known = (self.preparation or {}).get("targets") or []
        names = known if len(known) == self.num_outputs else [f"target {k}" for k in range(self.num_outputs)]
        return {"forecast": figures.forecasts(x[:, :, : self.num_outputs], truth, self(x), self.naive(x), names)}

    def expected_initial_loss(self) -> None:
        """Return None: a net that goes on from the last value begins below 1, by how much the series tell."""


def _counts(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return which values ``(B, H, K)`` count, by a weight ``(B,)`` or ``(B, H, K)``."""
    if weight is None:
        return torch.ones_like(values, dtype=torch.bool)
    return (weight > 0).view(-1, *(weight.shape[1:] or (1, 1))).expand_as(values)
