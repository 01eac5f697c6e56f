"""DenseNet: Huang et al. 2017, "Densely Connected Convolutional Networks", arXiv:1608.06993.

Deviations from the paper: none. Weights are initialized as in He et al. 2015 with the fan-in, and the classifier's bias with
zeros, as in the authors' code.
"""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks import Activation, ConvNet, Dropout, Features, Norm, Style, build_activation
from zoo.cnn.resnet import initialize
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

# table 1, by depth
BLOCKS = {121: [6, 12, 24, 16], 161: [6, 12, 36, 24], 169: [6, 12, 32, 32], 201: [6, 12, 48, 32]}


class DenseLayer(nn.Module):
    """norm-relu-conv 1x1 to four times the growth rate, norm-relu-conv 3x3 to the growth rate (DenseNet-B, section 3).

    Shape:
        The block's input and the maps of all layers before this one, ``(B, C_i, H, W)``, with ``in_channels`` in total -> new maps
        ``(B, growth_rate, H, W)``.
    """

    def __init__(self, in_channels: int, growth_rate: int, style: Style) -> None:
        super().__init__()
        self.norm1 = style.build_norm(in_channels)
        self.relu1 = style.build_activation()
        self.conv1 = nn.Conv2d(in_channels, 4 * growth_rate, 1, bias=style.bias)
        self.norm2 = style.build_norm(4 * growth_rate)
        self.relu2 = style.build_activation()
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=style.bias)
        self.dropout = style.build_dropout()

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return H([x_0, x_1, ...]), equation 2."""
        y = self.conv1(self.relu1(self.norm1(torch.cat(maps, dim=1))))
        return self.dropout(self.conv2(self.relu2(self.norm2(y))))


class DenseBlock(nn.Module):
    """Dense layers, each of which takes the block's input and the maps of all layers before it (fig. 1).

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, in_channels + layers * growth_rate, H, W)``: the input, then the maps of each layer.
    """

    def __init__(self, layers: int, in_channels: int, growth_rate: int, style: Style) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(in_channels + i * growth_rate, growth_rate, style))

    def forward(self, x: Tensor) -> Tensor:
        """Return [x_0, x_1, ..., x_layers]."""
        maps = [x]
        for layer in self.children():
            maps.append(layer(maps))
        return torch.cat(maps, dim=1)


class Transition(nn.Sequential):
    """A 1x1 convolution to half of the channels, then pooling to half of the side (DenseNet-C with compression 0.5, section 3).

    Shape:
        ``(B, C, H, W)`` -> ``(B, C / 2, H / 2, W / 2)``, rounded down.
    """

    def __init__(self, in_channels: int, style: Style) -> None:
        super().__init__()
        self.norm = style.build_norm(in_channels)
        # not in place: without a norm before it, its input is a map that `features` returns
        self.relu = build_activation(style.activation)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=style.bias)
        self.pool = nn.AvgPool2d(2)


def dense_stages(blocks: list[int], channels: int, growth_rate: int, style: Style) -> tuple[dict[str, nn.Module], int]:
    """Build dense blocks, a transition after each but the last, and a final norm and activation; also return their channels."""
    layers: dict[str, nn.Module] = {}
    for i, count in enumerate(blocks, start=1):
        layers[f"denseblock{i}"] = DenseBlock(count, channels, growth_rate, style)
        channels += count * growth_rate
        if i < len(blocks):
            layers[f"transition{i}"] = Transition(channels, style)
            channels //= 2
    layers[f"norm{len(blocks) + 1}"] = style.build_norm(channels)
    layers[f"relu{len(blocks) + 1}"] = style.build_activation()
    return layers, channels


class DenseNet(ConvNet):
    """The ImageNet DenseNet-BC. State-dict keys, logits and gradients are those of torchvision.

    Args:
        blocks: Number of layers of each of the four dense blocks (table 1); None: 6, 12, 24, 16, as in DenseNet-121.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        growth_rate: Number of maps that each layer adds, k in the paper (48 in DenseNet-161, 32 in the others); the first
            convolution has 2 k.
        norm, activation: See :class:`~zoo.cnn.ResNet`.
        dropout: Probability in [0, 1) of dropping a value that a layer adds; 0 in the paper for ImageNet.
        dropout_kind: "element" (single values) or "spatial" (whole maps).

    Shape:
        ``(B, C, H, W)``, 29x29 pixels or more -> logits ``(B, K)``. ``features`` returns the maps of the stem and of the four
        blocks, with strides 2, 4, 8, 16, 32, the last one normalized.

    Raises:
        ValueError: An argument out of its range, or images that are too small or have another number of channels.
    """

    head_name = "classifier"
    smallest = 29

    def __init__(
        self,
        blocks: list[int] | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
        growth_rate: int = 32,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
    ) -> None:
        super().__init__()
        blocks = BLOCKS[121] if blocks is None else blocks
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"blocks must be four numbers of layers, each 1 or more, got {blocks}")
        if growth_rate < 1:
            raise ValueError(f"growth_rate must be 1 or more, got {growth_rate}")
        self.in_channels = in_channels
        style, k = Style(norm, activation, dropout, dropout_kind), growth_rate
        stem = {
            "conv0": nn.Conv2d(in_channels, 2 * k, 7, 2, padding=3, bias=style.bias),
            "norm0": style.build_norm(2 * k),
            "relu0": style.build_activation(),
            "pool0": nn.MaxPool2d(3, 2, padding=1),
        }
        stages, self.num_features = dense_stages(blocks, 2 * k, k, style)
        maps = ("relu0", "denseblock1", "denseblock2", "denseblock3", "relu5")
        self.features = Features(self, stem | stages, maps)
        self.classifier = nn.Linear(self.num_features, num_classes)
        initialize(self, "fan_in")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x)[-1], 1)  # (B, C, H, W) -> (B, C, 1, 1)
        return self.classifier(x.flatten(1))  # (B, C, 1, 1) -> (B, K)


class DenseNetClassifier(ClassificationTask):
    """A :class:`DenseNet` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        blocks: list[int] | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
        growth_rate: int = 32,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = DenseNet(
            blocks=blocks,
            num_classes=num_classes,
            in_channels=in_channels,
            growth_rate=growth_rate,
            norm=norm,
            activation=activation,
            dropout=dropout,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_classes, **task)


for _depth, _blocks in BLOCKS.items():
    register(f"densenet{_depth}", DenseNetClassifier, blocks=_blocks, growth_rate=48 if _depth == 161 else 32)
