"""Highway network: Srivastava et al. 2015, "Highway Networks", arXiv:1505.00387; "Training Very Deep Networks", arXiv:1507.06228.

The dense nets of section 3.1; the convolutional ones are in ``zoo.cnn``. The plain net with as many parameters is an MLP with 71
units a layer. Deviation from the papers: the initial bias of the gates, which they search for, is a function of the depth.
"""

from typing import Unpack

from torch import Tensor, nn

from zoo.blocks import Activation, Classifier, HighwayLayer, build_activation, expansion, flatten_features
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

GATE_BIAS = {10: -1.0, 20: -2.0, 50: -3.0, 100: -4.0}  # by depth: deeper nets carry more at the start


class Highway(Classifier):
    """A dense layer that sets the width, highway layers, and a linear output.

    Args:
        depth: Number of hidden layers, a plain one and ``depth - 1`` highway layers: 10, 20, 50, 100 in the paper.
        gate_bias: Initial bias of the transform gates, below 0.
        in_features: Number of inputs D; images are flattened.
        num_classes: Number of classes K.
        width: Number of units of each layer, 50 in the paper.
        activation: Activation of the hidden units, a name of :func:`zoo.blocks.build_activation` except "maxout".
        dropout: Probability in [0, 1) of dropping a transformed unit in training.

    Shape:
        ``(B, ...)`` with D numbers an example -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, or input that does not have D numbers an example.
    """

    def __init__(
        self,
        depth: int = 10,
        gate_bias: float = -1.0,
        in_features: int = 784,
        num_classes: int = 10,
        width: int = 50,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("depth", depth), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if expansion(activation) != 1:
            raise ValueError(
                f"activation {activation!r} takes several units for one, and a gate has one: choose another"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        self.in_features = in_features

        def plain(features: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(features, width), build_activation(activation), nn.Dropout(dropout))

        def highway() -> HighwayLayer:
            return HighwayLayer(plain(width), nn.Linear(width, width, bias=False), width, gate_bias)

        self.layers = nn.ModuleList([plain(in_features), *(highway() for _ in range(depth - 1))])
        self.num_features = width
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = flatten_features(self, x, self.in_features)
        for layer in self.layers:
            x = layer(x)
        return self.fc(x)


class HighwayClassifier(ClassificationTask):
    """A :class:`Highway` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        depth: int = 10,
        gate_bias: float = -1.0,
        in_features: int = 784,
        num_classes: int = 10,
        width: int = 50,
        activation: Activation = "relu",
        dropout: float = 0.0,
        **task: Unpack[ClassificationArguments],
    ) -> None:
        net = Highway(
            depth=depth,
            gate_bias=gate_bias,
            in_features=in_features,
            num_classes=num_classes,
            width=width,
            activation=activation,
            dropout=dropout,
        )
        super().__init__(net, num_classes, **task)


for _depth, _bias in GATE_BIAS.items():
    register(f"highway{_depth}", HighwayClassifier, depth=_depth, gate_bias=_bias)
