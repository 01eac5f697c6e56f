"""GoogLeNet: Szegedy et al. 2014, "Going Deeper with Convolutions", arXiv:1409.4842.

Deviations from the paper: by default those of torchvision, whose weights were trained with them: batch norm after each convolution,
3x3 instead of 5x5 in the third branch, dropout 0.2 before the last layer; ``googlenet_published`` has none of these. Always, the
fourth max pooling is 2x2, an auxiliary head averages its map to 4x4 cells of any size (the paper: 5x5 windows of a 14x14 map), and
there is no local response normalization. Convolutions are initialized as in He et al. 2015 with the fan-in, dense layers by torch's
default (the paper does not tell; torchvision draws both from N(0, 0.01^2), and announces to change that). The pretrained net of
torchvision takes images standardized with mean 0.5 and standard deviation 0.5 in each channel (its ``transform_input``).
"""

from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks import Activation, ConvNet, Norm, Style
from zoo.blocks.classifier import check_images
from zoo.cnn.resnet import initialize
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

Module = Literal["reduced", "naive"]
# table 1: 1x1; 1x1 before 3x3, 3x3; 1x1 before 5x5, 5x5; 1x1 after the pooling
CHANNELS = {
    3: {"a": (64, 96, 128, 16, 32, 32), "b": (128, 128, 192, 32, 96, 64)},
    4: {
        "a": (192, 96, 208, 16, 48, 64),
        "b": (160, 112, 224, 24, 64, 64),
        "c": (128, 128, 256, 24, 64, 64),
        "d": (112, 144, 288, 32, 64, 64),
        "e": (256, 160, 320, 32, 128, 128),
    },
    5: {"a": (256, 160, 320, 32, 128, 128), "b": (384, 192, 384, 48, 128, 128)},
}
MAPS = ("conv1", "conv3", "inception3b", "inception4e", "inception5b")  # the last layer of each size


