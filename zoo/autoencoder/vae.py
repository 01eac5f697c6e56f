"""Variational autoencoders: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114.

Told the class, both encoder and decoder, they are conditional: Sohn et al. 2015, "Learning Structured Output Representation using
Deep Conditional Generative Models".
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
    """A :class:`Coder` whose encoder gives mean and log variance of a code; ``conditional``: both parts are told the class."""

    conditional: bool
    num_classes: int

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the code, ``(B, latent_dim)`` each."""
        mean, log_variance = self.encoder(self.check(x), self._conditions(x, y)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The example that a code stands for."""
        return self.decoder(z, self._conditions(z, y))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The example that the mean of its code stands for."""
        return self.decode(self.encode(x, y)[0], y)

    def _conditions(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        return one_hot(y, self.num_classes, x.dtype) if self.conditional else None


class VAENet(PosteriorCoder):
    """Dense layers down to mean and log variance of a code, and up again from a code.

    Args:
        input_shape: of an example, (C, H, W) or (D,).
        latent_dim: numbers of a code, >= 1.
        widths: units of the encoder's hidden layers; the decoder's are the same, in the opposite order.
        activation: of the hidden units, a name of :func:`zoo.blocks.build_activation`.
        conditional: whether encoder and decoder are told the class.
        num_classes: how many there are, K.

    Shape:
        ``(B, *input_shape)`` -> the same; classes ``(B,)``.

    Raises:
        ValueError: an argument out of its range, an example of another shape, or a class that is not told.
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
        told = num_classes if conditional else 0
        encoder = DenseEncoder(input_shape, 2 * latent_dim, widths, activation, told)
        decoder = DenseDecoder(input_shape, latent_dim, widths, activation, told)
        super().__init__(encoder, decoder, input_shape, latent_dim)
        self.conditional, self.num_classes = conditional, num_classes


class ConvVAENet(PosteriorCoder):
    """Convolutions down to mean and log variance of a code, and up again from a code; any H x W.

    Args:
        input_shape: (C, H, W).
        latent_dim: numbers of a code, >= 1.
        width: channels of the first map; each further one has twice as many.
        depth: number of convolutions; each halves the map.
        activation: after each convolution, see :func:`zoo.blocks.map_activation`.
        norm: "batch", "layer", "group", "instance" or "none".
        conditional, num_classes: see :class:`VAENet`.

    Shape:
        ``(B, C, H, W)`` -> the same; classes ``(B,)``.

    Raises:
        ValueError: as :class:`VAENet`.
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
        style, told = Style(norm, activation), num_classes if conditional else 0
        encoder = ConvEncoder(input_shape, 2 * latent_dim, width, depth, style, told)
        decoder = ConvDecoder(input_shape, latent_dim, width, depth, style, told)
        super().__init__(encoder, decoder, input_shape, latent_dim)
        self.conditional, self.num_classes = conditional, num_classes


class VAE(VariationalTask):
    """:class:`VAENet`, trained by the variational bound. Arguments: those of the net, then ``**task``."""

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
        input_shape, widths = list(input_shape), list(widths)  # hyperparameters are as JSON gives them back
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
    """:class:`ConvVAENet`, trained by the variational bound. Arguments: those of the net, then ``**task``."""

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
