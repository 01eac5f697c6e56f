"""A generator and its discriminator: what every generative adversarial net consists of."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from zoo.blocks.generative import check_latent_dim, concat_conditions, one_hot


class Adversaries(nn.Module):
    """A generator, its discriminator, and the sizes of what they take. Calling it calls the generator.

    Args:
        generator: ``(z, y)`` -> examples; y is None where ``num_classes`` is 0.
        discriminator: ``(x, y)`` -> one logit an example, large where it looks real.
        input_shape: Shape of an example, [D] or [C, H, W].
        latent_dim: Size of the noise of an example, >= 1.
        num_classes: Number of classes that both are conditioned on; 0 for none.

    Shape:
        z ``(B, latent_dim)``, y int64 ``(B,)``, x ``(B, *input_shape)``; the discriminator gives ``(B,)``.

    Raises:
        ValueError: An argument out of its range.
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
        return self.generator(z, y)


class WithClass(nn.Module):
    """A net conditioned on a class: Mirza and Osindero 2014, "Conditional Generative Adversarial Nets", arXiv:1411.1784.

    The one-hot code of the class is appended to the columns ``(B, D)`` or, as K constant maps, to the channels
    ``(B, C, H, W)`` of the input.

    Args:
        net: A net whose input has K columns or channels more.
        num_classes: Number of classes K; with 0 the input stays as it is and y is ignored.
        shape: Shape that the net's output is given, without the batch; None leaves the output as it is.
        flatten: Whether the input is flattened to columns first.

    Raises:
        ValueError: y is missing where the net is conditional.
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
        x = x.flatten(1) if self.flatten else x
        if self.num_classes:
            x = concat_conditions(x, one_hot(y, self.num_classes, x.dtype))
        x = self.net(x)
        return x if self.shape is None else x.view(-1, *self.shape)


def check_shapes(input_shape: Sequence[int], latent_dim: int, num_classes: int = 0) -> tuple[int, ...]:
    """Check the sizes of generative nets, and return the shape of an example as a tuple.

    Raises:
        ValueError: A shape, ``latent_dim`` or ``num_classes`` out of its range.
    """
    shape = tuple(int(n) for n in input_shape)
    if len(shape) not in (1, 3) or math.prod(shape) < 1 or min(shape) < 1:
        raise ValueError(f"input_shape must be [D] or [C, H, W], each 1 or more, got {list(shape)}")
    check_latent_dim(latent_dim)
    if num_classes < 0 or num_classes == 1:
        raise ValueError(f"num_classes must be 0 (not conditional) or 2 or more, got {num_classes}")
    return shape
