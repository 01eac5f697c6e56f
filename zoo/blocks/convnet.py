"""Convolutional classifiers: their feature maps, receptive fields, and their form as a convolution over larger images."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks.classifier import Classifier, check_images
from zoo.blocks.receptive_field import FeatureMap, feature_maps


class ConvNet(Classifier):
    """A net that computes feature maps of an image and classifies the last of them.

    A subclass sets ``in_channels`` and defines ``features``, a method or a module. If the head reads more than the mean of the
    last map, it also sets ``map_size`` and overrides :meth:`dense_layers`.

    Attributes:
        features: Maps an image to the feature maps of the stages, finest first, ``(B, C, H, W)`` each.
        channels_last: Memory format that the convolutions are fastest with.
        image_size: Side of the paper's images, in pixels.
        map_size: Side of the map that the first dense layer reads; None for the mean over a map of any size.
        smallest: Side of the smallest images that leave a map, in pixels.
    """

    channels_last: ClassVar[bool] = True
    image_size: ClassVar[int] = 224
    map_size: ClassVar[int | None] = None
    smallest: ClassVar[int] = 1
    in_channels: int
    features: Callable[[Tensor], list[Tensor]]

    def dense_layers(self) -> list[nn.Module]:
        """Return the layers from the last map, flattened or averaged, to the logits."""
        return [self.get_submodule(self.head_name)]

    def feature_maps(self) -> list[FeatureMap]:
        """Return channels, stride and receptive field of each map of ``features``."""
        return feature_maps(self, self.features, (self.in_channels, self.image_size, self.image_size))

    def receptive_field(self) -> list[int]:
        """Return the receptive field of each map of ``features``: the side, in pixels, of what one value of it depends on."""
        return [feature_map.receptive_field for feature_map in self.feature_maps()]

    def as_convolution(self) -> "FullyConvolutional":
        """Return the same net, sharing its parameters, as a convolution over images of any larger size.

        Example:
            >>> import torch
            >>> from zoo.cnn import LeNet
            >>> net = LeNet()
            >>> net.as_convolution()(torch.zeros(1, 1, 40, 36)).shape
            torch.Size([1, 10, 3, 2])
        """
        return FullyConvolutional(self)


class Features(nn.Sequential):
    """A sequence of layers that returns the outputs of some of them as feature maps.

    Args:
        net: The net that they belong to; images are checked against its ``in_channels`` and ``smallest``.
        layers: Layers by name, input first. The layer after one whose output is returned must not work in place.
        maps: Names of the layers whose outputs are returned.

    Shape:
        ``(B, C, H, W)`` -> a list of maps, finest first.
    """

    def __init__(self, net: ConvNet, layers: dict[str, nn.Module], maps: Iterable[str]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.net, self.in_channels, self.smallest = type(net).__name__, net.in_channels, net.smallest
        self.maps = frozenset(maps)

    @override
    def forward(self, x: Tensor) -> list[Tensor]:
        check_images(self.net, x.shape, self.in_channels, smallest=self.smallest)
        maps = []
        for name, layer in self.named_children():
            x = layer(x)
            if name in self.maps:
                maps.append(x)
        return maps

    @override
    def __getitem__(self, index: Any) -> Any:
        """Return a layer, or for a slice a plain sequence of layers that returns the output of the last."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self.named_children())[index]))
        return super().__getitem__(index)


class FullyConvolutional(nn.Module):
    """A classifier whose dense layers are applied as convolutions: Long et al. 2015, arXiv:1411.4038, section 3.1.

    Each position of the output holds the net's own logits for the window of the image there, except that the window's
    surroundings stand where the net pads with zeros. A net that averages its last map becomes 1x1 convolutions: the mean of the
    output over all positions equals the net's logits for the image.

    Args:
        net: The classifier; its parameters are shared.

    Shape:
        ``(B, C, H, W)`` -> logits ``(B, K, h, w)``.
    """

    def __init__(self, net: ConvNet) -> None:
        super().__init__()
        self.net = net

    @override
    def forward(self, x: Tensor) -> Tensor:
        return slide(self.net, self.net.features(x)[-1])


def slide(net: ConvNet, x: Tensor, pad: bool = False) -> Tensor:
    """Apply the dense layers of a net as convolutions over its last map.

    Args:
        net: The net whose ``dense_layers()`` are applied.
        x: Last map of the net, of any size.
        pad: Whether the map is padded with zeros, so that it keeps its size.

    Shape:
        ``(B, C, h, w)`` -> ``(B, K, h, w)``; without ``pad`` each side is ``map_size - 1`` smaller.
    """
    size = net.map_size or 1
    for layer in net.dense_layers():
        if isinstance(layer, nn.Linear):
            if pad and size > 1:
                before, behind = (size - 1) // 2, size // 2
                x = F.pad(x, (before, behind, before, behind))
            # (K, C size size) -> (K, C, size, size)
            x = F.conv2d(x, layer.weight.unflatten(1, (-1, size, size)), layer.bias)
            size = 1  # the layers after the first read one value a channel
        else:
            x = layer(x)
    return x
