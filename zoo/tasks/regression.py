"""Regression: one or several numbers an example, learned in standardized units, told in the target's own."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, Metric, R2Score

from zoo.tasks.base import Task
from zoo.tasks.portable import real_device
from zoo.tasks.render import render_regression


class RegressionTask(Task):
    """Train a net to predict numbers.

    The net learns targets that are standardized with ``target_mean`` and ``target_std``, copied from the datamodule at the
    first fit and kept ever after; :meth:`forward`, predictions and metrics are in the target's own unit. The loss is of the
    standardized residuals, a mean over examples AND outputs. Logs ``loss``, ``rmse`` and ``mae`` (over all residuals) and
    ``r2`` (the mean over outputs; nan for fewer than two examples, 0 for targets that are all the same).

    Args:
        net: ``(B, ...)`` -> ``(B, K)``, in standardized units.
        num_outputs: numbers K an example.
        loss: "mse", "mae" or "huber".
        huber_delta: residual from which the Huber loss grows linearly, in standard deviations of the target, > 0.
        monitor: the metric that decides which checkpoint is best: "val/loss", "val/rmse", "val/mae" or "val/r2".
        task: arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(x, y)`` with x ``(B, ...)`` and y ``(B, K)``, with one output also ``(B,)``; evaluation also takes
        ``(x, y, weight)``: rows of weight 0 count nowhere.

    Raises:
        ValueError: an argument out of its range, or targets of another shape.
    """

    target_mean: Tensor
    target_std: Tensor
    _target_known = False  # whether they are known: copied from data, or loaded

    def __init__(
        self,
        net: nn.Module,
        num_outputs: int = 1,
        loss: Literal["mse", "mae", "huber"] = "mse",
        huber_delta: float = 1.0,
        monitor: str = "val/loss",
        **task: Any,
    ) -> None:
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be 1 or more, got {num_outputs}")
        if loss not in ("mse", "mae", "huber"):
            raise ValueError(f"loss must be mse, mae or huber, got {loss!r}")
        if not huber_delta > 0:
            raise ValueError(f"huber_delta must be above 0, got {huber_delta}")
        if not monitor.startswith(("val/", "train/")):
            raise ValueError(f"monitor names a logged metric such as 'val/loss' or 'val/r2', got {monitor!r}")
        super().__init__(net, **task)
        self.num_outputs = num_outputs

    def register_task_buffers(self) -> None:
        """Mean and standard deviation of the target too."""
        super().register_task_buffers()
        count = self.hparams["num_outputs"]
        self.register_buffer("target_mean", torch.zeros(count, device=real_device()))
        self.register_buffer("target_std", torch.ones(count, device=real_device()))

    @property
    def output_size(self) -> int:
        """The number of outputs."""
        return self.num_outputs

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that decides which checkpoint is best, and its mode."""
        name = self.hparams["monitor"]
        return name, "max" if name.endswith("r2") else "min"

    def setup(self, stage: str) -> None:
        """Take the target's statistics from the datamodule, and compare the number of outputs with the data's."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        mean = getattr(data, "target_mean", None)
        if stage != "fit" or mean is None or self._target_known:
            return
        mean, std = (torch.as_tensor(v, dtype=torch.float32).flatten() for v in (mean, data.target_std))
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
        device, dtype = self.target_mean.device, self.target_mean.dtype
        self.target_mean, self.target_std = mean.to(device, dtype), std.to(device, dtype)
        self._target_known = True

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        self._target_known = self._target_known or prefix + "target_mean" in state_dict
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def standardize_target(self, y: Tensor) -> Tensor:
        """``(y - target_mean) / target_std``: ``(B, K)``, with one output also from ``(B,)``.

        Raises:
            ValueError: another shape.
        """
        columns = y.unsqueeze(1) if y.ndim == 1 else y
        if columns.ndim != 2 or columns.shape[1] != self.num_outputs:
            raise ValueError(
                f"targets must have shape (B, {self.num_outputs}) for num_outputs={self.num_outputs}, got {tuple(y.shape)}"
            )
        return (columns - self.target_mean) / self.target_std

    def forward(self, x: Tensor) -> Tensor:
        """Predictions ``(B, K)`` in the target's own unit."""
        return self.net(self.standardize(x)) * self.target_std + self.target_mean

    def _residuals(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized residuals and targets, ``(B, K)`` each: no large mean is added first, that would cost digits."""
        target, output = self.standardize_target(y), self.net(self.standardize(x))
        if output.shape != target.shape:
            raise ValueError(
                f"{type(self.net).__name__} gives {tuple(output.shape)} for targets of shape {tuple(target.shape)}: they must agree"
            )
        return output.to(target.dtype) - target, target

    def _losses(self, residuals: Tensor) -> Tensor:
        """The loss of each example, a mean over its outputs: ``(B, K)`` -> ``(B,)``."""
        if self.hparams["loss"] == "mse":
            losses = residuals.square()
        elif self.hparams["loss"] == "mae":
            losses = residuals.abs()
        else:
            zero = torch.zeros_like(residuals)
            losses = F.huber_loss(residuals, zero, reduction="none", delta=self.hparams["huber_delta"])
        return losses.mean(dim=1)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        """Mean loss over all residuals; the mean absolute error, in the target's unit, is logged beside it."""
        residuals, _ = self._residuals(batch[0], batch[1])
        loss = self._losses(residuals).mean()
        mae = (residuals.detach() * self.target_std).abs().mean()
        return loss, {"loss": loss, "mae": mae}, len(residuals)

    def build_metrics(self) -> dict[str, Metric]:
        """Loss (standardized), RMSE and MAE (the target's unit), R2."""
        return {
            "loss": MeanMetric(nan_strategy="disable"),
            "rmse": MeanSquaredError(squared=False),
            "mae": MeanAbsoluteError(),
            "r2": _R2(),
        }

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        """Add a batch; rows of weight 0 count nowhere."""
        x, y, *rest = batch
        residuals, target = self._residuals(x, y)
        if rest:
            residuals, target = residuals[rest[0] > 0], target[rest[0] > 0]
        errors = residuals * self.target_std
        metrics["loss"].update(self._losses(residuals))
        for name in ("rmse", "mae"):
            metrics[name].update(errors.flatten(), torch.zeros_like(errors).flatten())
        metrics["r2"].update(target + residuals, target)  # the same in any unit; here without a large mean squared

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """What a user can read.

        Returns:
            ``value``: in the target's unit, ``(B, K)``, with one output ``(B,)``.
        """
        value = self(batch if isinstance(batch, Tensor) else batch[0]).float()
        return {"value": value.squeeze(1) if self.num_outputs == 1 else value}

    def render(self, batch: Any) -> dict[str, Any]:
        """Predicted against true values, and for one input the fitted curve."""
        return render_regression(self, batch)

    def expected_initial_loss(self) -> float | None:
        """1 for the squared error of standardized targets: a fresh net predicts about their mean; else there is no number."""
        return 1.0 if self.hparams["loss"] == "mse" and self._target_known else None


class _R2(R2Score):
    """R2, which two examples at least define: nan where the stock metric raises."""

    def compute(self) -> Tensor:
        return super().compute() if self.total >= 2 else torch.full((), float("nan"), device=self.device)
