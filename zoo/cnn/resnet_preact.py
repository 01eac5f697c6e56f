"""Pre-activation ResNet: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027.

The CIFAR nets of the paper. Deviation: in a bottleneck the 3x3 convolution has the stride. Dropout, off by default, is before the
last convolution of a unit (Zagoruyko and Komodakis 2016, arXiv:1605.07146, section 2.4).
"""

from typing import Literal, Unpack

from torch import Tensor, nn

from zoo.blocks import Activation, ConvNet, Dropout, Norm, Style
from zoo.blocks.classifier import check_images
from zoo.cnn.resnet import initialize
from zoo.cnn.resnet_cifar import pad_shortcut
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

Kind = Literal["basic", "bottleneck"]


class PreActUnit(nn.Module):
    """x + F(x), with norm and activation before each convolution of F and nothing after the sum (fig. 1b, fig. 4e).

    Where the number of channels changes, the shortcut of a bottleneck is a 1x1 convolution of the activated input; that of a basic
    unit has no parameters (option A).

    Args:
        in_channels: Number of channels of x.
        width: Channels of the 3x3 convolutions.
        stride: Stride of the first 3x3 convolution.
        block: "basic", two 3x3 convolutions; or "bottleneck", 1x1, 3x3, and 1x1 up to four times the width.
        first: Whether it is the unit after the stem, whose first norm and activation are before both paths (the paper's appendix).
        style: Norm, activation and dropout.

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, out_channels, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, in_channels: int, width: int, stride: int, block: Kind, first: bool, style: Style) -> None:
        super().__init__()
        self.stride, self.out_channels = stride, width if block == "basic" else 4 * width
        if block == "basic":
            shapes = [(in_channels, width, 3, stride), (width, width, 3, 1)]
        else:
            shapes = [(in_channels, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        self.norms = nn.ModuleList([style.build_norm(channels) for channels, *_ in shapes])
        self.convs = nn.ModuleList(
            [nn.Conv2d(c, out, k, s, padding=k // 2, bias=style.bias) for c, out, k, s in shapes]
        )
        self.activation, self.dropout = _activation(style), style.build_dropout()
        self.shortcut = None
        if block == "bottleneck" and in_channels != self.out_channels:
            self.shortcut = nn.Conv2d(in_channels, self.out_channels, 1, stride, bias=style.bias)
        self.shared = first or self.shortcut is not None  # whether the shortcut takes the activated input, too

    def forward(self, x: Tensor) -> Tensor:
        """Return x + F(x)."""
        y = self.activation(self.norms[0](x))
        x = y if self.shared else x
        for convolution, norm in zip(self.convs[:-1], self.norms[1:], strict=True):
            y = self.activation(norm(convolution(y)))
        y = self.convs[-1](self.dropout(y))
        return y + (pad_shortcut(x, self.stride, self.out_channels) if self.shortcut is None else self.shortcut(x))


class PreActResNet(ConvNet):
    """A 3x3 stem and three stages of n units; the trunk is an identity from the first sum to the last.

    Args:
        depth: Number of layers: 6n + 2 with basic units (110 in the paper), 9n + 2 with bottlenecks (164 and 1001).
        block: Kind of the units, "basic" or "bottleneck".
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        width: Channels of the 3x3 convolutions of the first stage, 16 in the paper; each stage doubles them.
        norm, activation, dropout, dropout_kind: See :class:`~zoo.cnn.ResNet`.

    Shape:
        ``(B, C, H, W)``, 32x32 pixels in the paper -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, a depth that is no such number, or images with another number of channels.
    """

    image_size = 32

    def __init__(
        self,
        depth: int = 164,
        block: Kind = "bottleneck",
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
    ) -> None:
        super().__init__()
        if block not in ("basic", "bottleneck"):
            raise ValueError(f"block must be 'basic' or 'bottleneck', got {block!r}")
        layers = 6 if block == "basic" else 9
        if depth < layers + 2 or (depth - 2) % layers:
            examples = ", ".join(str(layers * n + 2) for n in range(1, 5))
            raise ValueError(f"depth of {block} units must be {layers}n + 2 ({examples} ...), got {depth}")
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        self.in_channels = in_channels
        style = Style(norm, activation, dropout, dropout_kind)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=style.bias)
        channels = width
        for i in range(3):
            units = []
            for j in range((depth - 2) // layers):
                stride = 2 if i and not j else 1
                units.append(PreActUnit(channels, width * 2**i, stride, block, not i and not j, style))
                channels = units[-1].out_channels
            self.add_module(f"layer{i + 1}", nn.Sequential(*units))
        self.norm, self.activation = style.build_norm(channels), _activation(style)
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)
        initialize(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the three stages, finest first: strides 1, 2, 4; only the last is normed and activated."""
        check_images(self, x.shape, self.in_channels)
        x = self.conv1(x)
        maps = []
        for name in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(name)(x)
            maps.append(x)
        return [*maps[:2], self.activation(self.norm(x))]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)[-1].mean(dim=(-2, -1)))  # (B, C, H, W) -> (B, C) -> (B, K)


def _activation(style: Style) -> nn.Module:
    """An activation that is not in place where its input is the trunk itself, that is, where there is no norm."""
    activation = style.build_activation()
    if isinstance(activation, nn.ReLU):
        activation.inplace = style.norm != "none"
    return activation


class PreActResNetClassifier(ClassificationTask):
    """A :class:`PreActResNet` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        depth: int = 164,
        block: Kind = "bottleneck",
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = PreActResNet(
            depth=depth,
            block=block,
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            norm=norm,
            activation=activation,
            dropout=dropout,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_classes, **task)


register("preresnet110", PreActResNetClassifier, depth=110, block="basic")
for _depth in (164, 1001):
    register(f"preresnet{_depth}", PreActResNetClassifier, depth=_depth)
