"""CIFAR DenseNet-BC: Huang et al. 2017, "Densely Connected Convolutional Networks", arXiv:1608.06993, sections 3 and 4.

Deviations from the paper: none. Weights are initialized as in He et al. 2015 with the fan-in, and the classifier's bias with
zeros, as in the authors' code.
"""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks import Activation, ConvNet, Dropout, Features, Norm, Style
from zoo.cnn.densenet import dense_stages
from zoo.cnn.resnet import initialize
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

GROWTH_RATES = {100: 12, 250: 24, 190: 40}  # table 2, by depth; any 6n + 4 can be built


class CIFARDenseNet(ConvNet):
    """A 3x3 stem with 2 k channels and three dense blocks of n layers with bottleneck and compression: 6n + 4 layers.

    Args:
        depth: Number of layers, 6n + 4: 100, 190, 250 in the paper, at least 10.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        growth_rate: Number of maps that each layer adds, k in the paper: 12 (depth 100), 40 (190) or 24 (250).
        norm, activation: See :class:`~zoo.cnn.ResNet`.
        dropout: Probability in [0, 1) of dropping a value that a layer adds; 0.2 in the paper where the data are not augmented.
        dropout_kind: "element" (single values) or "spatial" (whole maps).

    Shape:
        ``(B, C, H, W)``, 4x4 pixels or more, 32x32 in the paper -> logits ``(B, K)``. ``features`` returns the maps of the three
        blocks, with strides 1, 2, 4, the last one normalized.

    Raises:
        ValueError: An argument out of its range, a depth that is not 6n + 4, or images that are too small or have another number of
            channels.
    """

    image_size = 32
    head_name = "classifier"
    smallest = 4

    def __init__(
        self,
        depth: int = 100,
        num_classes: int = 10,
        in_channels: int = 3,
        growth_rate: int = 12,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 40, 100 ...), got {depth}")
        if growth_rate < 1:
            raise ValueError(f"growth_rate must be 1 or more, got {growth_rate}")
        self.in_channels = in_channels
        style, k = Style(norm, activation, dropout, dropout_kind), growth_rate
        blocks = [(depth - 4) // 6] * 3
        stem: dict[str, nn.Module] = {"conv0": nn.Conv2d(in_channels, 2 * k, 3, padding=1, bias=style.bias)}
        stages, self.num_features = dense_stages(blocks, 2 * k, k, style)
        self.features = Features(self, stem | stages, ("denseblock1", "denseblock2", "relu4"))
        self.classifier = nn.Linear(self.num_features, num_classes)
        initialize(self, "fan_in")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x)[-1], 1)  # (B, C, H, W) -> (B, C, 1, 1)
        return self.classifier(x.flatten(1))  # (B, C, 1, 1) -> (B, K)


class CIFARDenseNetClassifier(ClassificationTask):
    """A :class:`CIFARDenseNet` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        depth: int = 100,
        num_classes: int = 10,
        in_channels: int = 3,
        growth_rate: int = 12,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = CIFARDenseNet(
            depth=depth,
            num_classes=num_classes,
            in_channels=in_channels,
            growth_rate=growth_rate,
            norm=norm,
            activation=activation,
            dropout=dropout,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_classes, **task)


for _depth, _growth_rate in GROWTH_RATES.items():
    register(f"densenet_bc{_depth}", CIFARDenseNetClassifier, depth=_depth, growth_rate=_growth_rate)
