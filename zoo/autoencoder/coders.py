"""Encoders and decoders, dense and convolutional, with or without conditions such as the class of an example."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoo.blocks import Activation, Style, build_activation, expansion
from zoo.blocks.generative import concat_conditions


class Coder(nn.Module):
    """An encoder and a decoder.

    Args:
        encoder: ``(B, *input_shape)`` and conditions ``(B, K)`` or None -> ``(B, ...)``.
        decoder: ``(B, latent_dim)`` and conditions -> ``(B, *input_shape)``.
        input_shape: Shape of an example, (C, H, W) or (D,).
        latent_dim: Number of values of a code, >= 1.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, input_shape: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.input_shape, self.latent_dim = tuple(input_shape), latent_dim

    def layer_groups(self) -> list[list[str]]:
        """Return two groups: the encoder; the decoder and all other parameters, such as a learned deviation."""
        rest = [name for name, _ in self.named_children() if name != "encoder"]
        return [["encoder"], [*rest, *(name for name, _ in self.named_parameters(recurse=False))]]

    def check(self, x: Tensor) -> Tensor:
        """Return the batch, after a check of its shape.

        Raises:
            ValueError: The examples do not have ``input_shape``.
        """
        if x.shape[1:] != self.input_shape:
            raise ValueError(
                f"{type(self).__name__} was built for examples of shape {self.input_shape}, got {tuple(x.shape)} for a batch: "
                f"set input_shape={list(x.shape[1:])}"
            )
        return x


class DenseEncoder(nn.Module):
    """Hidden layers of any widths, and a linear output.

    Args:
        input_shape: Shape of an example.
        num_outputs: Number of outputs M.
        widths: Number of units of each hidden layer, input first; an empty list makes a linear encoder.
        activation: Activation of the hidden units, a name of :func:`zoo.blocks.build_activation`.
        num_conditions: Number K of conditions of an example.

    Shape:
        ``(B, *input_shape)`` and ``(B, K)`` -> ``(B, M)``.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        widths: Sequence[int],
        activation: Activation,
        num_conditions: int = 0,
    ) -> None:
        super().__init__()
        size = torch.Size(input_shape).numel() + num_conditions
        self.layers = _dense([size, *widths], num_outputs, activation)

    def forward(self, x: Tensor, conditions: Tensor | None = None) -> Tensor:
        return self.layers(concat_conditions(x.flatten(1), conditions))


class DenseDecoder(nn.Module):
    """The mirror image of :class:`DenseEncoder`: ``widths`` are those of the encoder, and used in the opposite order.

    Shape:
        ``(B, latent_dim)`` and ``(B, K)`` -> ``(B, *input_shape)``.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        widths: Sequence[int],
        activation: Activation,
        num_conditions: int = 0,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        sizes = [latent_dim + num_conditions, *reversed(widths)]
        self.layers = _dense(sizes, torch.Size(input_shape).numel(), activation)

    def forward(self, z: Tensor, conditions: Tensor | None = None) -> Tensor:
        return self.layers(concat_conditions(z, conditions)).unflatten(1, self.input_shape)


class ConvEncoder(nn.Module):
    """3x3 convolutions, each of which halves the map (rounded up) and doubles the channels, and a linear output.

    Args:
        input_shape: Shape of an image, (C, H, W), of any size.
        num_outputs: Number of outputs M.
        width: Channels of the first map, >= 1.
        depth: Number of convolutions, >= 1.
        style: Norm and activation after each convolution.
        num_conditions: Number K of conditions of an image; each becomes a constant map.

    Shape:
        ``(B, C, H, W)`` and ``(B, K)`` -> ``(B, M)``.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        width: int,
        depth: int,
        style: Style,
        num_conditions: int = 0,
    ) -> None:
        super().__init__()
        shapes = map_shapes(input_shape, width, depth)
        channels = shapes[0][0] + num_conditions
        layers: list[nn.Module] = []
        for wider, _, _ in shapes[1:]:
            layers += [
                nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=style.bias),
                style.build_norm(wider),
                style.build_activation(),
            ]
            channels = wider
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(torch.Size(shapes[-1]).numel(), num_outputs)

    def forward(self, x: Tensor, conditions: Tensor | None = None) -> Tensor:
        return self.fc(self.features(concat_conditions(x, conditions)).flatten(1))  # (B, C, H, W) -> (B, C H W)


class ConvDecoder(nn.Module):
    """The mirror image of :class:`ConvEncoder`: maps are upsampled to the sizes of the encoder (nearest), then convolved.

    This avoids the checkerboard patterns of strided transposed convolutions (Odena et al. 2016, "Deconvolution and Checkerboard
    Artifacts").

    Shape:
        ``(B, latent_dim)`` and ``(B, K)`` -> ``(B, C, H, W)``.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        width: int,
        depth: int,
        style: Style,
        num_conditions: int = 0,
    ) -> None:
        super().__init__()
        shapes = map_shapes(input_shape, width, depth)[::-1]
        self.shape = shapes[0]
        self.fc = nn.Linear(latent_dim + num_conditions, torch.Size(shapes[0]).numel())
        layers: list[nn.Module] = [style.build_norm(shapes[0][0]), style.build_activation()]
        for (wide, _, _), (narrow, *size) in pairwise(shapes[:-1]):
            layers += [
                nn.Upsample(size=tuple(size)),
                nn.Conv2d(wide, narrow, 3, padding=1, bias=style.bias),
                style.build_norm(narrow),
                style.build_activation(),
            ]
        layers += [nn.Upsample(size=shapes[-1][1:]), nn.Conv2d(shapes[-2][0], shapes[-1][0], 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, conditions: Tensor | None = None) -> Tensor:
        return self.layers(
            self.fc(concat_conditions(z, conditions)).unflatten(1, self.shape)
        )  # (B, C h w) -> (B, C, h, w)


def map_shapes(input_shape: Sequence[int], width: int, depth: int) -> list[tuple[int, int, int]]:
    """Return the shapes (C, H, W) of the image and of each map of a :class:`ConvEncoder`.

    Raises:
        ValueError: ``input_shape`` is not that of an image, or there is no convolution or channel.

    Example:
        >>> map_shapes((1, 9, 8), width=4, depth=2)
        [(1, 9, 8), (4, 5, 4), (8, 3, 2)]
    """
    if len(input_shape) != 3:
        raise ValueError(
            f"input_shape must be (C, H, W) of an image, got {list(input_shape)}: for a table, take a dense net"
        )
    if width < 1 or depth < 1:
        raise ValueError(f"width and depth must be 1 or more, got {width} and {depth}")
    channels, height, columns = input_shape
    shapes = [(channels, height, columns)]
    for i in range(depth):
        shapes.append((width * 2**i, (shapes[-1][1] + 1) // 2, (shapes[-1][2] + 1) // 2))
    return shapes


def _dense(sizes: Sequence[int], num_outputs: int, activation: Activation) -> nn.Sequential:
    """Linear layers with activations between them."""
    if any(size < 1 for size in sizes):
        raise ValueError(f"widths must be 1 or more each, got {list(sizes[1:])}")
    layers: list[nn.Module] = []
    for size, next_size in pairwise(sizes):
        layers += [nn.Linear(size, next_size * expansion(activation)), build_activation(activation)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_outputs))
