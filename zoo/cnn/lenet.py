"""LeNet-5: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11).

Deviations from the paper: C3 takes all maps of S2 (table I of the paper omits some), the subsampling layers have no trainable
coefficients, tanh is not scaled, the output is linear (radial basis functions in the paper), and weights are drawn by PyTorch's
default, uniform within 1 / sqrt(fan-in) (2.4 / fan-in in the paper).
"""

from typing import Literal, Unpack

from torch import Tensor, nn

from zoo.blocks import ConvNet
from zoo.blocks.classifier import check_images
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask


class LeNet(ConvNet):
    """Two 5x5 convolutions, each followed by 2x2 pooling, and three dense layers (fig. 2).

    Args:
        num_classes: Number of classes K.
        in_channels: Number of channels C of the image.
        variant: "published" (tanh, average pooling) or "relu" (ReLU, max pooling).
        width: Channels of the first convolution, 6 in the paper; all other sizes scale with it (16, 120, 84 in the paper).

    Shape:
        ``(B, C, 32, 32)`` -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, or images of another shape.
    """

    head_name = "fc3"
    image_size = 32
    map_size = 5

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        variant: Literal["published", "relu"] = "published",
        width: int = 6,
    ) -> None:
        super().__init__()
        if variant not in ("published", "relu"):
            raise ValueError(f"variant must be 'published' or 'relu', got {variant!r}")
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        self.in_channels = in_channels
        maps, self.num_features = 16 * width // 6, 14 * width
        self.activation = nn.Tanh() if variant == "published" else nn.ReLU()
        self.pool = nn.AvgPool2d(2) if variant == "published" else nn.MaxPool2d(2)
        self.conv1 = nn.Conv2d(in_channels, width, 5)  # C1
        self.conv2 = nn.Conv2d(width, maps, 5)  # C3
        self.fc1 = nn.Linear(maps * 5 * 5, 20 * width)  # C5
        self.fc2 = nn.Linear(20 * width, self.num_features)  # F6
        self.fc3 = nn.Linear(self.num_features, num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps after each pooling, S2 and S4: ``(B, 6, 14, 14)`` and ``(B, 16, 5, 5)``."""
        check_images(self, x.shape, self.in_channels)
        s2 = self.pool(self.activation(self.conv1(x)))
        return [s2, self.pool(self.activation(self.conv2(s2)))]

    def forward(self, x: Tensor) -> Tensor:
        check_images(self, x.shape, self.in_channels, 32)
        x = self.features(x)[-1].flatten(1)  # (B, 16, 5, 5) -> (B, 400)
        for layer in self.dense_layers():
            x = layer(x)
        return x

    def dense_layers(self) -> list[nn.Module]:
        """Return C5, F6 and the output layer, with their activations."""
        return [self.fc1, self.activation, self.fc2, self.activation, self.fc3]


class LeNetClassifier(ClassificationTask):
    """A :class:`LeNet` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        variant: Literal["published", "relu"] = "published",
        width: int = 6,
        **task: Unpack[ClassificationArguments],
    ) -> None:
        super().__init__(
            LeNet(num_classes=num_classes, in_channels=in_channels, variant=variant, width=width), num_classes, **task
        )


register("lenet5", LeNetClassifier)
register("lenet5_relu", LeNetClassifier, variant="relu", in_channels=3)
