"""A sequence of single layers, then dense layers: the form of AlexNet and VGG."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks.convnet import ConvNet, Features
from zoo.blocks.norm import Style


class Tower(ConvNet):
    """Convolutions and poolings (``features``), then three dense layers (``classifier``), with torchvision's keys.

    A subclass sets ``map_size`` and ``smallest``, and calls :meth:`build`.
    """

    head_name = "classifier.6"
    map_size: ClassVar[int]

    def build(self, layers: list[nn.Module], classifier: list[nn.Module], in_channels: int, style: Style) -> None:
        """Set ``features``, ``dropout`` and ``classifier``.

        Args:
            layers: Layers up to the last pooling.
            classifier: Seven modules from the flattened map to the logits.
            in_channels: Number of channels of the images.
            style: Gives the dropout; of kind "spatial" it acts before the dense layers.
        """
        self.in_channels = in_channels
        maps = [str(i) for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        self.features = Features(self, {str(i): layer for i, layer in enumerate(layers)}, maps)
        dropout = style.build_dropout()
        self.dropout = dropout if style.dropout_kind == "spatial" else nn.Identity()
        self.classifier = nn.Sequential(*classifier)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x)[-1], self.map_size)  # (B, C, h, w) -> (B, C, map_size, map_size)
        return self.classifier(self.dropout(x).flatten(1))  # (B, C map_size map_size) -> (B, K)

    @override
    def dense_layers(self) -> list[nn.Module]:
        return [self.dropout, *self.classifier]


def conv_layers(
    in_channels: int, channels: int, style: Style, kernel: int = 3, stride: int = 1, padding: int = 1
) -> list[nn.Module]:
    """Return a convolution, its norm if there is one, and its activation."""
    norm = [] if style.norm == "none" else [style.build_norm(channels)]
    return [nn.Conv2d(in_channels, channels, kernel, stride, padding), *norm, style.build_activation()]
