"""Multi-layer perceptron: Goodfellow, Bengio and Courville 2016, "Deep Learning", chapter 6."""

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from zoo.blocks import (
    Activation,
    Classifier,
    DropoutKind,
    VanillaDropout,
    build_activation,
    expansion,
    flatten_features,
)
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask, RegressionArguments, RegressionTask

Norm = Literal["none", "batch", "layer"]
Skip = Literal["none", "residual", "dense"]


class MLPLayer(nn.Module):
    """One hidden layer: linear, normalization, activation, dropout.

    Shape:
        ``(B, D)`` -> ``(B, W)``.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        activation: Activation,
        pieces: int,
        norm: Norm,
        dropout: float,
        bias: bool = True,
        dropout_kind: DropoutKind = "inverted",
    ) -> None:
        super().__init__()
        units = width * expansion(activation, pieces)
        self.linear = nn.Linear(in_features, units, bias)
        self.norm = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[norm](units)
        self.activation = build_activation(activation, pieces)
        self.dropout = {"inverted": nn.Dropout, "vanilla": VanillaDropout}[dropout_kind](dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.activation(self.norm(self.linear(x))))


class MLP(Classifier):
    """Hidden layers of any widths, and a linear output.

    Args:
        in_features: Number of inputs D; images are flattened.
        num_outputs: Number of outputs K.
        widths: Number of units of each hidden layer; an empty list makes a linear model.
        activation: Activation of the hidden units, see :func:`zoo.blocks.build_activation`: a name, or with arguments
            ``{"name": "leaky_relu", "negative_slope": 0.2}``.
        pieces: Number of linear pieces of a unit, for activation "maxout".
        norm: Normalization between linear map and activation: "none", "batch" or "layer".
        dropout: Probability in [0, 1) of dropping a hidden unit in training.
        skip: Skip connections: "none"; "residual", each layer but the first adds its input to its output (all widths must be
            equal); or "dense", each layer and the output take the input and the outputs of all hidden layers before them.
        bias: Whether the linear maps have a bias.
        output_activation: Activation of the outputs, as for the hidden units but "maxout".
        dropout_kind: "inverted", scaled in training, or "vanilla", scaled in evaluation; see :class:`zoo.blocks.VanillaDropout`.

    Shape:
        ``(B, ...)`` with D numbers an example -> ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, or input that does not have D numbers an example.
    """

    def __init__(
        self,
        in_features: int = 784,
        num_outputs: int = 10,
        widths: Sequence[int] = (512, 512),
        activation: Activation = "relu",
        pieces: int = 2,
        norm: Norm = "none",
        dropout: float = 0.0,
        skip: Skip = "none",
        bias: bool = True,
        output_activation: Activation = "identity",
        dropout_kind: DropoutKind = "inverted",
    ) -> None:
        super().__init__()
        if any(width < 1 for width in widths):
            raise ValueError(f"widths must be 1 or more each, got {list(widths)}")
        for name, value, known in (
            ("norm", norm, ("none", "batch", "layer")),
            ("skip", skip, ("none", "residual", "dense")),
            ("dropout_kind", dropout_kind, ("inverted", "vanilla")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        if skip == "residual" and len(set(widths)) > 1:
            raise ValueError(
                f"skip='residual' adds layers, so all widths must be equal, got {list(widths)}: or skip='dense'"
            )
        if expansion(output_activation) != 1:
            raise ValueError(f"output_activation {output_activation!r} takes several outputs for one: choose another")
        self.in_features = in_features
        self.skip = skip
        layers, size = [], in_features
        for width in widths:
            layers.append(MLPLayer(size, width, activation, pieces, norm, dropout, bias, dropout_kind))
            size = size + width if skip == "dense" else width
        self.layers = nn.ModuleList(layers)
        self.num_features = size
        self.fc = nn.Linear(size, num_outputs, bias)
        self.output_activation = build_activation(output_activation)

    def forward(self, x: Tensor) -> Tensor:
        x = flatten_features(self, x, self.in_features)
        for i, layer in enumerate(self.layers):
            y = layer(x)
            if self.skip == "dense":
                x = torch.cat([x, y], dim=1)  # (B, D) and (B, W) -> (B, D + W)
            else:
                x = x + y if self.skip == "residual" and i else y
        y = self.fc(x)
        return y if isinstance(self.fc, nn.Identity) else self.output_activation(y)  # features are as they are


class MLPClassifier(ClassificationTask):
    """An :class:`MLP` trained as a classifier. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        in_features: int = 784,
        num_classes: int = 10,
        widths: Sequence[int] = (512, 512),
        activation: Activation = "relu",
        pieces: int = 2,
        norm: Norm = "none",
        dropout: float = 0.0,
        skip: Skip = "none",
        bias: bool = True,
        dropout_kind: DropoutKind = "inverted",
        **task: Unpack[ClassificationArguments],
    ) -> None:
        widths = list(widths)  # a hyperparameter is as JSON gives it back
        net = MLP(
            in_features=in_features,
            num_outputs=num_classes,
            widths=widths,
            activation=activation,
            pieces=pieces,
            norm=norm,
            dropout=dropout,
            skip=skip,
            bias=bias,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_classes, **task)


class MLPRegressor(RegressionTask):
    """An :class:`MLP` trained to predict numbers. Arguments: those of the net, then ``**task``.

    With an ``output_activation`` the targets are not standardized: what it gives, such as the numbers in (0, 1) of a sigmoid, is in
    the target's own unit.
    """

    def __init__(
        self,
        in_features: int = 10,
        num_outputs: int = 1,
        widths: Sequence[int] = (64, 64),
        activation: Activation = "relu",
        pieces: int = 2,
        norm: Norm = "none",
        dropout: float = 0.0,
        skip: Skip = "none",
        bias: bool = True,
        output_activation: Activation = "identity",
        dropout_kind: DropoutKind = "inverted",
        **task: Unpack[RegressionArguments],
    ) -> None:
        widths = list(widths)
        net = MLP(
            in_features=in_features,
            num_outputs=num_outputs,
            widths=widths,
            activation=activation,
            pieces=pieces,
            norm=norm,
            dropout=dropout,
            skip=skip,
            bias=bias,
            output_activation=output_activation,
            dropout_kind=dropout_kind,
        )
        super().__init__(net, num_outputs, **task)
        self.standardizes_target = isinstance(net.output_activation, nn.Identity)


register("mlp", MLPClassifier)
register("mlp_maxout", MLPClassifier, activation="maxout")
register("mlp_regression", MLPRegressor)
