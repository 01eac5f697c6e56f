"""Regression: one or several numbers an example, learned in standardized units, predicted in the target's own."""

from typing import Any, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, Metric, R2Score

from zoo.drawing import figures
from zoo.losses.means import weighted_mean
from zoo.model import Makes
from zoo.tasks.base import Task, TaskArguments, check_monitor, input_of


class RegressionArguments(TaskArguments, total=False):
    """Arguments of :class:`RegressionTask` but the net and ``num_outputs``."""

    loss: Literal["mse", "half_mse", "mae", "huber"]
    huber_delta: float
    monitor: str


class RegressionTask(Task):
    """Train a net to predict numbers.

    The net learns targets that are standardized with ``target_mean`` and ``target_std``, copied from the datamodule at the
    first fit and kept from then on; :meth:`forward`, predictions and metrics are in the target's own unit, and in float64 where
    float32 cannot hold it. The loss is of the
    standardized residuals, a mean over examples AND outputs. Logs ``loss``, ``rmse`` and ``mae`` (over all residuals) and
    ``r2`` (the mean over outputs; nan for fewer than two examples, 0 for targets that are all the same).

    Args:
        net: ``(B, ...)`` -> ``(B, K)``, in standardized units.
        num_outputs: Numbers K an example.
        loss: "mse", "half_mse" (half the squared error, whose gradient is the residual), "mae" or "huber".
        huber_delta: Residual from which the Huber loss grows linearly, in standard deviations of the target, > 0.
        monitor: Metric that decides which checkpoint is best: "val/loss", "val/rmse", "val/mae" or "val/r2".
        task: Arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(x, y)`` with x ``(B, ...)`` and y ``(B, K)``, with one output also ``(B,)``; or ``(x, y, weight)`` with weight
        ``(B,)`` or ``(B, K)``: of weight 0 nothing counts.

    Raises:
        ValueError: An argument out of its range, or targets of another shape.
    """

    target_mean: Tensor
    target_std: Tensor
    statistics = (*Task.statistics, ("target_mean", "target_std"))
    standardizes_target = True  # False: what the net gives is in the target's own unit
    _target_known = False  # whether they are copied from data, or loaded

    def __init__(
        self,
        net: nn.Module,
        num_outputs: int = 1,
        loss: Literal["mse", "half_mse", "mae", "huber"] = "mse",
        huber_delta: float = 1.0,
        monitor: str = "val/loss",
        **task: Unpack[TaskArguments],
    ) -> None:
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be 1 or more, got {num_outputs}")
        if loss not in ("mse", "half_mse", "mae", "huber"):
            raise ValueError(f"loss must be mse, half_mse, mae or huber, got {loss!r}")
        if not huber_delta > 0:
            raise ValueError(f"huber_delta must be above 0, got {huber_delta}")
        check_monitor(monitor, "val/r2")
        super().__init__(net, **task)
        self.num_outputs = num_outputs

    def register_task_buffers(self) -> None:
        """Register mean and standard deviation of the target too."""
        super().register_task_buffers()
        count = self.hparams["num_outputs"]
        self.register_buffer("target_mean", torch.zeros(count))
        self.register_buffer("target_std", torch.ones(count))

    @property
    def makes(self) -> Makes:
        return "number"

    @property
    def monitor(self) -> tuple[str, str]:
        name = self.hparams["monitor"]
        return name, "max" if name.endswith("r2") else "min"

    def output_shape(self) -> tuple[int, ...]:
        return (self.num_outputs,)

    def setup(self, stage: str) -> None:
        """Copy the target's statistics from the datamodule, and compare the number of outputs with the data's."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        mean = getattr(data, "target_mean", None)
        if stage != "fit" or mean is None or self._target_known:
            return
        if not self.standardizes_target:
            self.check_digits("targets", mean, getattr(data, "target_std", None))
            return
        mean, std = (torch.as_tensor(v, dtype=torch.float64, device="cpu").flatten() for v in (mean, data.target_std))
        for name, value in (("target_mean", mean), ("target_std", std)):
            if value.numel() != self.num_outputs:
                raise ValueError(
                    f"num_outputs is {self.num_outputs}, but {type(data).__name__} has {value.numel()} numbers in {name}: "
                    f"build the model with num_outputs={value.numel()}"
                )
        if not (std > 0).all():
            raise ValueError(
                f"target_std must be above 0, got {std.tolist()}: a target that never varies teaches nothing"
            )
        self._set_statistics(("target_mean", "target_std"), mean, std)
        self._target_known = True
        self._check_precision()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        self._target_known = self._target_known or prefix + "target_mean" in state_dict
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def standardize_target(self, y: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return ``(y - target_mean) / target_std``: ``(B, K)``, with one output also from ``(B,)``.

        Args:
            y: Targets in their own unit. Of float64 the mean is subtracted in float64, so that no digits are lost.
            dtype: Type in which float64 comes out; None: that of the net.

        Raises:
            ValueError: Another shape.
        """
        columns = _as_columns(y, self.num_outputs)
        if columns.ndim != 2 or columns.shape[1] != self.num_outputs:
            raise ValueError(
                f"targets must have shape (B, {self.num_outputs}) for num_outputs={self.num_outputs}, got {tuple(y.shape)}"
            )
        target = (columns - self.target_mean) / self.target_std
        return target.to(dtype or self.net_dtype) if target.dtype == torch.float64 else target

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions ``(B, K)`` in the target's own unit."""
        return self.net(self.standardize(x)) * self.target_std + self.target_mean

    def standardized_output(self, x: Any) -> Tensor:
        """Return the net's output, which residuals are of: ``(B, K)``."""
        return self.net(self.standardize(x))

    def _residuals(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized residuals and targets, ``(B, K)`` each: no large mean is added first, that would cost digits."""
        target, output = self.standardize_target(y), self.standardized_output(x)
        if output.shape != target.shape:
            raise ValueError(
                f"{type(self.net).__name__} gives {tuple(output.shape)} for targets of shape {tuple(target.shape)}: they must agree"
            )
        return output.to(target.dtype) - target, target

    def _losses(self, residuals: Tensor) -> Tensor:
        """The loss of each output of each example: ``(B, K)``."""
        if self.hparams["loss"] in ("mse", "half_mse"):
            return residuals.square() * (0.5 if self.hparams["loss"] == "half_mse" else 1.0)
        if self.hparams["loss"] == "mae":
            return residuals.abs()
        zero = torch.zeros_like(residuals)
        return F.huber_loss(residuals, zero, reduction="none", delta=self.hparams["huber_delta"])

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean loss over all residuals; the mean absolute error, in the target's unit, is logged beside it."""
        x, y, *rest = batch
        weight = _as_columns(rest[0], self.num_outputs) if rest else None
        residuals, _ = self._residuals(x, y)
        loss, count = weighted_mean(self._losses(residuals), weight)
        mae, _ = weighted_mean((residuals.detach() * self.target_std).abs(), weight)
        return loss, {"loss": loss, "mae": mae}, count

    def build_metrics(self) -> dict[str, Metric]:
        """Return loss (standardized), RMSE and MAE (the target's unit), R2."""
        return {
            "loss": MeanMetric(nan_strategy="disable"),
            "rmse": MeanSquaredError(squared=False),
            "mae": MeanAbsoluteError(),
            "r2": _R2(),
        }

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *rest = batch
        residuals, target = self._residuals(x, y)
        weight = rest[0] if rest else torch.ones_like(residuals)
        counts = (weight > 0).view(len(residuals), -1).expand_as(residuals)  # (B,) or (B, K) -> (B, K)
        metrics["loss"].update(self._losses(residuals)[counts])
        errors = (residuals * self.target_std)[counts]
        for name in ("rmse", "mae"):
            metrics[name].update(errors, torch.zeros_like(errors))
        whole = counts.all(dim=1)  # R2 is of examples whose outputs all count
        residuals, target = residuals[whole], target[whole]
        metrics["r2"].update(target + residuals, target)  # the same in any unit; here without a large mean squared

    output_meaning = "predictions (B, K), in the target's own unit"

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``value``, ``(B, K)``, in the target's unit."""
        return {"value": self(x)}

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return ``value``, in the target's unit: ``(B, K)``, with one output ``(B,)``."""
        value = self(input_of(batch))
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        return {"value": value.squeeze(1) if self.num_outputs == 1 else value}

    @torch.no_grad()
    def render(self, batch: Any) -> dict[str, Any]:
        """Return pictures: predicted against true values, and for one input the fitted curve."""
        x, y = batch[0], batch[1]
        columns = _as_columns(y, self.num_outputs)
        shown = {"scatter": figures.predicted_against_true(columns, self(x))}
        if x.shape[1:] == (1,):
            shown["curve"] = figures.fitted_curve(x, columns, self)
        return shown

    def expected_initial_loss(self) -> float | None:
        """Return 1 for the squared error of standardized targets, 1/2 for half of it: a fresh net predicts about their mean; else
        None."""
        known = {"mse": 1.0, "half_mse": 0.5} if self._target_known and self.standardizes_target else {}
        return known.get(self.hparams["loss"])


def _as_columns(y: Tensor, outputs: int) -> Tensor:
    """``(B,)`` as ``(B, 1)`` where there is one output, so that it is a value an output."""
    return y.unsqueeze(1) if y.ndim == 1 and outputs == 1 else y


class _R2(R2Score):
    """R2, defined by two examples or more: nan where the stock metric raises an error."""

    def compute(self) -> Tensor:
        return super().compute() if self.total >= 2 else torch.full((), float("nan"), device=self.device)
