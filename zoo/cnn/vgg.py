"""VGG: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556.

Configurations A, B, D and E of table 1; with ``norm="batch"`` the ``_bn`` nets of torchvision (the paper has no norms). Deviation
from the paper: convolutions are initialized as in He et al. 2015 (the paper initializes A from N(0, 0.01^2), and the deeper nets
from a trained A).
"""

from typing import Literal, Unpack

from torch import nn

from zoo.blocks import Activation, Dropout, Norm, Style, build_dropout
from zoo.blocks.tower import Tower, conv_layers
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

Depth = Literal[11, 13, 16, 19]
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # table 1: A, B, D, E


class VGG(Tower):
    """Five stages of 3x3 convolutions, a 2x2 max pooling at the end of each, and three dense layers (table 1).

    State-dict keys, logits and gradients are those of torchvision.

    Args:
        depth: Number of layers: 11, 13, 16 or 19.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        width: Channels of the first stage, 64 in the paper; those of the others (128, 256, 512, 512), and the 4096 hidden units,
            scale with it.
        norm: Normalization after each convolution: "none" as in the paper, "batch", "layer", "group" or "instance".
        activation: "relu" as in the paper, or another name of :func:`zoo.blocks.build_activation` except "maxout".
        dropout: Probability in [0, 1) of dropping after the hidden dense layers, 0.5 in the paper.
        dropout_kind: "element" (single values) or "spatial" (also whole maps, before the first dense layer).

    Shape:
        ``(B, C, H, W)`` with H, W >= 32 -> logits ``(B, K)``. The images of the paper are 224x224; the maps of others are averaged
        to its 7x7 values.

    Raises:
        ValueError: An argument out of its range, or images that are too small or have another number of channels.
    """

    map_size, smallest = 7, 32

    def __init__(
        self,
        depth: Depth = 16,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        norm: Norm = "none",
        activation: Activation = "relu",
        dropout: float = 0.5,
        dropout_kind: Dropout = "element",
    ) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"depth must be one of {', '.join(map(str, STAGES))}, got {depth}")
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        style = Style(norm, activation, dropout, dropout_kind)
        layers: list[nn.Module] = []
        channels = in_channels
        for i, convs in enumerate(STAGES[depth]):
            out = width * 2 ** min(i, 3)
            for _ in range(convs):
                layers += conv_layers(channels, out, style)
                channels = out
            layers.append(nn.MaxPool2d(2, 2))
        self.num_features = 64 * width
        classifier = [
            nn.Linear(channels * 7 * 7, self.num_features),
            style.build_activation(),
            build_dropout(dropout),
            nn.Linear(self.num_features, self.num_features),
            style.build_activation(),
            build_dropout(dropout),
            nn.Linear(self.num_features, num_classes),
        ]
        self.build(layers, classifier, in_channels, style)
        _initialize(self)


def _initialize(net: nn.Module) -> None:
    """Initialize convolutions as in He et al. 2015 (arXiv:1502.01852, eq. 10, fan-out), dense layers from N(0, 0.01^2)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class VGGClassifier(ClassificationTask):
    """A :class:`VGG` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        depth: Depth = 16,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        norm: Norm = "none",
        activation: Activation = "relu",
        dropout: float = 0.5,
        dropout_kind: Dropout = "element",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = VGG(
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
    register(f"vgg{_depth}", VGGClassifier, depth=_depth)
    register(f"vgg{_depth}_bn", VGGClassifier, depth=_depth, norm="batch")
