"""Activations by name; those whose own gradient is zero have a straight-through one."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.spelling import suggest

ActivationName = Literal[
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
Activation = ActivationName | dict[str, Any]  # with arguments: {"name": "leaky_relu", "negative_slope": 0.2}


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


_FACTORIES: dict[str, Callable[..., nn.Module]] = {
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
# what may be given with a name, by the names of torch.nn, and what kind of value it is
_ARGUMENTS: dict[str, dict[str, type]] = {
    "leaky_relu": {"negative_slope": float},
    "prelu": {"init": float},
    "elu": {"alpha": float},
    "gelu": {"approximate": str},
    "maxout": {"pieces": int},
    "softmax": {"temperature": float},
}


def build_activation(activation: Activation, pieces: int = 2, temperature: float = 1.0) -> nn.Module:
    """Build an activation by name, alone or with arguments.

    Args:
        activation: "identity", "sigmoid", "tanh", "relu", "leaky_relu", "prelu" (one learned slope), "elu", "gelu", "maxout",
            "softmax", "threshold" (binary) or "stochastic_binary". With arguments it is a dict: ``{"name": "leaky_relu",
            "negative_slope": 0.2}`` (0.01 by itself), "prelu" with ``init`` (0.25, the slope at first), "elu" with ``alpha``
            (1), "gelu" with ``approximate`` ("none" or "tanh"), "maxout" with ``pieces``, "softmax" with ``temperature``.
        pieces: Number of pieces of "maxout". The layer before it must have that many outputs for each unit, see
            :func:`expansion`.
        temperature: Temperature of "softmax".

    Raises:
        ValueError: An unknown name or argument (the message suggests the closest), or a value of another kind.

    Example:
        >>> build_activation({"name": "elu", "alpha": 0.5})
        ELU(alpha=0.5)
    """
    name, arguments = parse_activation(activation)
    by_name: dict[str, dict[str, Any]] = {"maxout": {"pieces": pieces}, "softmax": {"temperature": temperature}}
    defaults = by_name.get(name, {})
    return _FACTORIES[name](**(defaults | arguments))


def parse_activation(activation: Activation) -> tuple[str, dict[str, Any]]:
    """Return the name of an activation and its arguments.

    Raises:
        ValueError: See :func:`build_activation`.
    """
    arguments = dict(activation) if isinstance(activation, dict) else {"name": activation}
    name = arguments.pop("name", None)
    if name is None:
        raise ValueError(
            f"an activation with arguments is {{'name': 'leaky_relu', ...}}, got {activation!r} without a name"
        )
    if not isinstance(name, str) or name not in _FACTORIES:
        raise ValueError(f"unknown activation {name!r}{suggest(str(name), _FACTORIES)}; known: {', '.join(_FACTORIES)}")
    known = _ARGUMENTS.get(name, {})
    for argument, value in arguments.items():
        if argument not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"activation {name!r} has no argument {argument!r}{suggest(argument, known)}; {has}")
        kind, wanted = known[argument], {float: "a number", int: "a whole number", str: "a text"}[known[argument]]
        right = isinstance(value, int | float) and math.isfinite(value) if kind is float else isinstance(value, kind)
        if isinstance(value, bool) or not right:
            raise ValueError(f"{argument} of activation {name!r} must be {wanted}, got {value!r}")
    pieces: Any = arguments.get("pieces", 2)
    if pieces < 2:
        raise ValueError(f"pieces of activation 'maxout' must be 2 or more, got {pieces}")
    if arguments.get("approximate") not in (None, "none", "tanh"):
        raise ValueError(f"approximate of activation 'gelu' must be 'none' or 'tanh', got {arguments['approximate']!r}")
    return name, arguments


def expansion(activation: Activation, pieces: int = 2) -> int:
    """Return the number of inputs of one unit of an activation: the pieces of "maxout", else 1."""
    name, arguments = parse_activation(activation)
    return arguments.get("pieces", pieces) if name == "maxout" else 1
