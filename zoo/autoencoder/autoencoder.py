"""Autoencoders: Hinton and Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks".

Without hidden layers an autoencoder is linear: the plane that it learns is that of principal component analysis (Baldi and Hornik
1989). With a bottleneck of one binary number and no hidden layers its two outputs are the centers of 2-means.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Unpack

from torch import Tensor, nn

from zoo.autoencoder.coders import (
    Coder,
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    DenseEncoder,
)
from zoo.blocks import Activation, Norm, Style, build_activation
from zoo.blocks.generative import check_latent_dim
from zoo.registry import register
from zoo.tasks import ReconstructionArguments, ReconstructionTask

Bottleneck = Literal["identity", "threshold", "stochastic_binary"]
_BOTTLENECKS = ("identity", "threshold", "stochastic_binary")


class PlainCoder(Coder):
    """A :class:`Coder` whose codes are numbers that go through a ``bottleneck``."""

    bottleneck: nn.Module

    def encode(self, x: Tensor) -> Tensor:
        """The code, ``(B, latent_dim)``."""
        return self.bottleneck(self.encoder(self.check(x)))

    def decode(self, z: Tensor) -> Tensor:
        """The example that a code stands for."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """The example, coded and decoded."""
        return self.decode(self.encode(x))


class AutoencoderNet(PlainCoder):
    """Dense layers down to a code, and up again.

    Args:
        input_shape: of an example, (C, H, W) or (D,).
        latent_dim: numbers of a code, >= 1.
        widths: units of the encoder's hidden layers; the decoder's are the same, in the opposite order; none makes it linear.
        activation: of the hidden units, a name of :func:`zoo.blocks.build_activation`.
        bottleneck: "identity"; or a code of zeros and ones: "threshold", 1 from 0 upward, or "stochastic_binary", drawn in
            training. Their gradient goes straight through (arXiv:1308.3432).

    Shape:
        ``(B, *input_shape)`` -> the same.

    Raises:
        ValueError: an argument out of its range, or an example of another shape.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 32,
        widths: Sequence[int] = (256, 128),
        activation: Activation = "relu",
        bottleneck: Bottleneck = "identity",
    ) -> None:
        check_latent_dim(latent_dim)
        encoder = DenseEncoder(input_shape, latent_dim, widths, activation)
        decoder = DenseDecoder(input_shape, latent_dim, widths, activation)
        super().__init__(encoder, decoder, input_shape, latent_dim)
        self.bottleneck = build_bottleneck(bottleneck)


class ConvAutoencoderNet(PlainCoder):
    """Convolutions down to a code, and up again; any H x W.

    Args:
        input_shape: (C, H, W).
        latent_dim: numbers of a code, >= 1.
        width: channels of the first map; each further one has twice as many.
        depth: number of convolutions; each halves the map.
        activation: after each convolution, see :func:`zoo.blocks.map_activation`.
        norm: "batch", "layer", "group", "instance" or "none".
        bottleneck: see :class:`AutoencoderNet`.

    Shape:
        ``(B, C, H, W)`` -> the same.

    Raises:
        ValueError: an argument out of its range, or an image of another shape.
    """

    channels_last: ClassVar[bool] = True

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 32,
        width: int = 32,
        depth: int = 2,
        activation: Activation = "relu",
        norm: Norm = "batch",
        bottleneck: Bottleneck = "identity",
    ) -> None:
        check_latent_dim(latent_dim)
        style = Style(norm, activation)
        encoder = ConvEncoder(input_shape, latent_dim, width, depth, style)
        decoder = ConvDecoder(input_shape, latent_dim, width, depth, style)
        super().__init__(encoder, decoder, input_shape, latent_dim)
        self.bottleneck = build_bottleneck(bottleneck)


def build_bottleneck(name: str) -> nn.Module:
    """What a code goes through."""
    if name not in _BOTTLENECKS:
        raise ValueError(f"bottleneck must be one of {', '.join(_BOTTLENECKS)}, got {name!r}")
    return build_activation(name)


class Autoencoder(ReconstructionTask):
    """:class:`AutoencoderNet`, trained to reconstruct. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 32,
        widths: Sequence[int] = (256, 128),
        activation: Activation = "relu",
        bottleneck: Bottleneck = "identity",
        **task: Unpack[ReconstructionArguments],
    ) -> None:
        input_shape, widths = list(input_shape), list(widths)  # hyperparameters are as JSON gives them back
        super().__init__(
            AutoencoderNet(
                input_shape=input_shape,
                latent_dim=latent_dim,
                widths=widths,
                activation=activation,
                bottleneck=bottleneck,
            ),
            **task,
        )


class ConvAutoencoder(ReconstructionTask):
    """:class:`ConvAutoencoderNet`, trained to reconstruct. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 32,
        width: int = 32,
        depth: int = 2,
        activation: Activation = "relu",
        norm: Norm = "batch",
        bottleneck: Bottleneck = "identity",
        **task: Unpack[ReconstructionArguments],
    ) -> None:
        input_shape = list(input_shape)
        super().__init__(
            ConvAutoencoderNet(
                input_shape=input_shape,
                latent_dim=latent_dim,
                width=width,
                depth=depth,
                activation=activation,
                norm=norm,
                bottleneck=bottleneck,
            ),
            **task,
        )


register("autoencoder_linear", Autoencoder, widths=[])
register("autoencoder_mlp", Autoencoder, output="sigmoid")
register("autoencoder_conv", ConvAutoencoder, output="sigmoid")
register("autoencoder_denoising", Autoencoder, output="sigmoid", corruption="masking")
