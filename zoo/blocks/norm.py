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
    """A fresh normalization of maps ``(B, C, H, W)``, each with a learned scale and shift a channel.

    Args:
        name: "batch" (Ioffe and Szegedy 2015, arXiv:1502.03167), "layer" (Ba et al. 2016, arXiv:1607.06450: over all of an
            example), "group" (Wu and He 2018, arXiv:1803.08494), "instance" (Ulyanov et al. 2016, arXiv:1607.08022: each map by
            itself) or "none".
        channels: C.
        groups: of "group"; where it does not divide C, the largest common divisor of both.
        eps: added to the variance.

    Raises:
        ValueError: an unknown name; the message suggests the closest.
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
    """A fresh dropout of maps.

    Args:
        p: probability in [0, 1) that a value, or a whole map, is dropped in training; what stays is scaled by 1 / (1 - p).
        kind: "element" (Srivastava et al. 2014), or "spatial": whole maps (Tompson et al. 2015, arXiv:1411.4280).

    Raises:
        ValueError: a probability out of its range, or another kind.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout is a probability in [0, 1), got {p}")
    if kind not in ("element", "spatial"):
        raise ValueError(f"dropout_kind must be 'element' or 'spatial', got {kind!r}")
    return nn.Dropout(p) if kind == "element" else nn.Dropout2d(p)


def map_activation(name: Activation) -> nn.Module:
    """A fresh activation of maps, one that keeps the number of channels; ReLU works in place.

    Raises:
        ValueError: an unknown name, or "maxout", which takes several channels for one.
    """
    if name == "relu":
        return nn.ReLU(inplace=True)
    if expansion(name) != 1:
        raise ValueError(
            f"activation {name!r} takes several channels for one, which the layers of this net do not give"
        )
    return build_activation(name)


@dataclass(frozen=True)
class Style:
    """What the blocks of a net have in common, by name.

    Attributes:
        norm: after (or before) each convolution, see :func:`build_norm`.
        activation: see :func:`map_activation`.
        dropout: probability, see :func:`build_dropout`.
        dropout_kind: "element" or "spatial".
        norm_eps: added to the variance by the norm.
    """

    norm: Norm = "batch"
    activation: Activation = "relu"
    dropout: float = 0.0
    dropout_kind: Dropout = "element"
    norm_eps: float = 1e-5

    def build_norm(self, channels: int) -> nn.Module:
        """A fresh norm of ``channels`` maps."""
        return build_norm(self.norm, channels, eps=self.norm_eps)

    def build_activation(self) -> nn.Module:
        """A fresh activation."""
        return map_activation(self.activation)

    def build_dropout(self) -> nn.Module:
        """A fresh dropout."""
        return build_dropout(self.dropout, self.dropout_kind)

    @property
    def bias(self) -> bool:
        """Whether a convolution needs a bias of its own: a norm brings one."""
        return self.norm == "none"
