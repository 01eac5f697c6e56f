"""Autoencoders: Hinton and Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks".

Without hidden layers an autoencoder is linear, and learns the plane of principal component analysis (Baldi and Hornik 1989). With a
binary code of one value in addition, its two outputs are the centers of 2-means.
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
    """A :class:`Coder` with a ``bottleneck`` between encoder and decoder."""

    bottleneck: nn.Module

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes, ``(B, *input_shape)`` -> ``(B, latent_dim)``."""
        return self.bottleneck(self.encoder(self.check(x)))

    def decode(self, z: Tensor) -> Tensor:
        """Return the examples of codes, ``(B, latent_dim)`` -> ``(B, *input_shape)``."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of examples."""
        return self.decode(self.encode(x))


class AutoencoderNet(PlainCoder):
    """An encoder and a decoder of dense layers.

    Args:
        input_shape: Shape of an example, (C, H, W) or (D,).
        latent_dim: Number of values of a code, >= 1.
        widths: Number of units of each hidden layer of the encoder; the decoder has the same in the opposite order. An empty list
            makes the net linear.
        activation: Activation of the hidden units, a name of :func:`zoo.blocks.build_activation`.
        bottleneck: What is done with a code: "identity"; or it is made of zeros and ones, by "threshold" (1 from 0 upward) or
            "stochastic_binary" (drawn at random in training), with straight-through gradients (arXiv:1308.3432).

    Shape:
        ``(B, *input_shape)`` -> the same.

    Raises:
        ValueError: An argument out of its range, or examples of another shape.
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
    """An encoder and a decoder of convolutions, for images of any size.

    Args:
        input_shape: Shape of an image, (C, H, W).
        latent_dim: Number of values of a code, >= 1.
        width: Channels of the first map; each further map has twice as many.
        depth: Number of convolutions; each halves the map.
        activation: Activation after each convolution, see :func:`zoo.blocks.map_activation`.
        norm: Normalization after each convolution: "batch", "layer", "group", "instance" or "none".
        bottleneck: See :class:`AutoencoderNet`.

    Shape:
        ``(B, C, H, W)`` -> the same.

    Raises:
        ValueError: An argument out of its range, or images of another shape.
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


def build_bottleneck(name: Bottleneck) -> nn.Module:
    """Return a fresh bottleneck, by name.

    Raises:
        ValueError: An unknown name.
    """
    if name not in _BOTTLENECKS:
        raise ValueError(f"bottleneck must be one of {', '.join(_BOTTLENECKS)}, got {name!r}")
    return build_activation(name)


class Autoencoder(ReconstructionTask):
    """An :class:`AutoencoderNet` trained to reconstruct its input. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 32,
        widths: Sequence[int] = (256, 128),
        activation: Activation = "relu",
        bottleneck: Bottleneck = "identity",
        **task: Unpack[ReconstructionArguments],
    ) -> None:
        input_shape, widths = list(input_shape), list(widths)  # hyperparameters are what JSON gives back
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
    """A :class:`ConvAutoencoderNet` trained to reconstruct its input. Arguments: those of the net, then ``**task``."""

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
