"""MobileNet: Howard et al. 2017, "MobileNets: Efficient ... Networks for Mobile Vision Applications", arXiv:1704.04861.

Deviation from table 1 as printed: the last depthwise convolution has stride 1, in agreement with its sizes (7x7 in, 7x7 out).
"""

from typing import Unpack

from torch import Tensor, nn

from zoo.blocks import Activation, ConvNet, Dropout, Norm, Style
from zoo.blocks.classifier import check_images
from zoo.cnn.resnet import initialize
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

# table 1: output channels and stride of each depthwise-separable block
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class DepthwiseSeparable(nn.Module):
    """A 3x3 convolution of each channel by itself, and a 1x1 one across channels, each with norm and activation (fig. 3).

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, out_channels, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=style.bias)
        self.bn1 = style.build_norm(in_channels)
        self.activation, self.dropout = style.build_activation(), style.build_dropout()
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=style.bias)
        self.bn2 = style.build_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn1(self.conv1(x)))
        return self.activation(self.bn2(self.conv2(self.dropout(x))))


class MobileNet(ConvNet):
    """A 3x3 convolution and 13 depthwise-separable blocks.

    Args:
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        width: Multiplier > 0 of all channels, alpha in the paper: 1, 0.75, 0.5, 0.25 in table 6; a layer has at least one.
        norm: Normalization after each convolution: "batch" as in the paper, "layer", "group", "instance" or "none".
        activation: "relu" as in the paper, or another name of :func:`zoo.blocks.build_activation` except "maxout".
        dropout: Probability in [0, 1) of dropping before the 1x1 convolution of a block; 0 in the paper.
        dropout_kind: "element" (single values) or "spatial" (whole maps).

    Shape:
        ``(B, C, H, W)`` -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, or images with another number of channels.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
    ) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width multiplies the channels and must be above 0, got {width}")
        self.in_channels = in_channels
        style = Style(norm, activation, dropout, dropout_kind)
        channels = max(1, int(32 * width))
        self.conv1 = nn.Conv2d(in_channels, channels, 3, 2, padding=1, bias=style.bias)
        self.bn1 = style.build_norm(channels)
        self.activation = style.build_activation()
        blocks = []
        for full_width, stride in BLOCKS:
            out = max(1, int(full_width * width))
            blocks.append(DepthwiseSeparable(channels, out, stride, style))
            channels = out
        self.blocks = nn.ModuleList(blocks)
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)
        initialize(self, "fan_in")  # torch's fan-out of a depthwise convolution ignores its groups

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the last map of each size, finest first: strides 2, 4, 8, 16, 32."""
        check_images(self, x.shape, self.in_channels)
        x = self.activation(self.bn1(self.conv1(x)))
        maps = []
        for block, (_, stride) in zip(self.blocks, BLOCKS, strict=True):
            if stride == 2:
                maps.append(x)
            x = block(x)
        return [*maps, x]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)[-1].mean(dim=(-2, -1)))  # (B, C, H, W) -> (B, C) -> (B, K)


class MobileNetClassifier(ClassificationTask):
    """A :class:`MobileNet` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = MobileNet(
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            norm=norm,
            activation=activation,
            dropout=dropout,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_classes, **task)


register("mobilenet_v1", MobileNetClassifier)
for _percent in (75, 50, 25):
    register(f"mobilenet_v1_{_percent}", MobileNetClassifier, width=_percent / 100)
