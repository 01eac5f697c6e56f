"""CIFAR ResNet: He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2.

With ``shortcut="none"`` the plain net of fig. 6: the same layers and parameters without the residual.
"""

from typing import Literal, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks import Activation, ConvNet, Dropout, Norm, Style
from zoo.blocks.classifier import check_images
from zoo.cnn.resnet import initialize
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

DEPTHS = (20, 32, 44, 56, 110)  # table 6; any 6n + 2 can be built


class Block(nn.Module):
    """Two 3x3 convolutions with the shortcut without parameters (option A): every ``stride``-th pixel, new channels are zero.

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, width, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, in_channels: int, width: int, stride: int, residual: bool, style: Style) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=style.bias)
        self.bn1 = style.build_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=style.bias)
        self.bn2 = style.build_norm(width)
        self.activation, self.dropout = style.build_activation(), style.build_dropout()
        self.stride, self.width, self.residual = stride, width, residual

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x)), in the plain net relu(F(x))."""
        y = self.dropout(self.activation(self.bn1(self.conv1(x))))
        y = self.bn2(self.conv2(y))
        return self.activation(y + pad_shortcut(x, self.stride, self.width) if self.residual else y)


def pad_shortcut(x: Tensor, stride: int, channels: int) -> Tensor:
    """Return every ``stride``-th pixel of x between new channels of zeros: the shortcut without parameters (option A).

    Shape:
        ``(B, C, H, W)`` -> ``(B, channels, H / stride, W / stride)``, rounded up.
    """
    new = channels - x.shape[1]
    if stride == 1 and not new:
        return x
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, new // 2, new - new // 2))


class CIFARResNet(ConvNet):
    """A 3x3 stem and three stages of n blocks with 16, 32, 64 channels: 6n + 2 layers.

    Args:
        depth: Number of layers, 6n + 2: 20, 32, 44, 56, 110 in the paper, at least 8.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        width: Channels of the first stage, 16 in the paper; each stage doubles them.
        shortcut: "identity" (the paper's option A) or "none" (the plain net).
        norm, activation, dropout, dropout_kind: See :class:`~zoo.cnn.ResNet`.

    Shape:
        ``(B, C, H, W)``, 32x32 pixels in the paper -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, a depth that is not 6n + 2, or images with another number of channels.
    """

    image_size = 32

    def __init__(
        self,
        depth: int = 20,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        shortcut: Literal["identity", "none"] = "identity",
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110 ...), got {depth}")
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        if shortcut not in ("identity", "none"):
            raise ValueError(f"shortcut must be 'identity' or 'none', got {shortcut!r}")
        self.in_channels = in_channels
        style = Style(norm, activation, dropout, dropout_kind)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=style.bias)
        self.bn1 = style.build_norm(width)
        self.activation = style.build_activation()
        residual, channels = shortcut == "identity", width
        for i in range(3):
            out = width * 2**i
            first = Block(channels, out, 1 if i == 0 else 2, residual, style)
            rest = [Block(out, out, 1, residual, style) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))
            channels = out
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)
        initialize(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the three stages, finest first: strides 1, 2, 4."""
        check_images(self, x.shape, self.in_channels)
        x = self.activation(self.bn1(self.conv1(x)))
        maps = []
        for name in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)[-1].mean(dim=(-2, -1)))  # (B, C, H, W) -> (B, C) -> (B, K)


class CIFARResNetClassifier(ClassificationTask):
    """A :class:`CIFARResNet` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        depth: int = 20,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        shortcut: Literal["identity", "none"] = "identity",
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = CIFARResNet(
            depth=depth,
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            shortcut=shortcut,
            norm=norm,
            activation=activation,
            dropout=dropout,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_classes, **task)


for _depth in DEPTHS:
    register(f"resnet{_depth}", CIFARResNetClassifier, depth=_depth)
    register(f"plain{_depth}", CIFARResNetClassifier, depth=_depth, shortcut="none")
