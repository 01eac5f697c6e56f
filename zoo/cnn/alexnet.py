"""AlexNet: Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 25.

The net is that of torchvision: the single tower of Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
networks", arXiv:1404.5997; the fourth convolution has 256 maps, as in its code (384 in footnote 1). Deviations from the paper of
2012: 64, 192, 384, 256, 256 maps, not 96, 256, 384, 384, 256 in two halves on two GPUs; no local response normalization; images
padded by 2 (the paper's sizes do not fit its 224 pixels); PyTorch's default initialization, not N(0, 0.01^2) and some biases of 1.
"""

from typing import Unpack

from torch import nn

from zoo.blocks import Activation, Dropout, Norm, Style, build_dropout
from zoo.blocks.tower import Tower, conv_layers
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask


class AlexNet(Tower):
    """Five convolutions with three overlapping 3x3 max poolings of stride 2, and three dense layers.

    State-dict keys, logits and gradients are those of torchvision.

    Args:
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        width: Channels of the first convolution, 64 in the paper of 2014; all others, and the 4096 hidden units, scale with it.
        norm: Normalization after each convolution: "none", "batch", "layer", "group" or "instance".
        activation: "relu" as in the paper, or another name of :func:`zoo.blocks.build_activation` except "maxout".
        dropout: Probability in [0, 1) of dropping before the first two dense layers, 0.5 in the paper.
        dropout_kind: "element" (single values) or "spatial" (whole maps, before the first dense layer).

    Shape:
        ``(B, C, H, W)`` with H, W >= 63 -> logits ``(B, K)``. The images of the paper are 224x224; the maps of others are averaged
        to its 6x6 values.

    Raises:
        ValueError: An argument out of its range, or images that are too small or have another number of channels.
    """

    map_size, smallest = 6, 63

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        norm: Norm = "none",
        activation: Activation = "relu",
        dropout: float = 0.5,
        dropout_kind: Dropout = "element",
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        style = Style(norm, activation, dropout, dropout_kind)
        layers = [
            *conv_layers(in_channels, width, style, kernel=11, stride=4, padding=2),
            nn.MaxPool2d(3, 2),
            *conv_layers(width, 3 * width, style, kernel=5, padding=2),
            nn.MaxPool2d(3, 2),
            *conv_layers(3 * width, 6 * width, style),
            *conv_layers(6 * width, 4 * width, style),
            *conv_layers(4 * width, 4 * width, style),
            nn.MaxPool2d(3, 2),
        ]
        self.num_features = 64 * width
        classifier = [
            build_dropout(dropout if dropout_kind == "element" else 0.0),
            nn.Linear(4 * width * 6 * 6, self.num_features),
            style.build_activation(),
            build_dropout(dropout),
            nn.Linear(self.num_features, self.num_features),
            style.build_activation(),
            nn.Linear(self.num_features, num_classes),
        ]
        self.build(layers, classifier, in_channels, style)


class AlexNetClassifier(ClassificationTask):
    """A :class:`AlexNet` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        norm: Norm = "none",
        activation: Activation = "relu",
        dropout: float = 0.5,
        dropout_kind: Dropout = "element",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = AlexNet(
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            norm=norm,
            activation=activation,
            dropout=dropout,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_classes, **task)


register("alexnet", AlexNetClassifier)
