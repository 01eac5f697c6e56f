"""What every convolutional classifier shares: its maps, what they see, and itself as a convolution over larger images."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks.classifier import Classifier, check_images
from zoo.blocks.receptive_field import FeatureMap, feature_maps


class ConvNet(Classifier):
    """A net that makes maps of an image and classifies the last of them.

    A subclass sets ``in_channels`` and gives ``features``, a method or a module; where the head reads more than the mean of the
    last map, it sets ``map_size`` and defines :meth:`dense_layers`.

    Attributes:
        features: image -> the maps of the stages, finest first: ``(B, C, H, W)`` each.
    """

    channels_last: ClassVar[bool] = True  # in memory: what convolutions are fastest with
    image_size: ClassVar[int] = 224  # side in pixels of the paper's images
    map_size: ClassVar[int | None] = None  # side of the map that the first dense layer reads; None: the mean of any map
    smallest: ClassVar[int] = 1  # side in pixels of the smallest images that leave a map; asked by Features
    in_channels: int
    features: Callable[[Tensor], list[Tensor]]

    def dense_layers(self) -> list[nn.Module]:
        """What leads from the last map, flattened or averaged, to the logits."""
        return [self.get_submodule(self.head_name)]

    def feature_maps(self) -> list[FeatureMap]:
        """Channels, stride and receptive field in pixels of each map of ``features``."""
        return feature_maps(self, self.features, (self.in_channels, self.image_size, self.image_size))

    def receptive_field(self) -> list[int]:
        """Side in pixels of the square of the image that one value of each map of ``features`` depends on."""
        return [found.receptive_field for found in self.feature_maps()]

    def as_convolution(self) -> "FullyConvolutional":
        """The same net, with the same parameters, that slides over images of any larger size.

        Example:
            >>> import torch
            >>> from zoo.cnn import LeNet
            >>> net = LeNet()
            >>> net.as_convolution()(torch.zeros(1, 1, 40, 36)).shape
            torch.Size([1, 10, 3, 2])
        """
        return FullyConvolutional(self)


class Features(nn.Sequential):
    """Layers in a row, and the maps that some of them make.

    Args:
        net: whose layers they are; its ``in_channels`` and ``smallest`` are asked of an image.
        layers: by name, input first. A layer after one that makes a map must not work in place.
        maps: names of those whose output is a map of the net, in the same order.

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
        """A layer; or some of them as a plain sequence, image -> the last one's output."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self.named_children())[index]))
        return super().__getitem__(index)


class FullyConvolutional(nn.Module):
    """A classifier whose dense layers are convolutions: Long et al. 2015, arXiv:1411.4038, section 3.1.

    Each place of the output is what the net itself says of the image there, but that it sees the image beyond where the net
    pads with zeros. A net that averages its last map becomes 1x1 convolutions: the mean of the output over an image is what the
    net says of it.

    Args:
        net: gives the parameters, which stay its own.

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
    """The dense layers of a net as convolutions over a map of any size: what they say at each place of it.

    Args:
        net: whose ``dense_layers()`` they are.
        x: its last map, ``(B, C, h, w)``.
        pad: with zeros, so that the map keeps its size.

    Returns:
        ``(B, K, h, w)``; without ``pad``, ``map_size - 1`` less of each side.
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
