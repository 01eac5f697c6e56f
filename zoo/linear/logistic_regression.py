"""Logistic regression: Bishop 2006, "Pattern Recognition and Machine Learning", section 4.3.2."""

from typing import Any, Literal, Unpack

from torch import Tensor, nn

from zoo.blocks import Classifier, flatten_features
from zoo.registry import register
from zoo.tasks import ClassificationTask, ClassifierArguments


class LogisticRegression(Classifier):
    """One linear layer, whose outputs are the logits of probabilities.

    Args:
        in_features: Number of inputs D; images are flattened.
        num_outputs: Number of logits K: 1 for two classes, in multi-label mode the number of labels.
        bias: Whether the layer has a bias.

    Shape:
        ``(B, ...)`` with D numbers an example -> logits ``(B, K)``.

    Raises:
        ValueError: Input that does not have D numbers an example.
    """

    def __init__(self, in_features: int = 30, num_outputs: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.num_features = in_features
        self.fc = nn.Linear(in_features, num_outputs, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(flatten_features(self, x, self.num_features))


class LogisticRegressionClassifier(ClassificationTask):
    """A :class:`LogisticRegression` trained as a classifier of two classes, or of several labels that do not exclude each other.

    The L2 penalty is part of the loss that is minimized. It is logged apart, as ``train/penalty``, so that ``train/loss`` and
    ``val/loss`` are comparable. (``weight_decay`` is a matter of the optimizer, decoupled for AdamW.)

    Args:
        in_features: Number of inputs D.
        num_classes: 2, or the number of labels in multi-label mode.
        mode: "binary" (one logit) or "multilabel" (one logit a label).
        l2: Factor >= 0 of the penalty, which is ``l2 / 2`` times the sum of squared weights, without the biases, of standardized
            inputs. scikit-learn's ``C`` is ``1 / (N l2)`` for N training examples.
        bias: Whether the layer has a bias.
        task: Arguments of :class:`zoo.ClassificationTask`.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        in_features: int = 30,
        num_classes: int = 2,
        mode: Literal["binary", "multilabel"] = "binary",
        l2: float = 0.0,
        bias: bool = True,
        **task: Unpack[ClassifierArguments],
    ) -> None:
        if mode not in ("binary", "multilabel"):
            raise ValueError(
                f"mode must be binary or multilabel, got {mode!r}: for classes that exclude each other take SoftmaxRegression"
            )
        if l2 < 0:
            raise ValueError(f"l2 must be 0 or above, got {l2}")
        outputs = 1 if mode == "binary" else num_classes
        net = LogisticRegression(in_features=in_features, num_outputs=outputs, bias=bias)
        super().__init__(net, num_classes, mode=mode, **task)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean binary cross-entropy plus the penalty; each of them is logged by itself."""
        loss, means, count = super().training_losses(batch)
        l2 = self.hparams["l2"]
        if not l2:
            return loss, means, count
        penalty = l2 / 2 * self.net.get_parameter("fc.weight").square().sum()
        return loss + penalty, {**means, "penalty": penalty}, count


register("logistic_regression", LogisticRegressionClassifier)
