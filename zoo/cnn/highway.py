"""Convolutional highway network: Srivastava et al. 2015, "Training Very Deep Networks", arXiv:1507.06228, section 3.3.

The net of 19 layers is "Highway 2" of table 1, as in its authors' Caffe definition; they train it with dropout 0.2.
"""

from collections.abc import Sequence
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks import Activation, ConvNet, Dropout, HighwayLayer, Norm, Style
from zoo.blocks.classifier import check_images
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask


class ConvHighway(ConvNet):
    """Three stages of a 3x3 convolution and highway layers of 3x3 convolutions, with 2x2 pooling between, and a 1x1 convolution.

    Args:
        blocks: Number of highway layers of each of the three stages; (4, 5, 5) is the paper's net of 19 layers.
        gate_bias: Initial bias of the transform gates, below 0.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        width: Channels of the first stage; the others scale with it (32, 80, 128, and 100 for the 1x1 convolution in the paper).
        norm: Normalization after each convolution of a transform: "none" as in the paper, "batch", "layer", "group" or "instance".
        activation: "relu" as in the paper, or another name of :func:`zoo.blocks.build_activation` except "maxout".
        dropout: Probability in [0, 1) of dropping a value of the image, after each pooling, and before the classifier.
        dropout_kind: "element" (single values) or "spatial" (whole maps).

    Shape:
        ``(B, C, H, W)``, 32x32 pixels in the paper -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, or images with another number of channels.
    """

    image_size = 32

    def __init__(
        self,
        blocks: Sequence[int] = (4, 5, 5),
        gate_bias: float = -2.0,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 32,
        norm: Norm = "none",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
    ) -> None:
        super().__init__()
        if len(blocks) != 3 or min(blocks) < 0:
            raise ValueError(f"blocks must be three numbers, 0 or more each, got {list(blocks)}")
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        self.in_channels = in_channels
        style = Style(norm, activation, dropout, dropout_kind)
        channels = in_channels
        for i, (count, out) in enumerate(zip(blocks, (width, 5 * width // 2, 4 * width), strict=True), start=1):
            self.add_module(f"dropout{i}", style.build_dropout())
            layers: list[nn.Module] = [_convolution(channels, out, 3, style)]
            for _ in range(count):
                gate = nn.Conv2d(out, out, 3, padding=1, bias=False)
                layers.append(HighwayLayer(_convolution(out, out, 3, style), gate, out, gate_bias))
            self.add_module(f"layer{i}", nn.Sequential(*layers))
            channels = out
        self.num_features = max(1, 25 * width // 8)
        self.layer4 = _convolution(channels, self.num_features, 1, style)
        self.dropout4 = style.build_dropout()
        self.fc = nn.Linear(self.num_features, num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the three stages, finest first: strides 1, 2, 4; the last one is that of the 1x1 convolution."""
        check_images(self, x.shape, self.in_channels)
        maps: list[Tensor] = []
        for i in (1, 2, 3):
            x = self.get_submodule(f"dropout{i}")(x if not maps else F.max_pool2d(x, 2))
            x = self.get_submodule(f"layer{i}")(x)
            maps.append(x)
        return [*maps[:2], self.layer4(x)]

    def layer_groups(self) -> list[list[str]]:
        """Return each stage, with the dropout before it, as a group."""
        stages = [[f"dropout{i}", f"layer{i}"] for i in (1, 2, 3)]
        return [*stages, ["layer4"], ["dropout4", "fc"]]

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout4(self.features(x)[-1].mean(dim=(-2, -1), keepdim=True))  # (B, C, H, W) -> (B, C, 1, 1)
        return self.fc(x.flatten(1))  # (B, C, 1, 1) -> (B, K)


def _convolution(in_channels: int, out_channels: int, size: int, style: Style) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=style.bias)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, style.build_norm(out_channels), style.build_activation())


class ConvHighwayClassifier(ClassificationTask):
    """A :class:`ConvHighway` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        blocks: Sequence[int] = (4, 5, 5),
        gate_bias: float = -2.0,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 32,
        norm: Norm = "none",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dropout_kind: Dropout = "element",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        blocks = list(blocks)  # hyperparameters are what JSON gives back
        net = ConvHighway(
            blocks=blocks,
            gate_bias=gate_bias,
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            norm=norm,
            activation=activation,
            dropout=dropout,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_classes, **task)


register("conv_highway19", ConvHighwayClassifier)
