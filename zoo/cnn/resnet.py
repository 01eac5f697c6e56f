"""ResNet: He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.

Deviations from the paper: in a bottleneck the 3x3 convolution has the stride (torchvision's "v1.5"). Dropout, off by default, is
before the last convolution of a block (Zagoruyko and Komodakis 2016, arXiv:1605.07146, section 2.4).
"""

from typing import ClassVar, Literal, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks import Activation, ConvNet, Dropout, Norm, Style
from zoo.blocks.classifier import check_images
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

Depth = Literal[18, 34, 50, 101, 152]
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # table 1


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (fig. 5, left): conv-norm-relu-conv-norm, add, then relu.

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, width, H / stride, W / stride)``.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module | None, style: Style) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=style.bias)
        self.bn1 = style.build_norm(width)
        self.relu = style.build_activation()
        self.dropout = style.build_dropout()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=style.bias)
        self.bn2 = style.build_norm(width)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(self.dropout(y)))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width, and a shortcut (fig. 5, right).

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, 4 * width, H / stride, W / stride)``.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module | None, style: Style) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=style.bias)
        self.bn1 = style.build_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=style.bias)
        self.bn2 = style.build_norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=style.bias)
        self.bn3 = style.build_norm(4 * width)
        self.relu = style.build_activation()
        self.dropout = style.build_dropout()
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(self.dropout(y)))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(ConvNet):
    """The ImageNet ResNet. State-dict keys, logits and gradients are those of torchvision.

    Args:
        depth: Number of layers: 18, 34, 50, 101 or 152 (table 1).
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        width: Channels of the first stage, 64 in the paper; each stage doubles them.
        norm: Normalization after each convolution: "batch" as in the paper, "layer", "group", "instance" or "none".
        activation: "relu" as in the paper, or another name of :func:`zoo.blocks.build_activation` except "maxout".
        dropout: Probability in [0, 1) of dropping before the last convolution of a block; 0 in the paper.
        dropout_kind: "element" (single values) or "spatial" (whole maps).

    Shape:
        ``(B, C, H, W)`` -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, or images with another number of channels.
    """

    def __init__(
        self,
        depth: Depth = 18,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
    ) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"depth must be one of {', '.join(map(str, STAGES))}, got {depth}")
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        self.in_channels = in_channels
        style = Style(norm, activation, dropout, dropout_kind)
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, padding=3, bias=style.bias)
        self.bn1 = style.build_norm(width)
        self.relu = style.build_activation()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels = width
        for i, blocks in enumerate(STAGES[depth]):
            stride = 1 if i == 0 else 2
            self.add_module(f"layer{i + 1}", _stage(block, channels, width * 2**i, blocks, stride, style))
            channels = width * 2**i * block.expansion
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)
        initialize(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the stem and of the four stages, finest first: strides 2, 4, 8, 16, 32."""
        check_images(self, x.shape, self.in_channels)
        maps = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(maps[0])
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x)[-1], 1)  # (B, C, H, W) -> (B, C, 1, 1)
        return self.fc(x.flatten(1))  # (B, C, 1, 1) -> (B, K)


def _stage(
    block: type[BasicBlock | Bottleneck], channels: int, width: int, blocks: int, stride: int, style: Style
) -> nn.Sequential:
    """Build a stage; its first block has the stride and, where the shape changes, a projection shortcut (option B)."""
    out = width * block.expansion
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=style.bias), style.build_norm(out))
    rest = [block(out, width, 1, None, style) for _ in range(blocks - 1)]
    return nn.Sequential(block(channels, width, stride, shortcut, style), *rest)


def initialize(net: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Initialize convolutions as in He et al. 2015 (arXiv:1502.01852, section 2.2)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")


class ResNetClassifier(ClassificationTask):
    """A :class:`ResNet` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        depth: Depth = 18,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = ResNet(
            depth=depth,
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            norm=norm,
            activation=activation,
            dropout=dropout,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_classes, **task)


for _depth in STAGES:
    register(f"resnet{_depth}", ResNetClassifier, depth=_depth)
