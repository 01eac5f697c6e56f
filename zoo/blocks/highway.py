"""The highway layer: Srivastava et al. 2015, "Highway Networks", arXiv:1505.00387, section 2."""

import torch
from torch import Tensor, nn


class HighwayLayer(nn.Module):
    """``T(x) * H(x) + (1 - T(x)) * x``: how much of each unit is transformed, and how much carried, is learned (eq. 3).

    Args:
        transform: H, which keeps the shape.
        gate: linear map without a bias, which keeps the shape; T is the sigmoid of it and of ``gate_bias``.
        units: channels of the input.
        gate_bias: what the gate's bias starts at; below 0, the layer carries at first. It stands apart from ``gate``, so that no
            initialization of the weights sets it to 0.

    Shape:
        ``(B, units, ...)`` -> the same.
    """

    def __init__(self, transform: nn.Module, gate: nn.Module, units: int, gate_bias: float) -> None:
        super().__init__()
        self.transform = transform
        self.gate = gate
        self.gate_bias = nn.Parameter(torch.full((units,), float(gate_bias)))

    def forward(self, x: Tensor) -> Tensor:
        """The mixture of H(x) and x."""
        bias = self.gate_bias.view(-1, *[1] * (x.ndim - 2))  # (C,) -> (C, 1, ...)
        t = torch.sigmoid(self.gate(x) + bias)
        return t * self.transform(x) + (1 - t) * x
