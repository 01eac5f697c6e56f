"""Softmax regression (multinomial logistic regression): Bishop 2006, "Pattern Recognition and Machine Learning", section 4.3.4."""

from typing import Unpack

from torch import Tensor, nn

from zoo.blocks import Classifier, flatten_features
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask


class SoftmaxRegression(Classifier):
    """One linear layer and a softmax at a temperature: p(k | x) = softmax((W x + b) / T)_k.

    Args:
        in_features: Number of inputs D; images are flattened.
        num_classes: Number of classes K.
        temperature: Temperature T > 0: probabilities are flatter above 1, sharper below.
        bias: Whether there is a b.

    Shape:
        ``(B, ...)`` with D numbers an example -> logits ``(B, K)``.

    Raises:
        ValueError: A temperature that is not above 0, or input that does not have D numbers an example.
    """

    def __init__(
        self, in_features: int = 784, num_classes: int = 10, temperature: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.num_features = in_features
        self.temperature = temperature
        self.fc = nn.Linear(in_features, num_classes, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, divided by the temperature."""
        return self.fc(flatten_features(self, x, self.num_features)) / self.temperature


class SoftmaxRegressionClassifier(ClassificationTask):
    """A :class:`SoftmaxRegression` trained as a classifier. Arguments: those of the net, then ``**task``.

    Example:
        >>> SoftmaxRegressionClassifier(in_features=64, num_classes=10).expected_initial_loss()  # ln 10
        2.302585092994046
    """

    def __init__(
        self,
        in_features: int = 784,
        num_classes: int = 10,
        temperature: float = 1.0,
        bias: bool = True,
        **task: Unpack[ClassificationArguments],
    ) -> None:
        super().__init__(
            SoftmaxRegression(in_features=in_features, num_classes=num_classes, temperature=temperature, bias=bias),
            num_classes,
            **task,
        )


register("softmax_regression", SoftmaxRegressionClassifier)
