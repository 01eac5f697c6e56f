"""Activations by name; those whose own gradient is zero have a straight-through one."""

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
    """Maximum over several linear pieces: Goodfellow et al. 2013, "Maxout Networks", arXiv:1302.4389.

    Args:
        pieces: Number k of linear pieces of one unit, >= 2.

    Shape:
        ``(B, W k, ...)`` -> ``(B, W, ...)``: unit i takes the channels i k ... i k + k - 1.
    """

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        if pieces < 2:
            raise ValueError(f"pieces must be 2 or more, got {pieces}")
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.pieces)).amax(dim=2)  # (B, W k, ...) -> (B, W, k, ...) -> (B, W, ...)


class Softmax(nn.Module):
    """Softmax over dimension 1 of the input divided by a temperature.

    Args:
        temperature: T > 0.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.temperature).softmax(dim=1)


class Threshold(nn.Module):
    """Binary step: 1 where x >= 0, else 0. The gradient is that of the identity (straight-through).

    Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv:1308.3432.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _straight_through((x >= 0).to(x.dtype), x)


class StochasticBinary(nn.Module):
    """1 with probability sigmoid(x), else 0; the gradient is that of the sigmoid (arXiv:1308.3432, section 4).

    In evaluation mode nothing is drawn: the output is the more probable value.
    """

    def forward(self, x: Tensor) -> Tensor:
        p = x.sigmoid()
        drawn = torch.bernoulli(p.detach()) if self.training else (p >= 0.5).to(p.dtype)
        return _straight_through(drawn, p)


def _straight_through(value: Tensor, x: Tensor) -> Tensor:
    """Return exactly ``value``, with the gradient of ``x``."""
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
    """Build an activation by name.

    Args:
        name: "identity", "sigmoid", "tanh", "relu", "leaky_relu" (slope 0.01), "prelu" (one learned slope, 0.25 at first),
            "elu", "gelu", "maxout", "softmax", "threshold" (binary) or "stochastic_binary".
        pieces: Number of pieces of "maxout". The layer before it must have that many outputs for each unit, see
            :func:`expansion`.
        temperature: Temperature of "softmax".

    Raises:
        ValueError: An unknown name; the message suggests the closest.
    """
    if name not in _FACTORIES:
        raise ValueError(f"unknown activation {name!r}{suggest(name, _FACTORIES)}; known: {', '.join(_FACTORIES)}")
    if name == "maxout":
        return Maxout(pieces)
    return Softmax(temperature) if name == "softmax" else _FACTORIES[name]()


def expansion(name: str, pieces: int = 2) -> int:
    """Return the number of inputs of one unit of an activation: ``pieces`` for "maxout", else 1."""
    return pieces if name == "maxout" else 1
