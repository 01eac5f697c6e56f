"""Activations by name, those without a useful gradient of their own with a straight-through one."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.spelling import suggest

Activation = Literal[
    "identity",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "prelu",
    "elu",
    "gelu",
    "maxout",
    "softmax",
    "threshold",
    "stochastic_binary",
]


class Maxout(nn.Module):
    """The largest of several linear pieces: Goodfellow et al. 2013, "Maxout Networks", arXiv:1302.4389.

    Args:
        pieces: linear pieces k >= 2 of one unit.

    Shape:
        ``(B, W k, ...)`` -> ``(B, W, ...)``: unit i takes the channels i k ... i k + k - 1.
    """

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        if pieces < 2:
            raise ValueError(f"pieces must be 2 or more, got {pieces}")
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """The maximum of each group."""
        return x.unflatten(1, (-1, self.pieces)).amax(dim=2)  # (B, W k, ...) -> (B, W, k, ...) -> (B, W, ...)


class Softmax(nn.Module):
    """A softmax over the channels (dimension 1) at a temperature T > 0."""

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Shares that sum to 1 over dimension 1."""
        return (x / self.temperature).softmax(dim=1)


class Threshold(nn.Module):
    """1 from 0 upward, else 0; the gradient goes straight through, as if it were the identity.

    Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv:1308.3432.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Zeros and ones."""
        return _straight_through((x >= 0).to(x.dtype), x)


class StochasticBinary(nn.Module):
    """1 with probability sigmoid(x), else 0; the gradient is that of the sigmoid (arXiv:1308.3432, section 4).

    In evaluation nothing is drawn: 1 where that is the more probable value.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Zeros and ones."""
        p = x.sigmoid()
        drawn = torch.bernoulli(p.detach()) if self.training else (p >= 0.5).to(p.dtype)
        return _straight_through(drawn, p)


def _straight_through(value: Tensor, x: Tensor) -> Tensor:
    """``value``, to the bit, with the gradient of ``x``."""
    return value.detach() + (x - x.detach())


_FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "maxout": Maxout,
    "softmax": Softmax,
    "threshold": Threshold,
    "stochastic_binary": StochasticBinary,
}


def build_activation(name: str, pieces: int = 2, temperature: float = 1.0) -> nn.Module:
    """A fresh activation.

    Args:
        name: "identity", "sigmoid", "tanh", "relu", "leaky_relu" (slope 0.01), "prelu" (one learned slope, 0.25 at first),
            "elu", "gelu", "maxout", "softmax", "threshold" (binary) or "stochastic_binary".
        pieces: of "maxout"; the layer before it must give so many times its units, see :func:`expansion`.
        temperature: of "softmax".

    Raises:
        ValueError: an unknown name; the message suggests the closest.
    """
    if name not in _FACTORIES:
        raise ValueError(f"unknown activation {name!r}{suggest(name, _FACTORIES)}; known: {', '.join(_FACTORIES)}")
    if name == "maxout":
        return Maxout(pieces)
    return Softmax(temperature) if name == "softmax" else _FACTORIES[name]()


def expansion(name: str, pieces: int = 2) -> int:
    """How many inputs one unit of an activation takes: ``pieces`` for "maxout", else 1."""
    return pieces if name == "maxout" else 1