class ConvUnit(nn.Module):
    """A padded convolution, a norm and an activation.

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, out_channels, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, style: Style, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=style.bias)
        self.bn = style.build_norm(out_channels)
        self.activation = style.build_activation()

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(bn(conv(x)))."""
        return self.activation(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches in parallel (fig. 2): 1x1; 3x3; 5x5; max pooling. Their maps are concatenated.

    Args:
        in_channels: Number of input channels C.
        channels: A row of table 1.
        module: "reduced" (fig. 2b), or "naive" (fig. 2a): without the 1x1 convolutions before 3x3 and 5x5 and after the pooling,
            whose output has all C channels.
        kernel: Kernel size of the third branch: 5, in torchvision 3.
        style: Norm and activation.

    Shape:
        ``(B, C, H, W)`` -> ``(B, out_channels, H, W)``.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], module: Module, kernel: int, style: Style) -> None:
        super().__init__()
        one, before3, three, before5, five, after = channels
        pool = nn.MaxPool2d(3, 1, padding=1)
        self.branch1 = ConvUnit(in_channels, one, 1, style)
        if module == "naive":
            after = in_channels
            self.branch2: nn.Module = ConvUnit(in_channels, three, 3, style)
            self.branch3: nn.Module = ConvUnit(in_channels, five, kernel, style)
            self.branch4: nn.Module = pool
        else:
            self.branch2 = nn.Sequential(ConvUnit(in_channels, before3, 1, style), ConvUnit(before3, three, 3, style))
            self.branch3 = nn.Sequential(
                ConvUnit(in_channels, before5, 1, style), ConvUnit(before5, five, kernel, style)
            )
            self.branch4 = nn.Sequential(pool, ConvUnit(in_channels, after, 1, style))
        self.out_channels = one + three + five + after

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class AuxiliaryHead(nn.Module):
    """A classifier of an intermediate map: 4x4 means, a 1x1 convolution, two dense layers (section 5).

    Shape:
        ``(B, in_channels, H, W)`` -> logits ``(B, K)``.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int, dropout: float, style: Style) -> None:
        super().__init__()
        self.conv = ConvUnit(in_channels, 2 * width, 1, style)
        self.fc1 = nn.Linear(2 * width * 4 * 4, 16 * width)
        self.activation, self.dropout = style.build_activation(), nn.Dropout(dropout)
        self.fc2 = nn.Linear(16 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)  # (B, C, H, W) -> (B, 128, 4, 4) -> (B, 2048)
        return self.fc2(self.dropout(self.activation(self.fc1(x))))


class GoogLeNet(ConvNet):
    """A stem, nine inception modules and, in training, two auxiliary heads (fig. 3).

    By default state-dict keys, logits and gradients are those of torchvision.

    Args:
        module: Inception module: "reduced" (fig. 2b) or "naive" (fig. 2a, whose pooling widens the net from module to module).
        branch5x5: Whether the third branch has 5x5 kernels, as in the paper, instead of 3x3, as in torchvision.
        aux_logits: Whether there are auxiliary heads.
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        width: Channels of the first convolution, 64 in the paper; all others scale with it.
        norm, activation: See :class:`~zoo.cnn.ResNet`; the paper has no norm after its convolutions.
        dropout: Probability in [0, 1) of dropping before the last layer: 0.4 in the paper, 0.2 in torchvision.
        dropout_aux: Probability in [0, 1) of dropping in the auxiliary heads, 0.7 in the paper.

    Shape:
        ``(B, C, H, W)``, 15x15 pixels or more -> logits ``(B, K)``. In training with auxiliary heads: (logits, [logits of the
        first head, of the second]).

    Raises:
        ValueError: An argument out of its range, or images that are too small or have another number of channels.
    """

    smallest = 15

    def __init__(
        self,
        module: Module = "reduced",
        branch5x5: bool = False,
        aux_logits: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
    ) -> None:
        super().__init__()
        if module not in ("reduced", "naive"):
            raise ValueError(f"module must be 'reduced' or 'naive', got {module!r}")
        if width < 4:
            raise ValueError(f"width must be 4 or more, got {width}")
        for name, p in (("dropout", dropout), ("dropout_aux", dropout_aux)):
            if not 0 <= p < 1:
                raise ValueError(f"{name} is a probability in [0, 1), got {p}")
        self.in_channels = in_channels
        style = Style(norm, activation, norm_eps=1e-3)
        self.conv1 = ConvUnit(in_channels, width, 7, style, stride=2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvUnit(width, width, 1, style)
        self.conv3 = ConvUnit(width, 3 * width, 3, style)
        channels, out = 3 * width, {}
        for stage, rows in CHANNELS.items():
            self.add_module(f"maxpool{stage - 1}", nn.MaxPool2d(2 if stage == 5 else 3, 2, ceil_mode=True))
            for letter, row in rows.items():
                block = Inception(channels, tuple(c * width // 64 for c in row), module, 5 if branch5x5 else 3, style)
                self.add_module(f"inception{stage}{letter}", block)
                channels = out[f"{stage}{letter}"] = block.out_channels
        self.aux1 = AuxiliaryHead(out["4a"], num_classes, width, dropout_aux, style) if aux_logits else None
        self.aux2 = AuxiliaryHead(out["4d"], num_classes, width, dropout_aux, style) if aux_logits else None
        self.num_features = channels
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        initialize(self, "fan_in")

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of conv1, conv3, 3b, 4e and 5b, finest first: strides 2, 4, 8, 16, 32."""
        return self._maps(x, {})[0]

    def _trunk(self) -> list[tuple[str, nn.Module]]:
        """Layers up to the last map, with their names."""
        parts = ("conv", "maxpool", "inception")
        return [(name, layer) for name, layer in self.named_children() if name.startswith(parts)]

    def _maps(self, x: Tensor, heads: dict[str, nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps, and the logits of auxiliary heads, which are given by the name of the layer that they follow."""
        check_images(self, x.shape, self.in_channels, smallest=self.smallest)
        maps, auxiliary = [], []
        for name, layer in self._trunk():
            x = layer(x)
            if name in MAPS:
                maps.append(x)
            if name in heads:
                auxiliary.append(heads[name](x))
        return maps, auxiliary

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Return the logits; in training also those of the auxiliary heads, unless they are frozen."""
        heads = {"inception4a": self.aux1, "inception4d": self.aux2}
        maps, auxiliary = self._maps(x, {name: h for name, h in heads.items() if h is not None and h.training})
        x = F.adaptive_avg_pool2d(maps[-1], 1).flatten(1)  # (B, C, H, W) -> (B, C)
        logits = self.fc(self.dropout(x))
        return (logits, auxiliary) if auxiliary else logits

    @override
    def dense_layers(self) -> list[nn.Module]:
        return [self.dropout, self.fc]

    def layer_groups(self) -> list[list[str]]:
        """Return the layers by depth; the auxiliary heads belong to the group of the head, since they are trained with it."""
        trunk = [[name] for name, _ in self._trunk()]
        auxiliary = [] if self.aux1 is None else ["aux1", "aux2"]
        return [*trunk, [self.head_name, "dropout", *auxiliary]]

    @override
    def reset_head(self, num_classes: int) -> None:
        """Replace the last layer of each head by a fresh one; for 0 classes, remove the auxiliary heads."""
        super().reset_head(num_classes)
        if num_classes == 0:
            self.aux1 = self.aux2 = None
        for head in (self.aux1, self.aux2):
            if head is not None:
                head.fc2 = nn.Linear(head.fc2.in_features, num_classes, device=head.fc2.weight.device)


class GoogLeNetClassifier(ClassificationTask):
    """A :class:`GoogLeNet` trained as a classifier. Arguments: those of the net, then ``**task``.

    The loss is that of the last layer, plus ``aux_weight`` times that of each auxiliary head.
    """

    def __init__(
        self,
        module: Module = "reduced",
        branch5x5: bool = False,
        aux_logits: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        norm: Norm = "batch",
        activation: Activation = "relu",
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = GoogLeNet(
            module=module,
            branch5x5=branch5x5,
            aux_logits=aux_logits,
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            norm=norm,
            activation=activation,
            dropout=dropout,
            dropout_aux=dropout_aux,
        )
        super().__init__(net, num_classes, **task)


register("googlenet", GoogLeNetClassifier)
register("googlenet_published", GoogLeNetClassifier, branch5x5=True, norm="none", dropout=0.4)
register("googlenet_naive", GoogLeNetClassifier, module="naive", branch5x5=True)
