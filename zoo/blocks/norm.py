"""Normalization, activation and dropout of maps by name."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from zoo.blocks.activations import Activation, build_activation, expansion
from zoo.spelling import suggest

Norm = Literal["batch", "layer", "group", "instance", "none"]
Dropout = Literal["element", "spatial"]
NORMS = ("batch", "layer", "group", "instance", "none")


def build_norm(name: str, channels: int, groups: int = 32, eps: float = 1e-5) -> nn.Module:
    """Build a normalization of feature maps ``(B, C, H, W)`` by name, with a learned scale and shift for each channel.

    Args:
        name: "batch" (Ioffe and Szegedy 2015, arXiv:1502.03167), "layer" (Ba et al. 2016, arXiv:1607.06450: over all values of an
            example), "group" (Wu and He 2018, arXiv:1803.08494), "instance" (Ulyanov et al. 2016, arXiv:1607.08022: each map
            alone) or "none".
        channels: Number of channels C.
        groups: Number of groups of "group"; if it does not divide C, their greatest common divisor is used.
        eps: Added to the variance.

    Raises:
        ValueError: An unknown name; the message suggests the closest.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels, eps=eps)
    if name == "instance":
        return nn.InstanceNorm2d(channels, eps=eps, affine=True)
    if name in ("layer", "group"):
        return nn.GroupNorm(1 if name == "layer" else math.gcd(groups, channels), channels, eps=eps)
    if name == "none":
        return nn.Identity()
    raise ValueError(f"unknown norm {name!r}{suggest(name, NORMS)}; known: {', '.join(NORMS)}")


def build_dropout(p: float, kind: str = "element") -> nn.Module:
    """Build a dropout for feature maps.

    Args:
        p: Probability in [0, 1) that a value, or a whole map, is dropped in training; the others are scaled by 1 / (1 - p).
        kind: "element" (Srivastava et al. 2014), or "spatial": whole maps (Tompson et al. 2015, arXiv:1411.4280).

    Raises:
        ValueError: A probability out of its range, or an unknown kind.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout is a probability in [0, 1), got {p}")
    if kind not in ("element", "spatial"):
        raise ValueError(f"dropout_kind must be 'element' or 'spatial', got {kind!r}")
    return nn.Dropout(p) if kind == "element" else nn.Dropout2d(p)


def map_activation(activation: Activation) -> nn.Module:
    """Build an activation for feature maps, one that keeps the number of channels; ReLU works in place.

    Raises:
        ValueError: An unknown name, or "maxout", which takes several channels for one.
    """
    if activation == "relu":
        return nn.ReLU(inplace=True)
    if expansion(activation) != 1:
        raise ValueError(
            f"activation {activation!r} takes several channels for one, which the layers of this net do not have: take another one"
        )
    return build_activation(activation)


@dataclass(frozen=True)
class Style:
    """Norm, activation and dropout of the blocks of a net, by name.

    Attributes:
        norm: Norm of each convolution, see :func:`build_norm`.
        activation: Activation, see :func:`map_activation`.
        dropout: Probability of dropout, see :func:`build_dropout`.
        dropout_kind: "element" or "spatial".
        norm_eps: Added to the variance by the norm.
    """

    norm: Norm = "batch"
    activation: Activation = "relu"
    dropout: float = 0.0
    dropout_kind: Dropout = "element"
    norm_eps: float = 1e-5

    def build_norm(self, channels: int) -> nn.Module:
        return build_norm(self.norm, channels, eps=self.norm_eps)

    def build_activation(self) -> nn.Module:
        return map_activation(self.activation)

    def build_dropout(self) -> nn.Module:
        return build_dropout(self.dropout, self.dropout_kind)

    @property
    def bias(self) -> bool:
        """Whether convolutions have a bias: with a norm they need none."""
        return self.norm == "none"
