"""Forecasts of series: Graves 2013, "Generating Sequences With Recurrent Neural Networks", arXiv:1308.0850.

The levels of series are taken off each context and put back (reversible instance normalization): Kim et al. 2022, "Reversible
Instance Normalization for Accurate Time-Series Forecasting against Distribution Shift", ICLR; the last value instead of the mean:
Zeng et al. 2023, "Are Transformers Effective for Time Series Forecasting?", arXiv:2205.13504 ("NLinear").

Deviations: the net is trained on its own forecasts, not on the true values (so that it learns what it does when it is used); it
forecasts the values, not a distribution; the instance normalization has no weights of its own.
"""

from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from zoo.blocks import Cell, Recurrent
from zoo.registry import register
from zoo.tasks import ForecastingArguments, ForecastingTask

Normalization = Literal["window", "last", "none"]


class ForecastNet(nn.Module):
    """Recurrent layers that read a context, then go on from their last state and read their own forecasts.

    Each forecast is the value before it plus what a linear map makes of the state. Inputs that are no targets keep their last
    value.

    Args:
        input_size: Number of columns D, the targets first.
        num_outputs: Number of targets K, at most D.
        horizon: Number of steps H to forecast.
        cell: "rnn_tanh", "rnn_relu", "lstm" or "gru".
        width: Size W of the state.
        num_layers: Number of recurrent layers.
        dropout: Probability in [0, 1) that an output of a layer below another one is dropped in training.
        normalization: What is taken off each context, and put back to its forecasts, so that a level which training never saw makes
            no difference: "window", the mean, and what is left is divided by its deviation, so that the scale makes none either;
            "last", the last value; or "none".

    Shape:
        ``(B, T, D)`` -> ``(B, H, K)``.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        input_size: int = 1,
        num_outputs: int = 1,
        horizon: int = 12,
        cell: Cell = "gru",
        width: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        normalization: Normalization = "window",
    ) -> None:
        super().__init__()
        if not 1 <= num_outputs <= input_size:
            raise ValueError(f"num_outputs must lie in 1..input_size, {input_size}, got {num_outputs}")
        if horizon < 1:
            raise ValueError(f"horizon must be 1 or more, got {horizon}")
        if normalization not in get_args(Normalization):
            raise ValueError(
                f"normalization must be one of {', '.join(get_args(Normalization))}, got {normalization!r}"
            )
        self.num_outputs, self.horizon, self.normalization = num_outputs, horizon, normalization
        self.recurrent = Recurrent(input_size, width, cell, num_layers, dropout=dropout)
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        level, scale = self._statistics(x)  # (B, 1, D) each
        x = (x - level) / scale
        outputs, state = self.recurrent(x)
        now, output = x[:, -1], outputs[:, -1]  # (B, D), (B, W)
        forecasts = []
        for step in range(self.horizon):
            if step:
                output, state = self.recurrent.step(now, state)
            value = now[:, : self.num_outputs] + self.head(output)
            now = torch.cat([value, now[:, self.num_outputs :]], dim=1)
            forecasts.append(value)
        k = self.num_outputs
        return torch.stack(forecasts, dim=1) * scale[..., :k] + level[..., :k]  # H times (B, K) -> (B, H, K)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.normalization == "window":
            variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
            # all series share mean and std, so that a small one hardly varies: only rounding errors are kept from being scaled up
            return mean, (variance + torch.finfo(x.dtype).eps ** 2).sqrt()
        last = x[:, -1:]
        return last if self.normalization == "last" else torch.zeros_like(last), torch.ones_like(last)


class RecurrentForecaster(ForecastingTask):
    """A :class:`ForecastNet` trained to forecast. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        input_size: int = 1,
        num_outputs: int = 1,
        horizon: int = 12,
        cell: Cell = "gru",
        width: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        normalization: Normalization = "window",
        **task: Unpack[ForecastingArguments],
    ) -> None:
        net = ForecastNet(
            input_size=input_size,
            num_outputs=num_outputs,
            horizon=horizon,
            cell=cell,
            width=width,
            num_layers=num_layers,
            dropout=dropout,
            normalization=normalization,
        )
        super().__init__(net, num_outputs=num_outputs, horizon=horizon, **task)


register("rnn_forecaster", RecurrentForecaster, cell="rnn_tanh")
register("lstm_forecaster", RecurrentForecaster, cell="lstm")
register("gru_forecaster", RecurrentForecaster, cell="gru")
