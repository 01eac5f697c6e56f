"""The highway layer: Srivastava et al. 2015, "Highway Networks", arXiv:1505.00387, section 2."""

import torch
from torch import Tensor, nn


class HighwayLayer(nn.Module):
    """``T(x) * H(x) + (1 - T(x)) * x``: a learned gate T mixes the transformed input and the input itself (eq. 3).

    Args:
        transform: H, a module that keeps the shape.
        gate: Linear map without a bias that keeps the shape; T(x) is the sigmoid of its output plus ``gate_bias``.
        units: Number of channels of the input.
        gate_bias: Initial value of the gate's bias; below 0 the layer carries its input at first. The bias is a parameter apart
            from ``gate``, so that ``init`` does not set it to 0.

    Shape:
        ``(B, units, ...)`` -> the same.
    """

    def __init__(self, transform: nn.Module, gate: nn.Module, units: int, gate_bias: float) -> None:
        super().__init__()
        self.transform = transform
        self.gate = gate
        self.gate_bias = nn.Parameter(torch.full((units,), float(gate_bias)))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.gate_bias.view(-1, *[1] * (x.ndim - 2))  # (C,) -> (C, 1, ...)
        t = torch.sigmoid(self.gate(x) + bias)
        return t * self.transform(x) + (1 - t) * x
