"""Two nets that play against each other: what every generative adversarial net consists of."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from zoo.blocks.generative import check_latent_dim, concat_conditions, one_hot


class Adversaries(nn.Module):
    """A generator and a discriminator, and what they take. As a module it is its generator.

    Args:
        generator: ``(z, y)`` -> examples; y is None where ``num_classes`` is 0.
        discriminator: ``(x, y)`` -> one number an example, large where it looks real; without a sigmoid at its end.
        input_shape: of an example.
        latent_dim: numbers of noise an example, >= 1.
        num_classes: classes that can be asked for; 0 for none.

    Shape:
        z ``(B, latent_dim)``, y int64 ``(B,)``, x ``(B, *input_shape)``; the discriminator gives ``(B,)``.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        input_shape: Sequence[int],
        latent_dim: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.input_shape = check_shapes(input_shape, latent_dim, num_classes)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.conditional = num_classes > 0

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """What the generator makes of noise."""
        return self.generator(z, y)


class WithClass(nn.Module):
    """A net whose input carries its class along: Mirza and Osindero 2014, "Conditional Generative Adversarial Nets".

    arXiv:1411.1784. A one at the class's place among K numbers stands beside the columns ``(B, D)``, or, as K constant maps,
    beside the channels ``(B, C, H, W)``.

    Args:
        net: takes K columns or channels more.
        num_classes: K; 0 leaves the input as it is, and y is not looked at.
        shape: of an example that the net gives, from as many numbers; None leaves what it gives.
        flatten: examples become columns first.

    Raises:
        ValueError: no classes where there should be some.
    """

    def __init__(
        self, net: nn.Module, num_classes: int, shape: Sequence[int] | None = None, flatten: bool = False
    ) -> None:
        super().__init__()
        self.net = net
        self.num_classes = num_classes
        self.flatten = flatten
        self.shape = None if shape is None else tuple(shape)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The net's output."""
        x = x.flatten(1) if self.flatten else x
        if self.num_classes:
            x = concat_conditions(x, one_hot(y, self.num_classes, x.dtype))
        x = self.net(x)
        return x if self.shape is None else x.view(-1, *self.shape)


def check_shapes(input_shape: Sequence[int], latent_dim: int, num_classes: int = 0) -> tuple[int, ...]:
    """The shape of an example as a tuple.

    Raises:
        ValueError: a shape, ``latent_dim`` or ``num_classes`` that cannot be.
    """
    shape = tuple(int(n) for n in input_shape)
    if len(shape) not in (1, 3) or math.prod(shape) < 1 or min(shape) < 1:
        raise ValueError(f"input_shape must be [D] or [C, H, W], each 1 or more, got {list(shape)}")
    check_latent_dim(latent_dim)
    if num_classes < 0 or num_classes == 1:
        raise ValueError(f"a conditional net wants num_classes of 2 or more, got {num_classes}")
    return shape
