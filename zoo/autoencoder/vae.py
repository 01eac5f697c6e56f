"""Variational autoencoders: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114.

In the conditional form encoder and decoder take the class as an input: Sohn et al. 2015, "Learning Structured Output Representation
using Deep Conditional Generative Models".
"""

from collections.abc import Sequence
from typing import ClassVar, Unpack

from torch import Tensor

from zoo.autoencoder.coders import (
    Coder,
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    DenseEncoder,
)
from zoo.blocks import Activation, Norm, Style
from zoo.blocks.generative import check_latent_dim, one_hot
from zoo.registry import register
from zoo.tasks import VariationalArguments, VariationalTask


class PosteriorCoder(Coder):
    """A :class:`Coder` whose encoder returns the mean and the log variance of a code.

    Attributes:
        conditional: Whether encoder and decoder take the class.
        num_classes: Number of classes K; 0 if it is not conditional.
    """

    conditional: bool
    num_classes: int

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean and the log variance of the codes, ``(B, latent_dim)`` each."""
        mean, log_variance = self.encoder(self.check(x), self._conditions(x, y)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the examples of codes, ``(B, latent_dim)`` -> ``(B, *input_shape)``."""
        return self.decoder(z, self._conditions(z, y))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the reconstruction of examples from the means of their codes."""
        return self.decode(self.encode(x, y)[0], y)

    def _conditions(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        return one_hot(y, self.num_classes, x.dtype) if self.conditional else None


class VAENet(PosteriorCoder):
    """A variational encoder and a decoder of dense layers.

    Args:
        input_shape: Shape of an example, (C, H, W) or (D,).
        latent_dim: Number of values of a code, >= 1.
        widths: Number of units of each hidden layer of the encoder; the decoder has the same in the opposite order.
        activation: Activation of the hidden units, a name of :func:`zoo.blocks.build_activation`.
        conditional: Whether encoder and decoder take the class.
        num_classes: Number of classes K; not used by an unconditional net.

    Shape:
        ``(B, *input_shape)``, if conditional also classes ``(B,)`` -> ``(B, *input_shape)``.

    Raises:
        ValueError: An argument out of its range, examples of another shape, or no classes for a conditional net.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 16,
        widths: Sequence[int] = (512, 256),
        activation: Activation = "relu",
        conditional: bool = False,
        num_classes: int = 10,
    ) -> None:
        check_latent_dim(latent_dim)
        classes = num_classes if conditional else 0
        encoder = DenseEncoder(input_shape, 2 * latent_dim, widths, activation, classes)
        decoder = DenseDecoder(input_shape, latent_dim, widths, activation, classes)
        super().__init__(encoder, decoder, input_shape, latent_dim)
        self.conditional, self.num_classes = conditional, classes


class ConvVAENet(PosteriorCoder):
    """A variational encoder and a decoder of convolutions, for images of any size.

    Args:
        input_shape: Shape of an image, (C, H, W).
        latent_dim: Number of values of a code, >= 1.
        width: Channels of the first map; each further map has twice as many.
        depth: Number of convolutions; each halves the map.
        activation: Activation after each convolution, see :func:`zoo.blocks.map_activation`.
        norm: Normalization after each convolution: "batch", "layer", "group", "instance" or "none".
        conditional, num_classes: See :class:`VAENet`.

    Shape:
        ``(B, C, H, W)``, if conditional also classes ``(B,)`` -> ``(B, C, H, W)``.

    Raises:
        ValueError: As :class:`VAENet`.
    """

    channels_last: ClassVar[bool] = True

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 16,
        width: int = 32,
        depth: int = 2,
        activation: Activation = "relu",
        norm: Norm = "batch",
        conditional: bool = False,
        num_classes: int = 10,
    ) -> None:
        check_latent_dim(latent_dim)
        style, classes = Style(norm, activation), num_classes if conditional else 0
        encoder = ConvEncoder(input_shape, 2 * latent_dim, width, depth, style, classes)
        decoder = ConvDecoder(input_shape, latent_dim, width, depth, style, classes)
        super().__init__(encoder, decoder, input_shape, latent_dim)
        self.conditional, self.num_classes = conditional, classes


class VAE(VariationalTask):
    """A :class:`VAENet` trained by the variational bound. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 16,
        widths: Sequence[int] = (512, 256),
        activation: Activation = "relu",
        conditional: bool = False,
        num_classes: int = 10,
        **task: Unpack[VariationalArguments],
    ) -> None:
        input_shape, widths = list(input_shape), list(widths)  # hyperparameters are what JSON gives back
        super().__init__(
            VAENet(
                input_shape=input_shape,
                latent_dim=latent_dim,
                widths=widths,
                activation=activation,
                conditional=conditional,
                num_classes=num_classes,
            ),
            **task,
        )


class ConvVAE(VariationalTask):
    """A :class:`ConvVAENet` trained by the variational bound. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 16,
        width: int = 32,
        depth: int = 2,
        activation: Activation = "relu",
        norm: Norm = "batch",
        conditional: bool = False,
        num_classes: int = 10,
        **task: Unpack[VariationalArguments],
    ) -> None:
        input_shape = list(input_shape)
        net = ConvVAENet(
            input_shape=input_shape,
            latent_dim=latent_dim,
            width=width,
            depth=depth,
            activation=activation,
            norm=norm,
            conditional=conditional,
            num_classes=num_classes,
        )
        super().__init__(net, **task)


register("vae_mlp", VAE)
register("vae_conv", ConvVAE)
register("cvae_mlp", VAE, conditional=True)
